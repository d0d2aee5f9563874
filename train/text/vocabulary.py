"""Vocabularies: they encode text as token ids, and decode ids to text.

The first ids are the special tokens that the task needs, in the order of
`Special`; language modelling of characters needs none.  Text is never encoded
as a special token, even if it spells one: tasks add these by their ids.
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
  """A special token, which no text contains; the value is its printed form."""

  PAD = '<pad>'
  UNK = '<unk>'
  BOS = '<bos>'
  EOS = '<eos>'
  MASK = '<mask>'
  CLS = '<cls>'


# Special tokens that replace text, so decoding shows them; others are dropped.
SHOWN = (Special.UNK, Special.MASK)


def in_id_order(specials: Sequence[Special]) -> tuple[Special, ...]:
  """Returns special tokens in the order of their ids, without duplicates."""
  return tuple(special for special in Special if special in specials)


class UnknownSymbols(ValueError):
  """A text has symbols outside of a vocabulary that has no <unk>."""

  def __init__(self, symbols: Sequence[str]):
    shown = ' '.join(repr(c) for c in symbols[:8])
    more = ' ...' if len(symbols) > 8 else ''
    super().__init__(
      f'{len(symbols)} characters are not in the vocabulary: {shown}{more}'
    )


@dataclasses.dataclass(frozen=True)
class Vocabulary(abc.ABC):
  """Encodes text as token ids, and decodes ids.

  Attributes:
    kind: tag of the tokenizer that makes it.
    unit: what one token is, such as 'char'.
    learned: whether it is learned from text, hence stored and never made again.
    specials: its special tokens, which have the first ids.
    labels: names of the classes, if the task has classes.
  """

  kind: ClassVar[str]
  unit: ClassVar[str]
  learned: ClassVar[bool]

  specials: tuple[Special, ...] = dataclasses.field(default=(), kw_only=True)
  labels: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)

  @property
  @abc.abstractmethod
  def size(self) -> int:
    """Returns the number of ids, special tokens included."""

  @abc.abstractmethod
  def encode(self, text: str) -> np.ndarray:
    """Returns the ids of a text.

    Raises:
      UnknownSymbols: the text has symbols that are not in the vocabulary, which
        has no <unk>.
    """

  def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns the ids of each text."""
    return [self.encode(text) for text in texts]

  @abc.abstractmethod
  def _join(self, ids: Sequence[int]) -> str:
    """Returns the text of ids, none of which is a special token."""

  def _glue(self, parts: Sequence[str]) -> str:
    """Joins texts that `_join` returned and special tokens between them."""
    return ''.join(parts)

  @abc.abstractmethod
  def _symbol(self, number: int) -> str:
    """Returns the printed form of an id that is no special token."""

  @abc.abstractmethod
  def content(self) -> dict[str, Any]:
    """Returns the fields of the subclass as JSON values."""

  def token_bytes(self) -> np.ndarray | None:
    """Returns the UTF-8 bytes of each id; None if encoding loses text.

    Their sum over the ids of a text is the length of the text in bytes, which
    requires that encoding drops, lower-cases or replaces nothing.  Special
    tokens have 0 bytes.
    """
    return None

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of ids; of special tokens only <unk> and <mask> show."""
    first, parts, run = len(self.specials), [], []
    for number in map(int, ids):
      if number >= first:
        run.append(number)
      elif self.specials[number] in SHOWN:
        parts += [self._join(run), self.specials[number].value]
        run = []
    return self._glue([part for part in [*parts, self._join(run)] if part])

  def decode_after(self, before: Iterable[int], ids: Iterable[int]) -> str:
    """Returns the text that ids add to the text of the ids before them.

    A space between two words belongs to the second, and a piece that continues
    a word is joined to it.
    """
    prefix, whole = self.decode(before), self.decode([*before, *ids])
    if whole.startswith(prefix):
      return whole[len(prefix) :]
    return self.decode(ids)  # `before` ends within a character

  def symbols(self, ids: np.ndarray) -> list[str]:
    """Returns the printed form of each id."""
    first = len(self.specials)
    return [
      self._symbol(i) if i >= first else self.specials[i].value
      for i in map(int, ids)
    ]

  def id_of(self, special: Special) -> int:
    """Returns the id of a special token, which the vocabulary must have."""
    return self.specials.index(special)

  @functools.cached_property
  def digest(self) -> str:
    """Returns the sha256 of the vocabulary as JSON."""
    return hashlib.sha256(json.dumps(self.to_json()).encode()).hexdigest()

  def to_json(self) -> dict[str, Any]:
    """Returns the vocabulary as JSON values, which `from_json` reads."""
    specials = [special.name for special in self.specials]
    about = {'kind': self.kind, 'specials': specials, **self.content()}
    return about | ({'labels': list(self.labels)} if self.labels else {})

  def _narrow(self, ids: np.ndarray) -> np.ndarray:
    """Returns ids as the smallest integer type that fits the vocabulary."""
    limits = {2**8: np.uint8, 2**16: np.uint16}
    fits = [kind for limit, kind in limits.items() if self.size <= limit]
    return ids.astype(fits[0] if fits else np.int32)

  def _after_specials(self, sizes: Sequence[int]) -> np.ndarray:
    """Returns the bytes of all ids: 0 for special tokens, then `sizes`."""
    return np.array([0] * len(self.specials) + list(sizes), np.uint32)

  def _unknown_id(self) -> int | None:
    """Returns the id of <unk>, or None if there is none."""
    return self.id_of(Special.UNK) if Special.UNK in self.specials else None


def _code_points(text: str) -> np.ndarray:
  """Returns the code point of each character."""
  return np.frombuffer(text.encode('utf-32-le'), np.uint32)


@dataclasses.dataclass(frozen=True)
class CharVocabulary(Vocabulary):
  """A vocabulary of characters, in the order of code points."""

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
    codes = _code_points(text)
    known, ids_of = self._table
    # The last entry of the table belongs to no character.
    places = np.minimum(codes, known.size - 1)
    missing = ~known[places]
    ids = ids_of[places]
    if missing.any():
      unknown = self._unknown_id()
      if unknown is None:
        raise UnknownSymbols([chr(c) for c in np.unique(codes[missing])])
      ids[missing] = unknown
    return ids

  @functools.cached_property
  def _table(self) -> tuple[np.ndarray, np.ndarray]:
    """Returns whether each code point is known, and its id; indexed by code."""
    codes = _code_points(self.characters)
    size = int(codes.max()) + 2 if codes.size else 1
    known, ids = np.zeros(size, bool), np.zeros(size, np.int32)
    known[codes] = True
    ids[codes] = np.arange(len(self.specials), self.size)
    return known, self._narrow(ids)

  def token_bytes(self) -> np.ndarray | None:
    """Returns the UTF-8 bytes of each character; None if there is <unk>."""
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
class ByteVocabulary(Vocabulary):
  """A vocabulary of the 256 bytes, for text in UTF-8."""

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
    """Returns 1 for each id but the special tokens."""
    return self._after_specials([1] * 256)

  def _join(self, ids: Sequence[int]) -> str:
    data = bytes(i - len(self.specials) for i in ids)
    return data.decode(errors='replace')

  def _symbol(self, number: int) -> str:
    byte = number - len(self.specials)
    return chr(byte) if byte < 128 else f'{byte:02x}'

  def content(self) -> dict[str, Any]:
    """Returns no fields: all byte vocabularies are equal."""
    return {}
