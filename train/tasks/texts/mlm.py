"""Masked language modelling: predict hidden tokens from those on both sides.

The text 'hello world' at --seq_len=5 gives examples such as

  inputs   h <mask> l l o
  targets    e

where only hidden tokens count in the loss.
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from model.architecture.family import Decoder, Encoder, FamilyBase
from model.core.field import FieldError, field
from model.core.inputs import ModelInputs
from model.core.limits import SHARE
from model.core.parameter import key_of
from train.tasks.base import Arrays, Batch
from train.tasks.windows import TextWindows, WindowTask
from train.text.vocabulary import Special

SURE = 100  # expected hidden tokens; the chance of none is then exp(-100)


@dataclasses.dataclass(frozen=True)
class Mlm(WindowTask, tag='mlm'):
  """Predict tokens that are hidden (Devlin et al. 2019, section 3.1).

  A share `rate` of the positions is drawn for each example of each step.
  Of these, a share `masked` becomes <mask>, a share `random` becomes a token
  drawn uniformly, and the rest keeps its token.
  """

  families: ClassVar[tuple[type[FamilyBase], ...]] = (Encoder, Decoder)
  rate: float = field(
    0.15, 'Share of positions to predict.', min=0.01, max=SHARE, traced=True
  )
  masked: float = field(
    0.8, 'Share of these that become <mask>.', min=0.0, max=SHARE, traced=True
  )
  random: float = field(
    0.1, 'Share that become a random token.', min=0.0, max=SHARE, traced=True
  )

  @property
  def wanted(self) -> tuple[Special, ...]:
    """Returns the special tokens that the task needs."""
    return (Special.MASK,)

  def problems(self) -> Iterator[FieldError]:
    """Yields an error for each rule between fields that is broken."""
    yield from super().problems()
    if self.masked + self.random > 1.0:
      yield FieldError(
        'random',
        self.random,
        f'and --task.masked={self.masked} are shares of one whole: make one '
        'smaller',
      )

  def has_targets(
    self, arrays: Arrays, ids_X: np.ndarray, seq_len: int
  ) -> bool:
    """Returns whether any token of these validation examples is hidden."""
    if ids_X.size * seq_len * self.rate > SURE:
      return True
    batch = self.evaluation_batch(arrays, jnp.asarray(ids_X), seq_len)
    return bool(batch.weights_BT.any())

  def make_batch(
    self,
    rows: TextWindows,
    arrays: Arrays,
    key: jax.Array | None,
    ids_B: jax.Array,
  ) -> Batch:
    """Returns windows with some tokens hidden; the same ones for validation."""
    own_key = jax.random.key(0) if key is None else key_of('hidden', key)
    tokens_BT = rows.tokens_BT.astype(jnp.int32)
    length, symbols = tokens_BT.shape[1], arrays['symbols']

    def draw(example: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
      own = jax.random.split(jax.random.fold_in(own_key, example), 3)
      return (
        jax.random.uniform(own[0], (length,)),
        jax.random.uniform(own[1], (length,)),
        jax.random.randint(own[2], (length,), symbols[0], symbols[1]),
      )

    chosen_BT, how_BT, any_BT = jax.vmap(draw)(ids_B)
    chosen_BT = chosen_BT < self.rate
    other_BT = jnp.where(how_BT < self.masked + self.random, any_BT, tokens_BT)
    hidden_BT = jnp.where(how_BT < self.masked, arrays['<mask>'], other_BT)
    return Batch(
      inputs=ModelInputs(
        jnp.where(chosen_BT, hidden_BT, tokens_BT), rows.segments_BT
      ),
      targets_BT=tokens_BT,
      weights_BT=chosen_BT * rows.weights_BT(self.ahead),
      ids_B=ids_B,
    )
