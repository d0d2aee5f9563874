"""Differential attention: subtracts one attention map from another."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp

from model.attention.outputs.base import OutputBase, OutputTraits, QueryContext
from model.core.field import FieldError
from model.core.parameter import Dims, Param, ParamRole, PartParams, param
from model.layers.norm import RmsNorm

NAMES = ('query_1', 'key_1', 'query_2', 'key_2')


@dataclasses.dataclass(frozen=True)
class Differential(OutputBase, tag='differential'):
  """(A_1 - lambda A_2) V, two maps per head (Ye et al. 2024, arXiv:2410.05258).

  A_1 and A_2 each have queries and keys of half the width, so that there are as
  many parameters in the projections as without.

    lambda = exp(lq_1 . lk_1) - exp(lq_2 . lk_2) + initial
    initial = 0.8 - 0.6 exp(-0.3 l), l = 0 in the first layer
    out = (1 - initial) rmsnorm(A_1 V - lambda A_2 V), head by head

  Departures: --init draws lq and lk as it draws embeddings, not from
  Normal(0, 0.1); each map is multiplied by the values before the subtraction,
  which is equal in exact arithmetic; both maps have the same dropout mask.
  """

  traits: ClassVar[OutputTraits] = OutputTraits(stage=1, maps=2)

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns lq_1, lk_1, lq_2, lk_2, and the gain of the norm."""
    half = {'H': dims.head_dim // 2}
    table = {
      name: param('->H', ParamRole.EMBEDDING, dims, half) for name in NAMES
    }
    return table | {'scale': param('->H', ParamRole.SCALE, dims)}

  def problem(self, dims: Dims) -> FieldError | None:
    """Returns an error if the variant does not fit these sizes, or `None`."""
    if dims.head_dim % 2 == 0:
      return None
    return FieldError(
      'head_dim',
      dims.head_dim,
      'must be even, because --output=differential halves queries and keys',
    )

  def join(
    self, params: PartParams, maps: Sequence[jax.Array], layer: jax.Array
  ) -> jax.Array:
    """Returns the first map minus lambda times the second."""
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

  def finish(
    self, params: PartParams, out_BTNH: jax.Array, own: QueryContext
  ) -> jax.Array:
    """Returns (1 - initial) rmsnorm(out)."""
    out_BTNH = RmsNorm(1e-5).apply({'scale': params['scale']}, out_BTNH)
    return out_BTNH * (1.0 - _initial(own.layer)).astype(out_BTNH.dtype)


def _initial(layer: jax.Array) -> jax.Array:
  return 0.8 - 0.6 * jnp.exp(-0.3 * layer)
