"""Normalisation, and where it sits beside the residual."""

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp

from model.field import Variant, field
from model.limits import EPSILON
from model.parameter import Dims, Kind, Param, Params, add_bias, param


@dataclasses.dataclass(frozen=True)
class LayerNorm(Variant, tag='layernorm'):
  """Layer normalisation (Ba et al. 2016, arXiv:1607.06450).

  y = g (x - mean) / sqrt(var + eps) + b, over the last axis; b by --use_bias.
  """

  eps: float = field(1e-5, 'Added to the variance.', min=0.0, max=EPSILON)

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the gain and, with biases, the offset."""
    table = {'scale': param('->D', Kind.SCALE, dims)}
    if dims.use_bias:
      table['bias'] = param('->D', Kind.BIAS, dims)
    return table

  def apply(self, params: Params, x_BTD: jax.Array) -> jax.Array:
    """Returns the normalised input; the statistics are in float32."""
    wide_BTD = x_BTD.astype(jnp.promote_types(x_BTD.dtype, jnp.float32))
    wide_BTD = wide_BTD - wide_BTD.mean(-1, keepdims=True)
    var_BT1 = jnp.square(wide_BTD).mean(-1, keepdims=True)
    y_BTD = (wide_BTD * jax.lax.rsqrt(var_BT1 + self.eps)).astype(x_BTD.dtype)
    y_BTD = y_BTD * params['scale']
    return add_bias(y_BTD, params, 'bias')


@dataclasses.dataclass(frozen=True)
class RmsNorm(Variant, tag='rmsnorm'):
  """Root mean square normalisation (Zhang & Sennrich 2019, arXiv:1910.07467).

  y = g x / sqrt(mean(x^2) + eps), over the last axis.
  """

  eps: float = field(1e-6, 'Added to the mean square.', min=0.0, max=EPSILON)

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the gain."""
    return {'scale': param('->D', Kind.SCALE, dims)}

  def apply(self, params: Params, x_BTD: jax.Array) -> jax.Array:
    """Returns the normalised input; the statistics are in float32."""
    wide_BTD = x_BTD.astype(jnp.promote_types(x_BTD.dtype, jnp.float32))
    square_BT1 = jnp.square(wide_BTD).mean(-1, keepdims=True)
    y_BTD = (wide_BTD * jax.lax.rsqrt(square_BT1 + self.eps)).astype(
      x_BTD.dtype
    )
    return y_BTD * params['scale']


@dataclasses.dataclass(frozen=True)
class NoNorm(Variant, tag='none'):
  """No normalisation."""

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns no parameters."""
    del dims
    return {}

  def apply(self, params: Params, x_BTD: jax.Array) -> jax.Array:
    """Returns the input."""
    del params
    return x_BTD


Norm = LayerNorm | RmsNorm | NoNorm

Map = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class PreNorm(Variant, tag='pre'):
  """x + f(norm(x)), and a norm after the last block (Xiong et al. 2020)."""

  final_norm: ClassVar[bool] = True

  def connect(self, x_BTD: jax.Array, norm: Map, sublayer: Map) -> jax.Array:
    """Returns the residual after one sub-layer."""
    return x_BTD + sublayer(norm(x_BTD))


@dataclasses.dataclass(frozen=True)
class PostNorm(Variant, tag='post'):
  """norm(x + f(x)) (Vaswani et al. 2017, section 3.1)."""

  final_norm: ClassVar[bool] = False

  def connect(self, x_BTD: jax.Array, norm: Map, sublayer: Map) -> jax.Array:
    """Returns the residual after one sub-layer."""
    return norm(x_BTD + sublayer(x_BTD))


Residual = PreNorm | PostNorm
