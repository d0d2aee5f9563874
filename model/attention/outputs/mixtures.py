"""Outputs that mix layers or heads, or remove the query's own value."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from model.attention.outputs.base import OutputBase, OutputTraits, QueryContext
from model.core.parameter import Dims, Param, ParamRole, PartParams, param


@dataclasses.dataclass(frozen=True)
class ValueResidual(OutputBase, tag='value_residual'):
  """Values mixed with those of the first layer (Zhou et al. 2024).

  V <- a V_1 + b V, arXiv:2410.17897, equation 7.  a and b of each layer are
  trained from 1/2.  Departure: the first layer, where V = V_1, has them too.
  """

  traits: ClassVar[OutputTraits] = OutputTraits(
    keeps_first_values=True, crosses=False
  )

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns 2 a and 2 b."""
    return {
      'first': param('->', ParamRole.SCALE, dims),
      'own': param('->', ParamRole.SCALE, dims),
    }

  def values(
    self, params: PartParams, v_BSKH: jax.Array, first_BSKH: jax.Array
  ) -> jax.Array:
    """Returns a V_1 + b V."""
    return 0.5 * (params['first'] * first_BSKH + params['own'] * v_BSKH)


@dataclasses.dataclass(frozen=True)
class TalkingHeads(OutputBase, tag='talking_heads'):
  """Heads mixed before and after the softmax (Shazeer et al. 2020).

  arXiv:2003.02436, equations 3 and 5, on the scaled logits.  Departure: the two
  matrices are 1 + P, so that heads are almost unmixed at first.
  """

  traits: ClassVar[OutputTraits] = OutputTraits(mixes_heads=True)

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the P of the logits and the P of the weights."""
    heads = {'O': dims.num_heads}
    return {
      'logits': param('N->O', ParamRole.MATRIX, dims, heads),
      'weights': param('N->O', ParamRole.MATRIX, dims, heads),
    }

  def mix_logits(self, params: PartParams, logits_BNTS: jax.Array) -> jax.Array:
    """Returns (1 + P) logits."""
    return logits_BNTS + _mix_heads(logits_BNTS, params['logits'])

  def mix_weights(
    self, params: PartParams, weights_BNTS: jax.Array
  ) -> jax.Array:
    """Returns (1 + P) weights."""
    return weights_BNTS + _mix_heads(weights_BNTS, params['weights'])


@dataclasses.dataclass(frozen=True)
class ExclusiveSelf(OutputBase, tag='exclusive_self'):
  """out - (out . v) v / |v|^2: removes the query's own value (Zhai 2026).

  arXiv:2603.09078, equation 2, head by head: the residual already carries the
  position itself.  A value of 0 removes nothing.
  """

  traits: ClassVar[OutputTraits] = OutputTraits(stage=2, crosses=False)

  def finish(
    self, params: PartParams, out_BTNH: jax.Array, own: QueryContext
  ) -> jax.Array:
    """Returns the outputs, made orthogonal to the values of their positions."""
    del params
    v_BTKH = own.v_BTKH
    groups = out_BTNH.shape[2] // v_BTKH.shape[2]
    v_BTNH = jnp.repeat(v_BTKH, groups, axis=2)
    wide = jnp.promote_types(out_BTNH.dtype, jnp.float32)
    v_BTNH = v_BTNH.astype(wide)
    along_BTN = jnp.einsum('BTNH,BTNH->BTN', out_BTNH.astype(wide), v_BTNH)
    square_BTN = jnp.square(v_BTNH).sum(-1)
    share_BTN = along_BTN / jnp.where(square_BTN == 0.0, 1.0, square_BTN)
    out_BTNH -= (share_BTN[..., None] * v_BTNH).astype(out_BTNH.dtype)
    return out_BTNH


def _mix_heads(x_BNTS: jax.Array, kernel_NO: jax.Array) -> jax.Array:
  return jnp.einsum('BNTS,NO->BOTS', x_BNTS, kernel_NO.astype(x_BNTS.dtype))
