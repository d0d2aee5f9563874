"""A synthetic classification task: the most frequent symbol of a sequence.

At --task.symbols=3 and --seq_len=5 an example is

  inputs   b a c b a
  target   a             (a and b are equally frequent: the first letter)
"""

import dataclasses
import hashlib
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from model.architecture.family import Classifier, FamilyBase
from model.core.field import field
from model.core.inputs import ModelInputs
from model.core.limits import Limit
from train.core.errors import DataError
from train.core.metric import VAL_ACCURACY
from train.tasks.base import Batch, Data, special_ids
from train.tasks.generated.base import GeneratedTask
from train.text.vocabulary import CharVocabulary, Vocabulary

LETTERS = 'abcdefghijklmnopqrstuvwxyz'


@dataclasses.dataclass(frozen=True)
class MostFrequent(GeneratedTask, tag='most_frequent'):
  """Predict the most frequent symbol (Weiss et al. 2021, section 5).

  arXiv:2106.06981.  Departure: one prediction for the sequence; in the paper
  the symbols, sorted by frequency, are predicted at all positions.
  """

  families: ClassVar[tuple[type[FamilyBase], ...]] = (Classifier,)
  predicts_tokens: ClassVar[bool] = False
  shown: ClassVar[tuple[str, ...]] = (VAL_ACCURACY.name,)

  symbols: int = field(
    5, 'Number of symbols.', min=2, max=Limit(26, 'they are letters')
  )

  def load(self, vocabulary: Vocabulary | None = None) -> Data:
    """Returns data without examples; the symbols are also the classes."""
    letters = LETTERS[: self.symbols]
    known = CharVocabulary(letters, labels=tuple(letters))
    if vocabulary not in (None, known):
      raise DataError(
        f'--task.symbols={self.symbols}: the trial was trained with others'
      )
    digest = hashlib.sha256(f'{self.tag} {letters}'.encode()).hexdigest()
    about = f'generated: {self.symbols} symbols, {self.num_held:,} held out'
    return Data(special_ids(known), known, digest, about)

  def drawn(self, key: jax.Array, ids_B: jax.Array, seq_len: int) -> Batch:
    """Returns random sequences with their most frequent symbols."""

    def draw(example: jax.Array) -> jax.Array:
      own = jax.random.fold_in(key, example)
      return jax.random.randint(own, (seq_len,), 0, self.symbols)

    tokens_BT = jax.vmap(draw)(ids_B)
    counts_BV = (tokens_BT[..., None] == np.arange(self.symbols)).sum(1)
    target_B1 = counts_BV.argmax(-1)[:, None]
    return Batch(
      inputs=ModelInputs(tokens_BT),
      targets_BT=target_B1,
      weights_BT=jnp.ones(target_B1.shape, jnp.float32),
      ids_B=ids_B,
    )
