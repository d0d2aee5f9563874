"""The vocabulary of tasks that read vectors in place of tokens."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from train.text.vocabulary import UnknownSymbols, Vocabulary

PLACES = 64  # positions with a name in reports: attention maps show no more


@dataclasses.dataclass(frozen=True)
class VectorVocabulary(Vocabulary):
  """Stands for a vocabulary if a task reads vectors, and so has no symbols.

  It encodes no text.  Its ids are positions in an example, which reports name
  by their numbers from 1.

  Attributes:
    inputs: width of the vectors that are read.
    outputs: width of the vectors that are predicted.
  """

  kind: ClassVar[str] = 'vectors'
  unit: ClassVar[str] = 'vector'
  learned: ClassVar[bool] = False

  inputs: int
  outputs: int

  @property
  def size(self) -> int:
    """Returns how many positions have a name."""
    return PLACES

  def encode(self, text: str) -> np.ndarray:
    """Raises UnknownSymbols, except for an empty text."""
    if text:
      raise UnknownSymbols(sorted({*text}))
    return np.zeros(0, np.int32)

  def _join(self, ids: Sequence[int]) -> str:
    return ' '.join(map(self._symbol, ids))

  def _symbol(self, number: int) -> str:
    return str(number + 1)

  def content(self) -> dict[str, Any]:
    """Returns the widths."""
    return {'inputs': self.inputs, 'outputs': self.outputs}
