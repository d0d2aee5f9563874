"""Language modelling of any text.

The text 'hello world' at --seq_len=4 gives examples such as

  inputs   e l l o
  targets  l l o _
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from model.family import Decoder, Encoder
from model.field import field
from train.task import Batch, examples
from train.vocabulary import Special
from train.windows import Arrays, Read, Windows, offsets, read, segments


@dataclasses.dataclass(frozen=True)
class Text(Windows, tag='text'):
  """Predict the next token of a text."""

  families: ClassVar[tuple[type[Decoder], ...]] = (Decoder, Encoder)
  predicts_next: ClassVar[bool] = True

  reserve_mask: bool = field(
    False, 'A symbol <mask> without use, as --task=mlm has one: equal starts.'
  )

  @property
  def wanted(self) -> tuple[Special, ...]:
    """Returns the special tokens of the vocabulary."""
    return (Special.MASK,) if self.reserve_mask else ()

  def batch(
    self,
    arrays: Arrays,
    key: jax.Array,
    step: jax.Array,
    batch_size: int,
    seq_len: int,
    bucket: int = 0,
  ) -> Batch:
    """Returns windows at offsets drawn for each example from (key, its id)."""
    del bucket
    ids_B = examples(step, batch_size)
    offsets_B = offsets(arrays, key, ids_B, seq_len)
    return _predict(read(arrays, 'train', offsets_B, seq_len + 1), ids_B)

  def evaluation_batch(
    self, arrays: Arrays, ids_B: jax.Array, seq_len: int
  ) -> Batch:
    """Returns the windows with these numbers."""
    offsets_B = ids_B * seq_len
    return _predict(read(arrays, 'validation', offsets_B, seq_len + 1), ids_B)


def _predict(window: Read, ids_B: jax.Array) -> Batch:
  """Returns the tokens but the last, and those one further."""
  inputs_BT = window.tokens_BT[:, :-1]
  segments_BT = segments(window.documents_BT)
  # A constant of numpy's would be fused otherwise, and change last bits.
  weights_BT = jnp.ones(inputs_BT.shape, jnp.float32)
  return Batch(
    inputs_BT=inputs_BT,
    targets_BT=window.tokens_BT[:, 1:],
    weights_BT=weights_BT,
    ids_B=ids_B,
    segments_BT=None if segments_BT is None else segments_BT[:, :-1],
  )
