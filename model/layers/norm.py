"""Normalisation."""

import abc
import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from model.core.field import field
from model.core.limits import EPSILON
from model.core.parameter import (
  Dims,
  Param,
  ParametricVariant,
  ParamRole,
  PartParams,
  add_bias,
  param,
)


class NormTraits(NamedTuple):
  """Properties of a norm that the rules read.

  Attributes:
    is_identity: it returns its input.
  """

  is_identity: bool = False


class NormBase(ParametricVariant, abc.ABC):
  """Base of all norms."""

  traits: ClassVar[NormTraits] = NormTraits()

  @abc.abstractmethod
  def apply(self, params: PartParams, x_BTD: jax.Array) -> jax.Array:
    """Normalises the last axis; statistics are in float32 or wider."""


@dataclasses.dataclass(frozen=True)
class LayerNorm(NormBase, tag='layernorm'):
  """Layer normalisation (Ba et al. 2016, arXiv:1607.06450).

  y = g (x - mean) / sqrt(var + eps) + b, over the last axis.
  """

  eps: float = field(1e-5, 'Added to the variance.', min=0.0, max=EPSILON)

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the gain g and, by --use_bias, the offset b."""
    table = {'scale': param('->D', ParamRole.SCALE, dims)}
    if dims.use_bias:
      table['bias'] = param('->D', ParamRole.BIAS, dims)
    return table

  def apply(self, params: PartParams, x_BTD: jax.Array) -> jax.Array:
    """Normalises the last axis; statistics are in float32 or wider."""
    wide_BTD = x_BTD.astype(jnp.promote_types(x_BTD.dtype, jnp.float32))
    wide_BTD = wide_BTD - wide_BTD.mean(-1, keepdims=True)
    var_BT1 = jnp.square(wide_BTD).mean(-1, keepdims=True)
    y_BTD = (wide_BTD * jax.lax.rsqrt(var_BT1 + self.eps)).astype(x_BTD.dtype)
    y_BTD = y_BTD * params['scale']
    return add_bias(y_BTD, params, 'bias')


@dataclasses.dataclass(frozen=True)
class RmsNorm(NormBase, tag='rmsnorm'):
  """Root mean square normalisation (Zhang & Sennrich 2019, arXiv:1910.07467).

  y = g x / sqrt(mean(x^2) + eps), over the last axis.
  """

  eps: float = field(1e-6, 'Added to the mean square.', min=0.0, max=EPSILON)

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the gain g."""
    return {'scale': param('->D', ParamRole.SCALE, dims)}

  def apply(self, params: PartParams, x_BTD: jax.Array) -> jax.Array:
    """Normalises the last axis; statistics are in float32 or wider."""
    wide_BTD = x_BTD.astype(jnp.promote_types(x_BTD.dtype, jnp.float32))
    square_BT1 = jnp.square(wide_BTD).mean(-1, keepdims=True)
    y_BTD = (wide_BTD * jax.lax.rsqrt(square_BT1 + self.eps)).astype(
      x_BTD.dtype
    )
    return y_BTD * params['scale']


@dataclasses.dataclass(frozen=True)
class NoNorm(NormBase, tag='none'):
  """No normalisation."""

  traits: ClassVar[NormTraits] = NormTraits(is_identity=True)

  def apply(self, params: PartParams, x_BTD: jax.Array) -> jax.Array:
    """Returns the input."""
    del params
    return x_BTD
