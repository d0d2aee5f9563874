"""Linear regression in context: a synthetic task of real vectors.

At --task.dim=2 and --seq_len=4 an example for the hidden weights w = (2, -1) is

  inputs   ( 0.1, 0.3, -0.1)   x_1, and y_1 = w.x_1
           (-0.2, 0.5, -0.9)   x_2, and y_2
           ( 0.4, 0.2,  0.6)   x_3, and y_3
           ( 0.3, 0.1,  0  )   x of the query
  target                0.5    w.x, only at the query

At the defaults, half the squared error is 0.204 on average for the best step of
gradient descent from w = 0 on the pairs, with one rate for all examples; for
the constant prediction 0 it is 0.412.
"""

import dataclasses
import hashlib
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model import transformer
from model.architecture.architecture import Architecture
from model.architecture.family import Decoder, Encoder, FamilyBase
from model.core.field import field
from model.core.inputs import ModelInputs
from model.core.limits import COUNT, REAL, WIDTH
from model.core.parameter import Dims, Params, key_of
from train.core.errors import DataError
from train.core.metric import Metric
from train.optim.objective import Objective, SquaredError
from train.tasks.base import Arrays, Batch, Data, FinalMetrics
from train.tasks.generated import one_step
from train.tasks.generated.base import GeneratedTask
from train.text.vectors import VectorVocabulary
from train.text.vocabulary import Vocabulary

COMPARED = 10_000  # compare with gradient descent on at most so many examples
CHUNK = 1_000  # and on so many at a time

GD_RATIO = Metric(
  'loss_over_gd', 'loss over that of the best step of gradient descent', True
)
GD_COSINE = Metric(
  'gd_cosine',
  'cosine of the gradients of both predictions with respect to the x of the '
  'query, mean over examples',
  False,
)
GD_DIFFERENCE = Metric(
  'gd_difference', 'mean distance from the prediction of the best step', True
)


class _Predictions(NamedTuple):
  """Inputs, targets, the model's predictions, their gradients by the query."""

  inputs_BTI: np.ndarray
  target_B: np.ndarray
  predicted_B: np.ndarray
  gradient_BI: np.ndarray


