"""Five synthetic tasks that map a sequence of digits to another sequence.

At --seq_len=4 an example of each --task.make is

  inputs             3 1 4 1
  targets  reverse   1 4 1 3
           sort      1 1 3 4
           sub       6 8 5 8     (9 - x)
           swap      4 1 3 1     (the second half, then the first)
           copy      3 1 4 1
"""

import dataclasses
import hashlib
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from model.architecture.family import Encoder, FamilyBase
from model.core.field import field
from model.core.inputs import ModelInputs
from train.core.errors import DataError
from train.core.metric import VAL_ACCURACY
from train.tasks.base import Batch, Data, special_ids
from train.tasks.generated.base import GeneratedTask
from train.text.vocabulary import CharVocabulary, Vocabulary

DIGITS = '0123456789'


@dataclasses.dataclass(frozen=True)
class Digits(GeneratedTask, tag='digits'):
  """Predict each digit of a function of the input sequence, such as its sort.

  Kayyam et al. 2026, arXiv:2606.04032, synthetic tasks (after Borji 2023,
  arXiv:2305.19129).  Each digit is drawn uniformly.
  """

  families: ClassVar[tuple[type[FamilyBase], ...]] = (Encoder,)
  shown: ClassVar[tuple[str, ...]] = (VAL_ACCURACY.name,)

  make: Literal['reverse', 'sort', 'sub', 'swap', 'copy'] = field(
    'reverse', 'Function of the input sequence:'
  )

  def load(self, vocabulary: Vocabulary | None = None) -> Data:
    """Returns data that have a vocabulary but no examples."""
    known = CharVocabulary(DIGITS)
    if vocabulary not in (None, known):
      raise DataError('--task=digits: the trial was trained on other symbols')
    digest = hashlib.sha256(f'{self.tag} {self.make}'.encode()).hexdigest()
    about = f'generated: digits, {self.make}, {self.num_held:,} held out'
    return Data(special_ids(known), known, digest, about)

  def drawn(self, key: jax.Array, ids_B: jax.Array, seq_len: int) -> Batch:
    """Returns random sequences of digits with their targets."""

    def draw(example: jax.Array) -> jax.Array:
      own = jax.random.fold_in(key, example)
      return jax.random.randint(own, (seq_len,), 0, len(DIGITS))

    tokens_BT = jax.vmap(draw)(ids_B)
    return Batch(
      inputs=ModelInputs(tokens_BT),
      targets_BT=self._targets(tokens_BT),
      weights_BT=jnp.ones(tokens_BT.shape, jnp.float32),
      ids_B=ids_B,
    )

  def _targets(self, tokens_BT: jax.Array) -> jax.Array:
    """Returns the target sequences of input sequences."""
    match self.make:
      case 'reverse':
        return tokens_BT[:, ::-1]
      case 'sort':
        return jnp.sort(tokens_BT, axis=1)
      case 'sub':
        return len(DIGITS) - 1 - tokens_BT
      case 'swap':
        return jnp.roll(tokens_BT, -(tokens_BT.shape[1] // 2), axis=1)
      case 'copy':
        return tokens_BT
