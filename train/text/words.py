"""Vocabularies of words, for text whose tokens are separated by white space."""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from train.text.vocabulary import Special, Vocabulary


@dataclasses.dataclass(frozen=True)
class WordVocabulary(Vocabulary):
  """A vocabulary of words, which white space separates, and the line break."""

  kind: ClassVar[str] = 'word'
  unit: ClassVar[str] = 'word'
  learned: ClassVar[bool] = True

  words: tuple[str, ...]
  lowercase: bool = False

  @staticmethod
  def split(text: str, lowercase: bool) -> list[str]:
    """Returns the words of a text and its line breaks."""
    return re.findall(r'\n|[^\s]+', text.lower() if lowercase else text)

  @property
  def size(self) -> int:
    """Returns the number of ids."""
    return len(self.specials) + len(self.words)

  def encode(self, text: str) -> np.ndarray:
    """Returns the id of each word and line break; <unk> for other words."""
    unknown = self.id_of(Special.UNK)
    words = self.split(text, self.lowercase)
    ids = [self._ids.get(word, unknown) for word in words]
    return self._narrow(np.array(ids, np.int32))

  @functools.cached_property
  def _ids(self) -> Mapping[str, int]:
    return {w: n for n, w in enumerate(self.words, len(self.specials))}

  def _join(self, ids: Sequence[int]) -> str:
    return self._glue([self._symbol(i) for i in ids])

  def _glue(self, parts: Sequence[str]) -> str:
    return re.sub(' ?\n ?', '\n', ' '.join(parts))

  def _symbol(self, number: int) -> str:
    return self.words[number - len(self.specials)]

  def content(self) -> dict[str, Any]:
    """Returns the words, and whether text is lower-cased."""
    return {'words': list(self.words), 'lowercase': self.lowercase}
