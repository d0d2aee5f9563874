"""Language modelling: predict the next token of a text.

The text 'hello world' at --seq_len=4 gives examples such as

  inputs   e l l o
  targets  l l o _

If documents end with <eos>, and the next document begins with 'w', an example
is

  inputs   l o <eos> w
  targets  o <eos>   o

where nothing is predicted from <eos>, since a document does not tell how the
next one begins.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from model.architecture.family import Decoder, Encoder, FamilyBase
from model.core.field import FieldError, field, replace_unchecked
from model.core.inputs import ModelInputs
from train.core.metric import BITS_PER_BYTE, PERPLEXITY, Metric
from train.tasks.base import TOKEN_BYTES, Arrays, Batch
from train.tasks.windows import TextWindows, WindowTask
from train.text.vocabulary import Special


@dataclasses.dataclass(frozen=True)
class Text(WindowTask, tag='text'):
  """Predict the next token of a text."""

  families: ClassVar[tuple[type[FamilyBase], ...]] = (Decoder, Encoder)
  predicts_next: ClassVar[bool] = True
  ahead: ClassVar[int] = 1
  figures: ClassVar[tuple[Metric, ...]] = (BITS_PER_BYTE, PERPLEXITY)
  by_position: ClassVar[bool] = True
  neutral: ClassVar[frozenset[str]] = frozenset(('reserve_mask',))

  ends: bool | None = field(
    None,
    'Add <eos> after each document, from which nothing is predicted; `none` '
    'does so if --mask separates documents.',
  )

  reserve_mask: bool = field(
    False,
    'Add an unused symbol <mask>, so that the vocabulary, and the initial '
    'values, are those of --task=mlm.',
  )

  @property
  def wanted(self) -> tuple[Special, ...]:
    """Returns the special tokens that the task needs."""
    ends = (Special.EOS,) if self.ends else ()
    return (*ends, *((Special.MASK,) if self.reserve_mask else ()))

  def resolved(self, separate: bool) -> 'Text':
    """Returns the task with `ends` chosen, depending on the mask."""
    if not separate or self.ends:
      return self
    if self.ends is None:
      return replace_unchecked(self, {'ends': True})
    raise FieldError(
      'task.ends',
      False,
      'documents that do not see each other, as with --mask=segments, cannot '
      'predict how the next one begins: drop it',
    )

  def describe_evaluated(
    self, arrays: Arrays, ids_X: np.ndarray, seq_len: int
  ) -> str:
    """Describes the validation text that these windows cover."""
    if ids_X.size < self.evaluation_size(arrays, seq_len):
      return f'{ids_X.size:,} windows of {seq_len:,} tokens'
    text_X = arrays['validation']
    first = min(ids_X.size * seq_len + 1, text_X.shape[0])
    tail_X = np.asarray(text_X[first:])
    if not tail_X.size:
      return f'all of the validation part{self._describe_unpredicted(arrays)}'
    if TOKEN_BYTES not in arrays:
      return f'the validation part but its last {tail_X.size:,} tokens'
    left_out = int(arrays[TOKEN_BYTES][tail_X].sum())
    return f'the validation part but its last {left_out:,} bytes'

  def _describe_unpredicted(self, arrays: Arrays) -> str:
    """Describes how many bytes follow an <eos> and so are not predicted.

    These are the first tokens of documents, whose size in bytes depends on the
    tokenizer.
    """
    if not self.ends or TOKEN_BYTES not in arrays:
      return ''
    first_X = np.asarray(arrays['validation_starts'])[1:]
    left_out = int(arrays[TOKEN_BYTES][arrays['validation'][first_X]].sum())
    if not left_out:
      return ''
    return f' but {left_out:,} bytes with which documents begin'

  def make_batch(
    self,
    rows: TextWindows,
    arrays: Arrays,
    key: jax.Array | None,
    ids_B: jax.Array,
  ) -> Batch:
    """Returns windows without their last token, and the next tokens."""
    del arrays, key
    tokens_BT = rows.tokens_BT.astype(jnp.int32)
    inputs_BT, segments_BT = tokens_BT[:, :-1], rows.segments_BT
    weights_BT = rows.weights_BT(self.ahead)
    if self.ends and segments_BT is not None:
      within_BT = segments_BT[:, 1:] == segments_BT[:, :-1]
      weights_BT = jnp.where(within_BT, weights_BT, 0.0)
    return Batch(
      inputs=ModelInputs(
        inputs_BT, None if segments_BT is None else segments_BT[:, :-1]
      ),
      targets_BT=tokens_BT[:, 1:],
      weights_BT=weights_BT,
      ids_B=ids_B,
    )
