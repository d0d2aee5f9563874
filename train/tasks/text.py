"""Language modelling of any text.

The text 'hello world' at --seq_len=4 gives examples such as

  inputs   e l l o
  targets  l l o _
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from model.family import Decoder, Encoder
from model.field import field
from train.figure import BITS_PER_BYTE, PERPLEXITY, Figure
from train.task import TOKEN_BYTES, Arrays, Batch
from train.vocabulary import Special
from train.windows import Window, Windows


@dataclasses.dataclass(frozen=True)
class Text(Windows, tag='text'):
  """Predict the next token of a text."""

  families: ClassVar[tuple[type[Decoder], ...]] = (Decoder, Encoder)
  predicts_next: ClassVar[bool] = True
  ahead: ClassVar[int] = 1
  figures: ClassVar[tuple[Figure, ...]] = (BITS_PER_BYTE, PERPLEXITY)
  by_position: ClassVar[bool] = True
  neutral: ClassVar[frozenset[str]] = frozenset(('reserve_mask',))

  reserve_mask: bool = field(
    False, 'A symbol <mask> without use, as --task=mlm has one: equal starts.'
  )

  @property
  def wanted(self) -> tuple[Special, ...]:
    """Returns the special tokens of the vocabulary."""
    return (Special.MASK,) if self.reserve_mask else ()

  def judged_part(self, arrays: Arrays, ids_X: np.ndarray, seq_len: int) -> str:
    """Returns how much of the text these windows are: all but its tail, say."""
    if ids_X.size < self.evaluation_size(arrays, seq_len):
      return f'{ids_X.size:,} windows of {seq_len:,} tokens'
    text_X = arrays['validation']
    first = min(ids_X.size * seq_len + 1, text_X.shape[0])
    tail_X = np.asarray(text_X[first:])
    if not tail_X.size:
      return 'all of the validation part'
    if TOKEN_BYTES not in arrays:
      return f'the validation part but its last {tail_X.size:,} tokens'
    left_out = int(arrays[TOKEN_BYTES][tail_X].sum())
    return f'the validation part but its last {left_out:,} bytes'

  def made(
    self,
    rows: Window,
    arrays: Arrays,
    key: jax.Array | None,
    ids_B: jax.Array,
  ) -> Batch:
    """Returns the tokens but the last, and those one further."""
    del arrays, key
    tokens_BT = rows.tokens_BT.astype(jnp.int32)
    inputs_BT, segments_BT = tokens_BT[:, :-1], rows.segments_BT
    return Batch(
      inputs_BT=inputs_BT,
      targets_BT=tokens_BT[:, 1:],
      weights_BT=rows.weights_BT(self.ahead),
      ids_B=ids_B,
      segments_BT=None if segments_BT is None else segments_BT[:, :-1],
    )
