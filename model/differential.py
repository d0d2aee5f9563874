"""Differential attention: the noise of one map taken off another."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from model.field import FieldError
from model.norm import RmsNorm
from model.output import Own, Plain
from model.parameter import Dims, Kind, Param, Params, param

NAMES = ('query_1', 'key_1', 'query_2', 'key_2')


@dataclasses.dataclass(frozen=True)
class Differential(Plain, tag='differential'):
  """(A_1 - lambda A_2) V, two maps a head (Ye et al. 2024, arXiv:2410.05258).

  A_1 and A_2 have queries and keys of half the width each, so that there are as
  many parameters as without.

    lambda = exp(lq_1 . lk_1) - exp(lq_2 . lk_2) + initial
    initial = 0.8 - 0.6 exp(-0.3 l), l = 0 in the first layer
    out = (1 - initial) rmsnorm(A_1 V - lambda A_2 V), head by head

  Departures: lq and lk start as embeddings do by --init and not from
  Normal(0, 0.1); the maps meet the values before they are subtracted, which is
  the same, and drop the same weights.
  """

  stage: ClassVar[int] = 1
  maps: ClassVar[int] = 2

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the four vectors of lambda, and the gain of the norm."""
    half = {'H': dims.head_dim // 2}
    table = {name: param('->H', Kind.EMBEDDING, dims, half) for name in NAMES}
    return table | {'scale': param('->H', Kind.SCALE, dims)}

  def problem(self, dims: Dims) -> FieldError | None:
    """Returns why the variant does not fit these sizes, if it does not."""
    if dims.head_dim % 2 == 0:
      return None
    return FieldError(
      'head_dim',
      dims.head_dim,
      'must be even, because --output=differential halves queries and keys',
    )

  def join(
    self, params: Params, maps: Sequence[jax.Array], layer: jax.Array
  ) -> jax.Array:
    """Returns the first less lambda times the second."""
    query_1, key_1, query_2, key_2 = (
      params[name].astype(jnp.promote_types(params[name].dtype, jnp.float32))
      for name in NAMES
    )
    weight = (
      jnp.exp((query_1 * key_1).sum())
      - jnp.exp((query_2 * key_2).sum())
      + _initial(layer)
    )
    return maps[0] - weight.astype(maps[1].dtype) * maps[1]

  def finish(self, params: Params, out_BTNH: jax.Array, own: Own) -> jax.Array:
    """Returns (1 - initial) rmsnorm(out)."""
    out_BTNH = RmsNorm(1e-5).apply({'scale': params['scale']}, out_BTNH)
    return out_BTNH * (1.0 - _initial(own.layer)).astype(out_BTNH.dtype)


def _initial(layer: jax.Array) -> jax.Array:
  return 0.8 - 0.6 * jnp.exp(-0.3 * layer)
