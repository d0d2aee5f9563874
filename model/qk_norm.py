"""Normalisation of queries and keys, head by head, before any rotation."""

import dataclasses

import jax
import jax.numpy as jnp

from model.field import FieldError, field
from model.limits import EPSILON, REAL
from model.norm import LayerNorm, RmsNorm
from model.parameter import Dims, Kind, Param, Params, Part, param


@dataclasses.dataclass(frozen=True)
class NoQkNorm(Part, tag='none'):
  """Queries and keys as they are."""

  def problem(self, width: int) -> FieldError | None:
    """Returns why heads of this width leave nothing to score, if they do."""
    del width
    return None

  def silent(self) -> FieldError | None:
    """Returns why no logit says anything, if none does."""
    return None

  def query(self, params: Params, q_BTNH: jax.Array) -> jax.Array:
    """Returns the normalised queries."""
    del params
    return q_BTNH

  def key(self, params: Params, k_BSKH: jax.Array) -> jax.Array:
    """Returns the normalised keys."""
    del params
    return k_BSKH


@dataclasses.dataclass(frozen=True)
class RmsQkNorm(NoQkNorm, tag='rms'):
  """Root mean square of each head, with a gain for q and one for k.

  (Henry et al. 2020, arXiv:2010.04245, with the norm of Zhang & Sennrich 2019,
  as in Qwen3 and Gemma 3.)  Heads share the gains.
  """

  eps: float = field(1e-6, 'Added to the mean square.', min=0.0, max=EPSILON)

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the gains; H is the width of a query."""
    return {
      'query': param('->H', Kind.SCALE, dims),
      'key': param('->H', Kind.SCALE, dims),
    }

  def query(self, params: Params, q_BTNH: jax.Array) -> jax.Array:
    """Returns g q / rms(q)."""
    return RmsNorm(self.eps).apply({'scale': params['query']}, q_BTNH)

  def key(self, params: Params, k_BSKH: jax.Array) -> jax.Array:
    """Returns g k / rms(k)."""
    return RmsNorm(self.eps).apply({'scale': params['key']}, k_BSKH)


@dataclasses.dataclass(frozen=True)
class LayerQkNorm(RmsQkNorm, tag='layernorm'):
  """Layer normalisation of each head, with gains and no biases, as in ViT-22B.

  (Dehghani et al. 2023, arXiv:2302.05442, section 2.)  Heads share the gains.
  """

  def problem(self, width: int) -> FieldError | None:
    """Returns why heads of this width leave nothing to score, if they do."""
    if width > 1:
      return None
    return FieldError(
      'qk_norm',
      self,
      'makes 0 of queries and keys of one unit, which is its own mean: try '
      '--qk_norm=rms',
    )

  def query(self, params: Params, q_BTNH: jax.Array) -> jax.Array:
    """Returns g (q - mean) / std."""
    return LayerNorm(self.eps).apply({'scale': params['query']}, q_BTNH)

  def key(self, params: Params, k_BSKH: jax.Array) -> jax.Array:
    """Returns g (k - mean) / std."""
    return LayerNorm(self.eps).apply({'scale': params['key']}, k_BSKH)


@dataclasses.dataclass(frozen=True)
class L2QkNorm(NoQkNorm, tag='l2'):
  """Unit length, the cosine times a trained g (Henry et al. 2020).

  arXiv:2010.04245, equation 4, with --scale=none.  Departure: g starts from
  `start` and not from log2(L^2 - L), L being the 97.5th percentile of lengths
  (13 at a length of 90).
  """

  start: float = field(10.0, 'g at the start.', min=0.0, max=REAL, traced=True)
  eps: float = field(1e-6, 'Added to the squared length.', min=0.0, max=EPSILON)

  def silent(self) -> FieldError | None:
    """Returns why no logit says anything, if none does."""
    if self.start != 0:
      return None
    return FieldError(
      'start', self.start, 'makes every score 0: queries and keys learn nothing'
    )

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns g / `start`, which heads share."""
    return {'gain': param('->', Kind.SCALE, dims)}

  def query(self, params: Params, q_BTNH: jax.Array) -> jax.Array:
    """Returns g q / |q|."""
    gain = self.start * params['gain']
    return self._unit(q_BTNH) * jnp.asarray(gain, q_BTNH.dtype)

  def key(self, params: Params, k_BSKH: jax.Array) -> jax.Array:
    """Returns k / |k|."""
    del params
    return self._unit(k_BSKH)

  def _unit(self, x_BTNH: jax.Array) -> jax.Array:
    wide_BTNH = x_BTNH.astype(jnp.promote_types(x_BTNH.dtype, jnp.float32))
    square_BTN1 = jnp.square(wide_BTNH).sum(-1, keepdims=True)
    return (wide_BTNH * jax.lax.rsqrt(square_BTN1 + self.eps)).astype(
      x_BTNH.dtype
    )


QkNorm = NoQkNorm | RmsQkNorm | LayerQkNorm | L2QkNorm
