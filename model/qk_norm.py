"""Normalisation of queries and keys, head by head, before any rotation."""

import dataclasses

import jax

from model.field import field
from model.norm import RmsNorm
from model.parameter import Dims, Kind, Param, Params, Part, param


@dataclasses.dataclass(frozen=True)
class NoQkNorm(Part, tag='none'):
  """Queries and keys as they are."""

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

  eps: float = field(1e-6, 'Added to the mean square.', min=0.0)

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


QkNorm = NoQkNorm | RmsQkNorm
