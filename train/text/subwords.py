"""Vocabularies of parts of words, encoded by the library `tokenizers`.

What was learned is stored as plain lists, from which the library is set up.
The library knows no special tokens: a text that spells one does not get its id.
"""

import abc
import dataclasses
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from train.text.vocabulary import Special, Vocabulary

if TYPE_CHECKING:
  from tokenizers import Tokenizer

INSIDE = '##'  # prefix of WordPiece pieces that do not begin a word


@dataclasses.dataclass(frozen=True)
class Subwords(Vocabulary, abc.ABC):
  """A vocabulary of pieces, which are words or parts of words."""

  unit: ClassVar[str] = 'piece'
  learned: ClassVar[bool] = True

  pieces: tuple[str, ...]

  @property
  def size(self) -> int:
    """Returns the number of ids."""
    return len(self.specials) + len(self.pieces)

  @property
  @abc.abstractmethod
  def cutter(self) -> 'Tokenizer':
    """Returns the library's tokenizer; its ids are indices into `pieces`."""

  def encode(self, text: str) -> np.ndarray:
    """Returns the ids of the pieces of a text."""
    return self._ids(self.cutter.encode(text, add_special_tokens=False).ids)

  def encode_all(self, texts: Sequence[str]) -> list[np.ndarray]:
    """Returns the ids of the pieces of each text; uses all cores."""
    cut = self.cutter.encode_batch(list(texts), add_special_tokens=False)
    return [self._ids(own.ids) for own in cut]

  def _ids(self, numbers: Sequence[int]) -> np.ndarray:
    return self._narrow(np.array(numbers, np.int32) + len(self.specials))

  def _piece(self, number: int) -> str:
    return self.pieces[number - len(self.specials)]


@dataclasses.dataclass(frozen=True)
class BpeVocabulary(Subwords):
  """Byte pair encoding: pieces of bytes, so any text can be encoded."""

  kind: ClassVar[str] = 'bpe'

  merges: tuple[tuple[str, str], ...]

  @functools.cached_property
  def cutter(self) -> 'Tokenizer':
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    numbers = {piece: n for n, piece in enumerate(self.pieces)}
    cutter = Tokenizer(models.BPE(numbers, list(self.merges)))
    cutter.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    cutter.decoder = decoders.ByteLevel()
    return cutter

  def token_bytes(self) -> np.ndarray | None:
    """Returns the bytes of each piece, which has one character for each."""
    return self._after_specials([len(piece) for piece in self.pieces])

  def _join(self, ids: Sequence[int]) -> str:
    numbers = [i - len(self.specials) for i in ids]
    return self.cutter.decode(numbers, skip_special_tokens=False)

  def _symbol(self, number: int) -> str:
    return self._join([number])

  def content(self) -> dict[str, Any]:
    """Returns the pieces, and the merged pairs in the order of merging."""
    merges = [list(pair) for pair in self.merges]
    return {'pieces': list(self.pieces), 'merges': merges}


@dataclasses.dataclass(frozen=True)
class WordPieceVocabulary(Subwords):
  """WordPiece: pieces of characters; a word that needs others is <unk>."""

  kind: ClassVar[str] = 'wordpiece'

  lowercase: bool

  @functools.cached_property
  def cutter(self) -> 'Tokenizer':
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    numbers = {piece: n for n, piece in enumerate(self.pieces)}
    # Words that cannot be spelled get the number after the last piece.
    numbers[Special.UNK.value] = len(self.pieces)
    cutter = Tokenizer(models.WordPiece(numbers, unk_token=Special.UNK.value))
    cutter.normalizer = normalizers.BertNormalizer(lowercase=self.lowercase)
    cutter.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return cutter

  def _ids(self, numbers: Sequence[int]) -> np.ndarray:
    cut = np.array(numbers, np.int32)
    ids = cut + len(self.specials)
    ids[cut == len(self.pieces)] = self.id_of(Special.UNK)
    return self._narrow(ids)

  def _join(self, ids: Sequence[int]) -> str:
    return self._glue([self._piece(i) for i in ids])

  def _glue(self, parts: Sequence[str]) -> str:
    return ' '.join(parts).replace(f' {INSIDE}', '')

  def _symbol(self, number: int) -> str:
    return self._piece(number)

  def content(self) -> dict[str, Any]:
    """Returns the pieces, and whether text is lower-cased."""
    return {'pieces': list(self.pieces), 'lowercase': self.lowercase}
