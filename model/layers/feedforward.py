"""The feed-forward sub-layer."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from model.core.dropout import dropout
from model.core.field import FieldError, field
from model.core.limits import DROPOUT_RATE, WIDTH
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
from model.core.side_output import Aux
from model.layers.activations import activated


class FeedForwardTraits(NamedTuple):
  """Properties of a feed-forward sub-layer that the rules read.

  Attributes:
    is_absent: blocks have no such sub-layer.
  """

  is_absent: bool = False


class FeedForwardBase(ParametricVariant, abc.ABC):
  """Base of all feed-forward sub-layers."""

  traits: ClassVar[FeedForwardTraits] = FeedForwardTraits()

  @property
  def order_dependence(self) -> FieldError | None:
    """Returns the field that makes outputs depend on earlier positions.

    It is given as an error, for a rule to report.  `None` means that each
    position is computed by itself.
    """
    return None

  def batch_problem(self) -> FieldError | None:
    """Returns an error if the loss needs the whole batch, else `None`."""
    return None

  @abc.abstractmethod
  def apply(
    self,
    params: PartParams,
    x_BTD: jax.Array,
    rngs_B: jax.Array | None,
    segments_BT: jax.Array | None,
  ) -> tuple[jax.Array, Aux]:
    """Returns the output y_BTD of the sub-layer, and its side outputs.

    Args:
      params: the parameters that `params(dims)` lists.
      x_BTD: input.
      rngs_B: one PRNG key per example, for dropout; `None` disables it.
      segments_BT: segments of the positions, 0 for padding; `None` if there is
        no padding.
    """

  def penalty_B(
    self, aux: Aux, sum_over_devices: Callable[[jax.Array], jax.Array]
  ) -> jax.Array | None:
    """Returns a penalty that is added to the loss of each target, by example.

    Args:
      aux: side outputs of all layers of a stack, with axes L, B and their own.
      sum_over_devices: sums an array over the devices that share the batch.

    Returns:
      The penalties, or `None` if there are none.
    """
    del aux, sum_over_devices
    return None

  def after_update(
    self, params: PartParams, sums: Mapping[str, Any]
  ) -> PartParams:
    """Applies the changes to parameters that do not come from gradients.

    Args:
      params: parameters of all layers after the update, with a first axis L.
      sums: side outputs summed over the batch, by name, with a first axis L.
    """
    del sums
    return params

  def figures(self, sums: Mapping[str, Any]) -> dict[str, float]:
    """Returns metrics for the evaluation, by name.

    Args:
      sums: side outputs summed over examples, by name, with a first axis L.
    """
    del sums
    return {}


@dataclasses.dataclass(frozen=True)
class Mlp(FeedForwardBase, tag='mlp'):
  """f(x W_1) W_2 at each position (Vaswani et al. 2017, section 3.3)."""

  activation: Literal['relu', 'gelu'] = field(
    'gelu', 'f: max(0, x), or the exact x Phi(x) (arXiv:1606.08415):'
  )
  width: int | None = field(
    None, 'Hidden units; `none` is 4 x --d_model.', min=1, max=WIDTH
  )
  dropout: float = field(
    0.0, 'Dropout of the hidden units.', min=0.0, max=DROPOUT_RATE, traced=True
  )

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns W_1 and W_2, with biases by --use_bias."""
    hidden = {'F': self.width or 4 * dims.d_model}
    table = {
      'up': param('D->F', ParamRole.MATRIX, dims, hidden),
      'down': param('F->D', ParamRole.RESIDUAL, dims, hidden),
    }
    if dims.use_bias:
      table['up_bias'] = param('->F', ParamRole.BIAS, dims, hidden)
      table['down_bias'] = param('->D', ParamRole.BIAS, dims)
    return table

  def apply(
    self,
    params: PartParams,
    x_BTD: jax.Array,
    rngs_B: jax.Array | None,
    segments_BT: jax.Array | None,
  ) -> tuple[jax.Array, Aux]:
    """Returns f(x W_1 + b_1) W_2 + b_2."""
    del segments_BT
    h_BTF = linear(x_BTD, params['up'])
    h_BTF = add_bias(h_BTF, params, 'up_bias')
    h_BTF = dropout(activated(h_BTF, self.activation), self.dropout, rngs_B)
    y_BTD = linear(h_BTF, params['down'])
    return add_bias(y_BTD, params, 'down_bias'), {}


@dataclasses.dataclass(frozen=True)
class NoFeedForward(FeedForwardBase, tag='none'):
  """Attention only (Elhage et al. 2021; Edelman et al. 2024)."""

  traits: ClassVar[FeedForwardTraits] = FeedForwardTraits(is_absent=True)

  def apply(
    self,
    params: PartParams,
    x_BTD: jax.Array,
    rngs_B: jax.Array | None,
    segments_BT: jax.Array | None,
  ) -> tuple[jax.Array, Aux]:
    """Returns zeros; never called, as blocks then have no such sub-layer."""
    del params, rngs_B, segments_BT
    return jnp.zeros_like(x_BTD), {}
