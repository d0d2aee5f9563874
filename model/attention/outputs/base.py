"""Outputs: changes to attention beside the weighted sum of values.

A variant overrides hooks of `OutputBase`, which do nothing by default.
--output is a list of variants.  Whatever its order, hooks run in this order:

  values       changes the values, before they are cached
  running      running sum of the logarithm of a decay, cached with the keys
  mix_logits   mixes the scaled logits of all heads; cap and biases follow, and
               then the difference of `running` between query and key is added
  mix_weights  mixes the weights of all heads
  join         joins the maps of a head, if it has several
  finish       changes the outputs of the heads, in order of `stage`; the head
               gates follow
"""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from model.core.field import FieldError
from model.core.linear import linear
from model.core.parameter import (
  Dims,
  Param,
  ParametricVariant,
  ParamRole,
  PartParams,
  add_bias,
  param,
)


class QueryContext(NamedTuple):
  """Further arguments of `finish`, for the position of each query.

  Attributes:
    x_BTD: input of attention.
    v_BTKH: values at the positions of the queries, in self-attention.
    layer: number of the layer, from 0.
  """

  x_BTD: jax.Array
  v_BTKH: jax.Array
  layer: jax.Array


class OutputTraits(NamedTuple):
  """Properties of an output that the rules read.

  Attributes:
    stage: `finish` runs in ascending order of stages.
    maps: number of attention maps per head.  Each has queries and keys of
      1 / maps of the width; all share the same values.
    keeps_first_values: `values` reads the values of the first layer.
    mixes_heads: it overrides `mix_logits` or `mix_weights`.
    decays: it overrides `running`, with a decay of the past.
    crosses: it also applies to cross-attention, not only to self-attention.
    is_nothing: it does nothing, so it has no effect beside others.
  """

  stage: int = 0
  maps: int = 1
  keeps_first_values: bool = False
  mixes_heads: bool = False
  decays: bool = False
  crosses: bool = True
  is_nothing: bool = False


class OutputBase(ParametricVariant):
  """Base of all outputs; its hooks do nothing."""

  traits: ClassVar[OutputTraits] = OutputTraits()

  def problem(self, dims: Dims) -> FieldError | None:
    """Returns an error if the variant does not fit these sizes, or `None`."""
    del dims
    return None

  def values(
    self, params: PartParams, v_BSKH: jax.Array, first_BSKH: jax.Array
  ) -> jax.Array:
    """Returns the values to use, given also those of the first layer."""
    del params, first_BSKH
    return v_BSKH

  def running(
    self,
    params: PartParams,
    x_BTD: jax.Array,
    before_BN: jax.Array,
    place_BT: jax.Array | None = None,
  ) -> jax.Array:
    """Returns running_BTN, the running sum of log decay, in float32 or wider.

    It is called only if the traits have `decays`.

    Args:
      params: the parameters that `params(dims)` lists.
      x_BTD: input of attention.
      before_BN: running sum at the position before the input; 0 at the start.
      place_BT: positions in documents, if the row has several: the sum restarts
        from 0 at place 0.
    """
    del params, place_BT
    return jnp.broadcast_to(
      before_BN[:, None], (*x_BTD.shape[:2], before_BN.shape[-1])
    )

  def mix_logits(self, params: PartParams, logits_BNTS: jax.Array) -> jax.Array:
    """Mixes the logits of different heads."""
    del params
    return logits_BNTS

  def mix_weights(
    self, params: PartParams, weights_BNTS: jax.Array
  ) -> jax.Array:
    """Mixes the weights of different heads."""
    del params
    return weights_BNTS

  def join(
    self, params: PartParams, maps: Sequence[jax.Array], layer: jax.Array
  ) -> jax.Array:
    """Joins the maps of a head; it is called on outputs and on weights."""
    del params, layer
    (only,) = maps
    return only

  def finish(
    self, params: PartParams, out_BTNH: jax.Array, own: QueryContext
  ) -> jax.Array:
    """Changes the outputs of the heads, before W_O."""
    del params, own
    return out_BTNH


@dataclasses.dataclass(frozen=True)
class Plain(OutputBase, tag='plain'):
  """normaliser(logits) v, with nothing else (Vaswani et al. 2017)."""

  traits: ClassVar[OutputTraits] = OutputTraits(is_nothing=True)


@dataclasses.dataclass(frozen=True)
class Gate(OutputBase, tag='gate'):
  """out * sigmoid(x W_g), for each unit of each head (Qiu et al. 2025).

  arXiv:2505.06708, section 2.2, position G1, elementwise.
  """

  traits: ClassVar[OutputTraits] = OutputTraits(stage=3)

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns W_g, with a bias by --use_bias."""
    table = {'kernel': param('D->NH', ParamRole.MATRIX, dims)}
    if dims.use_bias:
      table['bias'] = param('->NH', ParamRole.BIAS, dims)
    return table

  def finish(
    self, params: PartParams, out_BTNH: jax.Array, own: QueryContext
  ) -> jax.Array:
    """Returns out * sigmoid(x W_g)."""
    gate_BTNH = linear(own.x_BTD, params['kernel'])
    return out_BTNH * jax.nn.sigmoid(add_bias(gate_BTNH, params, 'bias'))
