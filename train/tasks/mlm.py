"""Masked language modelling: hidden tokens, from both sides of them.

The text 'hello world' at --seq_len=5 gives examples such as

  inputs   h <mask> l l o
  targets    e

where only what was hidden counts in the loss.
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from model.family import Decoder, Encoder
from model.field import FieldError, field
from model.limits import SHARE
from model.parameter import key_of
from train.task import Arrays, Batch
from train.vocabulary import Special
from train.windows import Window, Windows

SURE = 100  # hidden tokens, on average: none has a chance of exp(-100)


@dataclasses.dataclass(frozen=True)
class Mlm(Windows, tag='mlm'):
  """Predict tokens that are hidden (Devlin et al. 2019, section 3.1).

  Of `rate` of the positions, drawn anew each time an example is seen, most
  hold <mask>, some a token drawn uniformly, and the others what they held.
  """

  families: ClassVar[tuple[type[Decoder], ...]] = (Encoder, Decoder)
  rate: float = field(
    0.15, 'Share of positions to predict.', min=0.01, max=SHARE, traced=True
  )
  masked: float = field(
    0.8, 'Share of these that hold <mask>.', min=0.0, max=SHARE, traced=True
  )
  random: float = field(
    0.1, 'Share that hold any token.', min=0.0, max=SHARE, traced=True
  )

  @property
  def wanted(self) -> tuple[Special, ...]:
    """Returns the special tokens of the vocabulary."""
    return (Special.MASK,)

  def problems(self) -> Iterator[FieldError]:
    """Yields what is wrong between fields."""
    yield from super().problems()
    if self.masked + self.random > 1.0:
      yield FieldError(
        'random',
        self.random,
        f'and --task.masked={self.masked} are shares of one whole: make one '
        'smaller',
      )

  def counted(self, arrays: Arrays, ids_X: np.ndarray, seq_len: int) -> bool:
    """Returns whether any token of these validation examples is hidden."""
    if ids_X.size * seq_len * self.rate > SURE:
      return True
    batch = self.evaluation_batch(arrays, jnp.asarray(ids_X), seq_len)
    return bool(batch.weights_BT.any())

  def made(
    self,
    rows: Window,
    arrays: Arrays,
    key: jax.Array | None,
    ids_B: jax.Array,
  ) -> Batch:
    """Returns windows with some tokens hidden, the same at each evaluation."""
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
      inputs_BT=jnp.where(chosen_BT, hidden_BT, tokens_BT),
      targets_BT=tokens_BT,
      weights_BT=chosen_BT * rows.weights_BT(self.ahead),
      ids_B=ids_B,
      segments_BT=rows.segments_BT,
    )
