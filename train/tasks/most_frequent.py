"""The most frequent symbol of a sequence: a generated classification.

At --task.symbols=3 and --seq_len=5 an example is

  inputs   b a c b a
  target   a             (of those equally frequent, the first)
"""

import dataclasses
import hashlib
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from model.family import Classifier, Decoder
from model.field import field
from model.limits import Limit
from train.figure import VAL_ACCURACY
from train.task import (
  Arrays,
  Batch,
  Data,
  DataError,
  Draw,
  Task,
  examples,
  special_ids,
)
from train.vocabulary import Characters, Vocabulary

LETTERS = 'abcdefghijklmnopqrstuvwxyz'
HELD = 1000  # examples to evaluate on


@dataclasses.dataclass(frozen=True)
class MostFrequent(Task, tag='most_frequent'):
  """Tell which symbol is the most frequent (Weiss et al. 2021, section 5).

  arXiv:2106.06981.  Departure: once for the sequence, not sorted at every
  position.
  """

  families: ClassVar[tuple[type[Decoder], ...]] = (Classifier,)
  predicts_tokens: ClassVar[bool] = False
  shown: ClassVar[tuple[str, ...]] = (VAL_ACCURACY.name,)

  symbols: int = field(
    5, 'How many symbols there are.', min=2, max=Limit(26, 'they are letters')
  )

  def load(self, vocabulary: Vocabulary | None = None) -> Data:
    """Returns no data but the symbols, which are the classes too."""
    letters = LETTERS[: self.symbols]
    known = Characters(letters, labels=tuple(letters))
    if vocabulary not in (None, known):
      raise DataError(
        f'--task.symbols={self.symbols}: the trial was trained with others'
      )
    digest = hashlib.sha256(f'{self.tag} {letters}'.encode()).hexdigest()
    about = f'generated: {self.symbols} symbols, {HELD:,} held out'
    return Data(special_ids(known), known, digest, about)

  def problem(self, data: Data, seq_len: int) -> str | None:
    """Returns none: any length serves."""
    del data, seq_len
    return None

  def batch(self, arrays: Arrays, draw: Draw, bucket: int = 0) -> Batch:
    """Returns sequences drawn for each example from (key, its id)."""
    del arrays, bucket
    ids_B = examples(draw.step, draw.batch_size)
    return self._drawn(draw.key, ids_B, draw.seq_len)

  def evaluation_size(self, arrays: object, seq_len: int) -> int:
    """Returns how many sequences there are to evaluate on."""
    del arrays, seq_len
    return HELD

  def evaluation_batch(
    self, arrays: Arrays, ids_B: jax.Array, seq_len: int
  ) -> Batch:
    """Returns sequences by their number, the same whatever the seed."""
    del arrays
    held = jax.random.fold_in(jax.random.key(0), HELD)
    return self._drawn(held, ids_B, seq_len)

  def _drawn(self, key: jax.Array, ids_B: jax.Array, seq_len: int) -> Batch:
    """Returns sequences and their most frequent symbol."""

    def draw(example: jax.Array) -> jax.Array:
      own = jax.random.fold_in(key, example)
      return jax.random.randint(own, (seq_len,), 0, self.symbols)

    tokens_BT = jax.vmap(draw)(ids_B)
    counts_BV = (tokens_BT[..., None] == np.arange(self.symbols)).sum(1)
    target_B1 = counts_BV.argmax(-1)[:, None]
    return Batch(
      inputs_BT=tokens_BT,
      targets_BT=target_B1,
      weights_BT=jnp.ones(target_B1.shape, jnp.float32),
      ids_B=ids_B,
    )
