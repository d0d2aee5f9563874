"""Output: what is done to attention beside normalise(logits) v.

A variant overrides hooks of `Plain`, which do nothing.  Several may be listed;
whatever the order of the list, they act in this order:

  values       on the values, before they are kept for later queries
  running      the logarithm of a decay from the start, kept beside the keys
  mix_logits   on the scaled logits of all heads; then cap, biases, and the
               difference of `running` between query and key
  mix_weights  on the weights of all heads
  join         the maps of a head (if it has several) become one
  finish       on the outputs of the heads, by `stage`, then the head gates
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from model.field import FieldError
from model.parameter import Dims, Kind, Param, Params, Part, add_bias, param


class Own(NamedTuple):
  """What a query position holds itself, for `finish`."""

  x_BTD: jax.Array
  v_BTKH: jax.Array
  layer: jax.Array


@dataclasses.dataclass(frozen=True)
class Plain(Part, tag='plain'):
  """normaliser(logits) v, nothing more (Vaswani et al. 2017).

  Attributes:
    stage: when `finish` comes among those of other outputs.
    maps: attention maps of a head; each has queries and keys of 1 / maps the
      width, all have the same values.
    keeps_first_values: `values` reads the values of the first layer.
    mixes_heads: `mix_logits` or `mix_weights` does something.
    fades: `running` gives a decay.
    crosses: cross-attention has it too, and not only self-attention.
  """

  stage: ClassVar[int] = 0
  maps: ClassVar[int] = 1
  keeps_first_values: ClassVar[bool] = False
  mixes_heads: ClassVar[bool] = False
  fades: ClassVar[bool] = False
  crosses: ClassVar[bool] = True

  def problem(self, dims: Dims) -> FieldError | None:
    """Returns why the variant does not fit these sizes, if it does not."""
    del dims
    return None

  def values(
    self, params: Params, v_BSKH: jax.Array, first_BSKH: jax.Array
  ) -> jax.Array:
    """Returns the values that are mixed, from them and the first layer's."""
    del params, first_BSKH
    return v_BSKH

  def running(
    self,
    params: Params,
    x_BTD: jax.Array,
    before_BN: jax.Array,
    place_BT: jax.Array | None = None,
  ) -> jax.Array:
    """Returns running_BTN in float32; `before` is that of the last position.

    It is 0 before the first, and before place 0 of each document where a row
    holds several.  Called only if the variant `fades`.
    """
    del params, place_BT
    return jnp.broadcast_to(
      before_BN[:, None], (*x_BTD.shape[:2], before_BN.shape[-1])
    )

  def mix_logits(self, params: Params, logits_BNTS: jax.Array) -> jax.Array:
    """Returns the logits, mixed over heads."""
    del params
    return logits_BNTS

  def mix_weights(self, params: Params, weights_BNTS: jax.Array) -> jax.Array:
    """Returns the weights, mixed over heads."""
    del params
    return weights_BNTS

  def join(
    self, params: Params, maps: Sequence[jax.Array], layer: jax.Array
  ) -> jax.Array:
    """Returns the maps as one: the same sum, of outputs as of weights."""
    del params, layer
    (only,) = maps
    return only

  def finish(self, params: Params, out_BTNH: jax.Array, own: Own) -> jax.Array:
    """Returns the outputs of the heads before W_O."""
    del params, own
    return out_BTNH


@dataclasses.dataclass(frozen=True)
class Gate(Plain, tag='gate'):
  """out * sigmoid(x W_g), each unit of each head (Qiu et al. 2025).

  arXiv:2505.06708, section 2.2, position G1, elementwise.
  """

  stage: ClassVar[int] = 3

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns W_g, with a bias by --use_bias."""
    table = {'kernel': param('D->NH', Kind.MATRIX, dims)}
    if dims.use_bias:
      table['bias'] = param('->NH', Kind.BIAS, dims)
    return table

  def finish(self, params: Params, out_BTNH: jax.Array, own: Own) -> jax.Array:
    """Returns out * sigmoid(x W_g)."""
    gate_BTNH = jnp.einsum('BTD,DNH->BTNH', own.x_BTD, params['kernel'])
    return out_BTNH * jax.nn.sigmoid(add_bias(gate_BTNH, params, 'bias'))


@dataclasses.dataclass(frozen=True)
class ValueResidual(Plain, tag='value_residual'):
  """Values mixed with those of the first layer (Zhou et al. 2024).

  V <- a V_1 + b V, arXiv:2410.17897, equation 7, learnable: a and b of each
  layer start from 1/2.  Departure: in the first layer, too, where V = V_1.
  """

  keeps_first_values: ClassVar[bool] = True
  crosses: ClassVar[bool] = False

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns 2 a and 2 b."""
    return {
      'first': param('->', Kind.SCALE, dims),
      'own': param('->', Kind.SCALE, dims),
    }

  def values(
    self, params: Params, v_BSKH: jax.Array, first_BSKH: jax.Array
  ) -> jax.Array:
    """Returns a V_1 + b V."""
    return 0.5 * (params['first'] * first_BSKH + params['own'] * v_BSKH)


@dataclasses.dataclass(frozen=True)
class TalkingHeads(Plain, tag='talking_heads'):
  """Heads mixed before and after the softmax (Shazeer et al. 2020).

  arXiv:2003.02436, equations 3 and 5, on the scaled logits.  Departure: the two
  matrices are 1 + P, so that heads start out nearly apart.
  """

  mixes_heads: ClassVar[bool] = True

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns both P."""
    heads = {'O': dims.num_heads}
    return {
      'logits': param('N->O', Kind.MATRIX, dims, heads),
      'weights': param('N->O', Kind.MATRIX, dims, heads),
    }

  def mix_logits(self, params: Params, logits_BNTS: jax.Array) -> jax.Array:
    """Returns (1 + P) logits."""
    return logits_BNTS + _mixed(logits_BNTS, params['logits'])

  def mix_weights(self, params: Params, weights_BNTS: jax.Array) -> jax.Array:
    """Returns (1 + P) weights."""
    return weights_BNTS + _mixed(weights_BNTS, params['weights'])


@dataclasses.dataclass(frozen=True)
class ExclusiveSelf(Plain, tag='exclusive_self'):
  """out - (out . v) v / |v|^2: nothing along the own value (Zhai 2026).

  arXiv:2603.09078, equation 2, head by head: what a position holds itself, the
  residual carries.  A value of 0 takes nothing off.
  """

  stage: ClassVar[int] = 2
  crosses: ClassVar[bool] = False

  def finish(self, params: Params, out_BTNH: jax.Array, own: Own) -> jax.Array:
    """Returns the outputs, at right angles to the values of their positions."""
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


def _mixed(x_BNTS: jax.Array, kernel_NO: jax.Array) -> jax.Array:
  return jnp.einsum('BNTS,NO->BOTS', x_BNTS, kernel_NO.astype(x_BNTS.dtype))
