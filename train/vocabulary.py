"""Vocabularies: what token ids stand for, and text as ids and back.

The first ids are those of the special tokens that a task wants, in the order of
`Special`; a language model of characters wants none.  Text never gives a
special token, whatever it looks like: tasks add them by their ids.
"""

import abc
import dataclasses
import enum
import functools
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np


class Special(enum.Enum):
  """A token that no text holds; the value is how a reader sees it."""

  PAD = '<pad>'
  UNK = '<unk>'
  BOS = '<bos>'
  EOS = '<eos>'
  MASK = '<mask>'
  CLS = '<cls>'


# What stands in the place of text; the other special tokens are beside it.
SHOWN = (Special.UNK, Special.MASK)


def ordered(specials: Sequence[Special]) -> tuple[Special, ...]:
  """Returns special tokens in the order of their ids, each once."""
  return tuple(special for special in Special if special in specials)


class UnknownSymbols(ValueError):
  """A text has symbols that the vocabulary lacks, and it has no <unk>."""

  def __init__(self, symbols: Sequence[str]):
    shown = ' '.join(repr(c) for c in symbols[:8])
    more = ' ...' if len(symbols) > 8 else ''
    super().__init__(
      f'{len(symbols)} characters are not in the vocabulary: {shown}{more}'
    )


@dataclasses.dataclass(frozen=True)
class Vocabulary(abc.ABC):
  """The symbols that token ids stand for; `kind` is the tokenizer's tag."""

  kind: ClassVar[str]
  unit: ClassVar[str]
  # Whether it was trained: then it is saved and never made again.
  learned: ClassVar[bool]

  specials: tuple[Special, ...] = dataclasses.field(default=(), kw_only=True)
  # What classes stand for, where a task has any.
  labels: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

  @property
  @abc.abstractmethod
  def size(self) -> int:
    """Returns the number of ids, special tokens included."""

  @abc.abstractmethod
  def encode(self, text: str) -> np.ndarray:
    """Returns the ids of a text.

    Raises:
      UnknownSymbols: the vocabulary lacks some, and has no <unk>.
    """

  def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns the ids of each text."""
    return [self.encode(text) for text in texts]

  @abc.abstractmethod
  def _join(self, ids: Sequence[int]) -> str:
    """Returns the text of ids among which is no special token."""

  def _glue(self, parts: Sequence[str]) -> str:
    """Returns the text of runs of ids and the special tokens between them."""
    return ''.join(parts)

  @abc.abstractmethod
  def _symbol(self, number: int) -> str:
    """Returns how a reader sees an id that is no special token."""

  @abc.abstractmethod
  def content(self) -> dict[str, Any]:
    """Returns the fields, special tokens apart, as JSON values."""

  def token_bytes(self) -> np.ndarray | None:
    """Returns the bytes of UTF-8 that each id stands for; none if text is lost.

    The sum over the ids of a text is then the length of that text: nothing of
    it is left out, lower-cased or unknown.  Special tokens stand for none.
    """
    return None

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of ids; <unk> and <mask> by name, no other special."""
    first, parts, run = len(self.specials), [], []
    for number in map(int, ids):
      if number >= first:
        run.append(number)
      elif self.specials[number] in SHOWN:
        parts += [self._join(run), self.specials[number].value]
        run = []
    return self._glue([part for part in [*parts, self._join(run)] if part])

  def decode_after(self, before: Iterable[int], ids: Iterable[int]) -> str:
    """Returns what ids add to the text of those before them.

    A space between two words belongs to the second, and a piece that goes on
    with a word is joined to it.
    """
    begun, whole = self.decode(before), self.decode([*before, *ids])
    if whole.startswith(begun):
      return whole[len(begun) :]
    return self.decode(ids)  # bytes before them are no whole character

  def symbols(self, ids: np.ndarray) -> list[str]:
    """Returns each id's symbol."""
    first = len(self.specials)
    return [
      self._symbol(i) if i >= first else self.specials[i].value
      for i in map(int, ids)
    ]

  def id_of(self, special: Special) -> int:
    """Returns the id of a special token, which must be there."""
    return self.specials.index(special)

  @functools.cached_property
  def digest(self) -> str:
    """Returns the sha256 of what `to_json` returns."""
    return hashlib.sha256(json.dumps(self.to_json()).encode()).hexdigest()

  def to_json(self) -> dict[str, Any]:
    """Returns the vocabulary as JSON values; `from_json` reads them."""
    specials = [special.name for special in self.specials]
    about = {'kind': self.kind, 'specials': specials, **self.content()}
    return about | ({'labels': list(self.labels)} if self.labels else {})

  def _narrow(self, ids: np.ndarray) -> np.ndarray:
    """Returns ids in the smallest type that holds all of the vocabulary."""
    limits = {2**8: np.uint8, 2**16: np.uint16}
    fits = [kind for limit, kind in limits.items() if self.size <= limit]
    return ids.astype(fits[0] if fits else np.int32)

  def _after_specials(self, sizes: Sequence[int]) -> np.ndarray:
    """Returns bytes of all ids, 0 for the special tokens."""
    return np.array([0] * len(self.specials) + list(sizes), np.uint32)

  def _unknown(self) -> int | None:
    """Returns the id of <unk>, if there is one."""
    return self.id_of(Special.UNK) if Special.UNK in self.specials else None


