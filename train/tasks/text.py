"""Language modelling of any text.

The text 'hello world' at --seq_len=4 gives examples such as

  inputs   e l l o
  targets  l l o _

Where documents end by <eos>, and the next begins with 'w', one of them is

  inputs   l o <eos> w
  targets  o <eos>   o

where nothing is predicted from <eos>: no document says how the next begins.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from model.family import Decoder, Encoder
from model.field import FieldError, field, unchecked
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

  ends: bool | None = field(
    None,
    'Each document ends with a symbol <eos>, from which nothing is predicted; '
    'none is what --mask needs: true where it has segments.',
  )

  reserve_mask: bool = field(
    False, 'A symbol <mask> without use, as --task=mlm has one: equal starts.'
  )

  @property
  def wanted(self) -> tuple[Special, ...]:
    """Returns the special tokens of the vocabulary."""
    ends = (Special.EOS,) if self.ends else ()
    return (*ends, *((Special.MASK,) if self.reserve_mask else ()))

  def resolved(self, separate: bool) -> 'Text':
    """Returns the task where documents do not see each other, or do."""
    if not separate or self.ends:
      return self
    if self.ends is None:
      return unchecked(self, {'ends': True})
    raise FieldError(
      'task.ends',
      False,
      'documents that do not see each other, as with --mask=segments, cannot '
      'predict how the next one begins: drop it',
    )

  def judged_part(self, arrays: Arrays, ids_X: np.ndarray, seq_len: int) -> str:
    """Returns how much of the text these windows are: all but its tail, say."""
    if ids_X.size < self.evaluation_size(arrays, seq_len):
      return f'{ids_X.size:,} windows of {seq_len:,} tokens'
    text_X = arrays['validation']
    first = min(ids_X.size * seq_len + 1, text_X.shape[0])
    tail_X = np.asarray(text_X[first:])
    if not tail_X.size:
      return f'all of the validation part{self._begun(arrays)}'
    if TOKEN_BYTES not in arrays:
      return f'the validation part but its last {tail_X.size:,} tokens'
    left_out = int(arrays[TOKEN_BYTES][tail_X].sum())
    return f'the validation part but its last {left_out:,} bytes'

  def _begun(self, arrays: Arrays) -> str:
    """Returns how much of the text follows an end, which nothing predicts.

    That is the first token of each document, of one tokenizer longer than of
    another.
    """
    if not self.ends or TOKEN_BYTES not in arrays:
      return ''
    first_X = np.asarray(arrays['validation_starts'])[1:]
    left_out = int(arrays[TOKEN_BYTES][arrays['validation'][first_X]].sum())
    if not left_out:
      return ''
    return f' but {left_out:,} bytes with which documents begin'

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
    weights_BT = rows.weights_BT(self.ahead)
    if self.ends and segments_BT is not None:
      within_BT = segments_BT[:, 1:] == segments_BT[:, :-1]
      weights_BT = jnp.where(within_BT, weights_BT, 0.0)
    return Batch(
      inputs_BT=inputs_BT,
      targets_BT=tokens_BT[:, 1:],
      weights_BT=weights_BT,
      ids_B=ids_B,
      segments_BT=None if segments_BT is None else segments_BT[:, :-1],
    )
