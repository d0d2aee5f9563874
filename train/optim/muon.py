"""Muon: matrices move along an orthogonalised momentum."""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp

from model.core.field import FieldError, field
from model.core.limits import DECAY, REAL, Limit
from model.core.parameter import Param, ParamRole
from train.core.trees import ArrayTree
from train.optim.adamw import AdamBase
from train.optim.base import ParamTable, map_paths

if TYPE_CHECKING:
  import optax

# Coefficients of x, x^3 and x^5: a Newton-Schulz step for a singular value x.
_QUINTIC = (3.4445, -4.7750, 2.0315)
_SMALL = 1e-7  # added to the norm, which may be 0


@dataclasses.dataclass(frozen=True)
class Muon(AdamBase, tag='muon'):
  """Orthogonalised momentum (Jordan 2024, kellerjordan.github.io/posts/muon).

  For each matrix of a block, m <- mu m + (1 - mu) g, and the step is c NS(m),
  or c NS(mu m + (1 - mu) g) with Nesterov.  NS divides by the Frobenius norm
  and repeats X <- a X + (b A + c A A) X, A = X X^T, `iterations` times, which
  brings the singular values to about 1 (0.7 to 1.2, so not exactly U V^T).
  Each layer is taken by itself.  The heads of a projection are one matrix, D x
  (N H); queries, keys and values are three.  Embeddings, unembedding, gains and
  biases move by Adam with `b1`, `b2`, `eps`.

  The authors' code runs NS in bfloat16, this one in the parameters' type; they
  tuned --learning_rate=0.02 with a factor of `jordan`.
  """

  momentum: float = field(
    0.95, 'mu: decay of the mean gradient.', min=0.0, max=DECAY, traced=True
  )
  nesterov: bool = field(True, "Use Nesterov's momentum.")
  iterations: int = field(
    5,
    'Newton-Schulz steps.',
    min=1,
    max=Limit(32, 'each is compiled by itself'),
  )
  factor: Literal['jordan', 'moonlight', 'spectral'] = field(
    'jordan',
    'c: sqrt(max(1, out/in)), .2 sqrt(max(in, out)) (arXiv:2502.16982; takes '
    'the learning rate of AdamW), or sqrt(out/in) (arXiv:2310.17813):',
  )
  adam_rate: float | None = field(
    3e-4,
    'Peak learning rate of all other parameters; `none` is --learning_rate.',
    min=0.0,
    max=REAL,
    traced=True,
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields an error if only matrices would be trained."""
    if self.adam_rate == 0:
      yield FieldError(
        'adam_rate', self.adam_rate, 'moves nothing: say --freeze, or none'
      )

  def scale(self, table: ParamTable) -> 'optax.GradientTransformation':
    """Returns the transformation of gradients, before decay and rate."""
    import optax

    def start(params: ArrayTree) -> ArrayTree:
      return jax.tree.map(jnp.zeros_like, params)

    def update(updates: ArrayTree, state: ArrayTree, params: Any = None) -> Any:
      del params
      return self._step(table, updates, state)

    def kinds(params: ArrayTree) -> ArrayTree:
      return map_paths(
        lambda path, p: 'matrix' if is_hidden(table[path]) else 'rest', params
      )

    matrices = optax.GradientTransformation(start, update)
    return optax.partition(
      {'matrix': matrices, 'rest': self.adam_transform()}, kinds
    )

  def _step(self, table: ParamTable, grads: ArrayTree, m: ArrayTree) -> Any:
    """Returns the step of matrices, and the new mean gradient."""
    mu = self.momentum

    def mean(m: jax.Array, g: jax.Array) -> jax.Array:
      return mu * m + (1 - mu) * g

    def step(path: str, m: jax.Array, g: jax.Array) -> jax.Array:
      spec = table[path]
      ahead = mean(m, g) if self.nesterov else m
      near = orthogonalize(ahead.reshape(spec.matrices), self.iterations)
      return self._factor(spec) * near.reshape(m.shape)

    new = jax.tree.map(mean, m, grads)
    return map_paths(step, new, grads), new

  def _factor(self, spec: Param) -> float:
    """Returns the factor c of a step."""
    *_, inputs, outputs = spec.matrices
    match self.factor:
      case 'jordan':
        return math.sqrt(max(1, outputs / inputs))
      case 'moonlight':
        return 0.2 * math.sqrt(max(inputs, outputs))
      case 'spectral':
        return math.sqrt(outputs / inputs)

  def rates(self, table: ParamTable) -> Mapping[str, Any]:
    """Returns the learning rates of all parameters that move by Adam."""
    if self.adam_rate is None:
      return {}
    return {
      path: self.adam_rate
      for path, spec in table.items()
      if not is_hidden(spec)
    }

  def problem(self, table: ParamTable) -> FieldError | None:
    """Returns an error if there is no matrix to orthogonalise."""
    if any(map(is_hidden, table.values())):
      return None
    return FieldError(
      'optimizer',
      'muon',
      'finds no matrix in a block that is trained, and would be Adam: try '
      '--optimizer=adamw',
    )


def is_hidden(spec: Param) -> bool:
  """Returns whether a parameter is a matrix in a block: it moves by Muon."""
  maps = spec.role in (ParamRole.MATRIX, ParamRole.RESIDUAL)
  return maps and spec.is_matrix and spec.depth is not None


def orthogonalize(matrices: jax.Array, iterations: int) -> jax.Array:
  """Returns matrices (last two axes) with all singular values near 1."""
  a, b, c = _QUINTIC
  wide = matrices.shape[-2] <= matrices.shape[-1]
  x = matrices if wide else jnp.swapaxes(matrices, -1, -2)
  norm = jnp.sqrt(jnp.sum(jnp.square(x), (-1, -2), keepdims=True))
  x = x / (norm + _SMALL)
  for _ in range(iterations):
    square = x @ jnp.swapaxes(x, -1, -2)
    x = a * x + (b * square + c * square @ square) @ x
  return x if wide else jnp.swapaxes(x, -1, -2)