def _codes(text: str) -> np.ndarray:
  """Returns the code point of each character."""
  return np.frombuffer(text.encode('utf-32-le'), np.uint32)


@dataclasses.dataclass(frozen=True)
class Characters(Vocabulary):
  """One id a character, in the order of code points."""

  kind: ClassVar[str] = 'char'
  unit: ClassVar[str] = 'char'
  learned: ClassVar[bool] = False

  characters: str

  @property
  def size(self) -> int:
    """Returns the number of ids."""
    return len(self.specials) + len(self.characters)

  def encode(self, text: str) -> np.ndarray:
    """Returns the id of each character."""
    codes = _codes(text)
    known, ids_of = self._table
    # No character has the last code.
    places = np.minimum(codes, known.size - 1)
    missing = ~known[places]
    ids = ids_of[places]
    if missing.any():
      unknown = self._unknown()
      if unknown is None:
        raise UnknownSymbols([chr(c) for c in np.unique(codes[missing])])
      ids[missing] = unknown
    return ids

  @functools.cached_property
  def _table(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns for each code point if it is known, and its id, in few bytes."""
    codes = _codes(self.characters)
    size = int(codes.max()) + 2 if codes.size else 1
    known, ids = np.zeros(size, bool), np.zeros(size, np.int32)
    known[codes] = True
    ids[codes] = np.arange(len(self.specials), self.size)
    return known, self._narrow(ids)

  def token_bytes(self) -> np.ndarray | None:
    """Returns the bytes of each character; none where some may be unknown."""
    if Special.UNK in self.specials:
      return None
    return self._after_specials([len(c.encode()) for c in self.characters])

  def _join(self, ids: Sequence[int]) -> str:
    return ''.join(map(self._symbol, ids))

  def _symbol(self, number: int) -> str:
    return self.characters[number - len(self.specials)]

  def content(self) -> dict[str, Any]:
    """Returns the characters."""
    return {'characters': self.characters}


@dataclasses.dataclass(frozen=True)
class Bytes(Vocabulary):
  """One id a byte of UTF-8: 256 of them, whatever the text."""

  kind: ClassVar[str] = 'byte'
  unit: ClassVar[str] = 'byte'
  learned: ClassVar[bool] = False

  @property
  def size(self) -> int:
    """Returns the number of ids."""
    return len(self.specials) + 256

  def encode(self, text: str) -> np.ndarray:
    """Returns the id of each byte."""
    data = np.frombuffer(text.encode(), np.uint8)
    ids = data.astype(np.uint8 if self.size <= 2**8 else np.uint16)
    return ids + ids.dtype.type(len(self.specials))

  def token_bytes(self) -> np.ndarray | None:
    """Returns a byte each."""
    return self._after_specials([1] * 256)

  def _join(self, ids: Sequence[int]) -> str:
    data = bytes(i - len(self.specials) for i in ids)
    return data.decode(errors='replace')

  def _symbol(self, number: int) -> str:
    byte = number - len(self.specials)
    return chr(byte) if byte < 128 else f'{byte:02x}'

  def content(self) -> dict[str, Any]:
    """Returns nothing: all byte vocabularies are equal."""
    return {}