@dataclasses.dataclass(frozen=True)
class Regression(GeneratedTask, tag='regression'):
  """Linear regression in context (von Oswald et al. 2023, arXiv:2212.07677).

  w ~ N(0, 1), x uniform, y = w.x; --seq_len - 1 pairs (x, y), and an x.
  """

  families: ClassVar[tuple[type[FamilyBase], ...]] = (Encoder, Decoder)
  predicts_tokens: ClassVar[bool] = False
  objective: ClassVar[tuple[Objective, ...]] = (SquaredError(),)
  figures: ClassVar[tuple[Metric, ...]] = (GD_RATIO, GD_COSINE, GD_DIFFERENCE)

  dim: int = field(10, 'Dimension of x.', min=1, max=WIDTH)
  range: float = field(
    0.5, 'Each x is uniform between minus this and this.', min=1e-6, max=REAL
  )
  scale: float = field(
    1.0, 'Factor of x in validation examples only.', min=1e-6, max=REAL
  )
  held: int = field(20_000, 'Examples to evaluate on.', min=1, max=COUNT)

  @property
  def num_inputs(self) -> int:
    """Returns the width of an x and its y together."""
    return self.dim + 1

  @property
  def num_outputs(self) -> int:
    """Returns the width of y."""
    return 1

  def load(self, vocabulary: Vocabulary | None = None) -> Data:
    """Returns data that have the widths of vectors but no examples."""
    known = VectorVocabulary(self.num_inputs, self.num_outputs)
    if vocabulary not in (None, known):
      raise DataError(
        f'--task.dim={self.dim}: the trial was trained with another, or on '
        'another task'
      )
    about = f'generated: regressions of {self.dim} numbers, {self.held:,} held'
    words = f'{self.tag} {self.dim} {self.range} {self.scale} {self.held}'
    digest = hashlib.sha256(words.encode()).hexdigest()
    return Data({}, known, digest, f'{about} out')

  def problem(self, data: Data, seq_len: int) -> str | None:
    """Returns the problem if an example has no pair (x, y), else None."""
    del data
    if seq_len > 1:
      return None
    return (
      f'--seq_len={seq_len}: leaves no pair beside the x that is asked for: '
      'make it at least 2'
    )

  @property
  def num_held(self) -> int:
    """Returns the number of validation examples."""
    return self.held

  def drawn(self, key: jax.Array, ids_B: jax.Array, seq_len: int) -> Batch:
    """Returns training examples, each drawn from (key, its number)."""
    return self._draw(key, ids_B, seq_len, self.range)

  def evaluation_batch(
    self, arrays: Arrays, ids_B: jax.Array, seq_len: int
  ) -> Batch:
    """Returns validation examples by number, which are equal for all seeds."""
    del arrays
    key = key_of('held', jax.random.key(0))
    return self._draw(key, ids_B, seq_len, self.range * self.scale)

  def _draw(
    self, key: jax.Array, ids_B: jax.Array, seq_len: int, bound: float
  ) -> Batch:
    """Returns examples with each x uniform in [-bound, bound]."""

    def draw(example: jax.Array) -> tuple[jax.Array, jax.Array]:
      x_key, w_key = jax.random.split(jax.random.fold_in(key, example))
      shape = (seq_len, self.dim)
      x_TI = jax.random.uniform(x_key, shape, minval=-bound, maxval=bound)
      return x_TI, jax.random.normal(w_key, (self.dim,))

    x_BTI, w_BI = jax.vmap(draw)(ids_B)
    # Not a dot product, for which devices may use a lower precision.
    y_BT = (x_BTI * w_BI[:, None]).sum(-1)
    last_T = jnp.arange(seq_len) == seq_len - 1
    shown_BT = jnp.where(last_T, 0.0, y_BT)
    return Batch(
      inputs=ModelInputs(
        vectors_BTI=jnp.concatenate([x_BTI, shown_BT[..., None]], -1)
      ),
      targets_BT=None,
      weights_BT=jnp.broadcast_to(last_T, y_BT.shape).astype(jnp.float32),
      ids_B=ids_B,
      targets_BTO=y_BT[..., None],
    )

  def final_metrics(
    self, arch: Architecture, dims: Dims, params: Params, data: Data
  ) -> FinalMetrics:
    """Compares a model with the best step of gradient descent.

    The rate of that step is always the best one for --task.scale=1; it can be
    found from scaled examples, as a factor of all x is also a factor of all y.
    """
    del data
    found = self._predict(arch, dims, params)
    x_BNI, y_BN = found.inputs_BTI[:, :-1, :-1], found.inputs_BTI[:, :-1, -1]
    products_B = one_step.products(x_BNI, y_BN, found.inputs_BTI[:, -1, :-1])
    rate = one_step.best_rate(
      products_B / self.scale**3, found.target_B / self.scale
    )
    step_B = rate * products_B
    slope_BI = rate * np.einsum('BN,BNI->BI', y_BN, x_BNI)
    own_BI = found.gradient_BI
    norms_B = np.linalg.norm(slope_BI, axis=1) * np.linalg.norm(own_BI, axis=1)
    cosine_B = np.einsum('BI,BI->B', slope_BI, own_BI) / np.maximum(
      norms_B, np.finfo(np.float64).tiny
    )
    losses = [
      one_step.loss(predicted_B, found.target_B)
      for predicted_B in (found.predicted_B, step_B)
    ]
    figures = {
      GD_RATIO.name: losses[0] / losses[1],
      GD_COSINE.name: float(cosine_B.mean()),
      GD_DIFFERENCE.name: float(np.abs(found.predicted_B - step_B).mean()),
    }
    return FinalMetrics(figures, [])

  def _predict(
    self, arch: Architecture, dims: Dims, params: Params
  ) -> _Predictions:
    """Returns the first validation examples with a model's predictions."""
    count = min(self.held, COMPARED)
    size = min(count, CHUNK)

    def predict(vectors_BTI: jax.Array, params: Params) -> jax.Array:
      inputs = ModelInputs(vectors_BTI=vectors_BTI)
      out = transformer.apply(arch, dims, params, inputs)
      return out.logits_BTV[:, -1, 0]

    @jax.jit
    def run(first: jax.Array, params: Params) -> tuple[jax.Array, ...]:
      ids_B = first + jnp.arange(size, dtype=jnp.int32)
      batch = self.evaluation_batch({}, ids_B, dims.seq_len)
      x_BTI = batch.inputs.vectors_BTI
      assert x_BTI is not None
      said_B, vjp = jax.vjp(lambda v_BTI: predict(v_BTI, params), x_BTI)
      # Examples do not interact: one product gives the gradients of all.
      (gradient_BTI,) = vjp(jnp.ones_like(said_B))
      return x_BTI, batch.targets[:, -1, 0], said_B, gradient_BTI[:, -1, :-1]

    chunks = [run(jnp.int32(n), params) for n in range(0, count, size)]
    return _Predictions(
      *(
        np.concatenate(parts).astype(np.float64)[:count]
        for parts in zip(*chunks, strict=True)
      )
    )
