"""Read-in: replaces the embedding where the model reads vectors."""

import abc
import dataclasses

import jax

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


class ReadInBase(ParametricVariant, abc.ABC):
  """Base of all read-ins, from input vectors to the residual stream."""

  def problem(self, dims: Dims) -> FieldError | None:
    """Returns an error if vectors of this width cannot be read, else `None`."""
    del dims
    return None

  @abc.abstractmethod
  def apply(self, params: PartParams, vectors_BTI: jax.Array) -> jax.Array:
    """Returns x_BTD."""


@dataclasses.dataclass(frozen=True)
class LinearReadIn(ReadInBase, tag='linear'):
  """v W with a trained W (Garg et al. 2022, arXiv:2208.01066, section 2.2).

  Departure: no bias, as an embedding of tokens has none.
  """

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns W."""
    return {'kernel': param('I->D', ParamRole.MATRIX, dims)}

  def apply(self, params: PartParams, vectors_BTI: jax.Array) -> jax.Array:
    """Returns v W."""
    return linear(vectors_BTI, params['kernel'])


@dataclasses.dataclass(frozen=True)
class IdentityReadIn(ReadInBase, tag='identity'):
  """v itself, of width --d_model (von Oswald et al. 2023, arXiv:2212.07677)."""

  def problem(self, dims: Dims) -> FieldError | None:
    """Returns an error if vectors are not as wide as the residual stream."""
    if dims.num_inputs == dims.d_model:
      return None
    return FieldError(
      'read_in',
      self,
      f'makes vectors of width {dims.num_inputs} the residual, of '
      f'--d_model={dims.d_model}: make both equal, or try --read_in=linear',
    )

  def apply(self, params: PartParams, vectors_BTI: jax.Array) -> jax.Array:
    """Returns v."""
    del params
    return vectors_BTI
