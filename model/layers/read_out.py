"""Read-out: replaces the unembedding where the model predicts vectors."""

import abc
import dataclasses

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
  param,
)


class ReadOutBase(ParametricVariant, abc.ABC):
  """Base of all read-outs, from the residual stream to predicted vectors."""

  def problem(self, dims: Dims) -> FieldError | None:
    """Returns an error if vectors of this width cannot be predicted."""
    del dims
    return None

  @abc.abstractmethod
  def apply(
    self, params: PartParams, x_BTD: jax.Array, width: int
  ) -> jax.Array:
    """Returns outputs_BTO, the predicted vectors, in float32 or wider.

    Args:
      params: the parameters that `params(dims)` lists.
      x_BTD: output of the last block.
      width: O, width of the vectors.
    """


@dataclasses.dataclass(frozen=True)
class LinearReadOut(ReadOutBase, tag='linear'):
  """x W with a trained W (Garg et al. 2022, arXiv:2208.01066, section 2.2).

  Departure: no bias, as an unembedding has none.
  """

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns W."""
    return {'kernel': param('D->O', ParamRole.MATRIX, dims)}

  def apply(
    self, params: PartParams, x_BTD: jax.Array, width: int
  ) -> jax.Array:
    """Returns x W."""
    del width
    return linear(x_BTD, params['kernel'], dtype=_wide(x_BTD))


@dataclasses.dataclass(frozen=True)
class LastReadOut(ReadOutBase, tag='last'):
  """The last coordinates of x (von Oswald et al. 2023, arXiv:2212.07677).

  Departure: the paper reads their negative; W_O can learn the sign.
  """

  def problem(self, dims: Dims) -> FieldError | None:
    """Returns an error if x has too few coordinates, else `None`."""
    if dims.num_outputs <= dims.d_model:
      return None
    return FieldError(
      'read_out',
      self,
      f'takes {dims.num_outputs} coordinates of --d_model={dims.d_model}: make '
      'that larger, or try --read_out=linear',
    )

  def apply(
    self, params: PartParams, x_BTD: jax.Array, width: int
  ) -> jax.Array:
    """Returns the last coordinates."""
    del params
    return x_BTD[..., x_BTD.shape[-1] - width :].astype(_wide(x_BTD))


def _wide(x_BTD: jax.Array) -> jnp.dtype:
  return jnp.promote_types(x_BTD.dtype, jnp.float32)
