"""Base class of starts: initial values that are set, not drawn at random."""

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model.architecture.architecture import Architecture
from model.core.field import FieldError, Variant
from model.core.parameter import Dims, Params
from train.core.trees import flatten, unflatten

# Values by path, as in `Architecture.parameter_table`: 'embedding/token'.
Values = Mapping[str, Any]


class StartInput(NamedTuple):
  """The input of a start.

  Attributes:
    arch: the architecture.
    dims: sizes of the axes.
    drawn: random initial values by path, from the seed and --init; layers are
      stacked along a first axis.
  """

  arch: Architecture
  dims: Dims
  drawn: Values


class Start(Variant, abc.ABC):
  """An open union: each file in `train/starts/` adds one member."""

  @abc.abstractmethod
  def values(self, given: StartInput) -> Values:
    """Returns the values that replace drawn ones, by path; jittable."""

  def begin(self, arch: Architecture, dims: Dims, params: Params) -> Params:
    """Returns the initial values: `params`, which were drawn, with its own."""
    drawn = flatten(params)
    own = self.values(StartInput(arch, dims, drawn))
    new = {p: jnp.asarray(x, drawn[p].dtype) for p, x in own.items()}
    return unflatten({**drawn, **new})

  def problem(self, arch: Architecture, dims: Dims) -> FieldError | None:
    """Returns why its values do not fit an architecture, or None if they do.

    Args:
      arch: the architecture.
      dims: sizes of the axes; the vocabulary may have any size.
    """
    table = arch.parameter_table(dims)
    drawn = {path: spec.struct for path, spec in table.items()}
    own = jax.eval_shape(
      lambda x: dict(self.values(StartInput(arch, dims, x))), drawn
    )
    for path, value in own.items():
      if path not in table:
        rule = f'sets {path}, which is no parameter here: drop it'
        return FieldError('start', self, rule)
      if value.shape != drawn[path].shape:
        return FieldError(
          'start',
          self,
          f'gives {path} the shape {value.shape}, and it has '
          f'{drawn[path].shape}: change the flags that it is made for',
        )
    if not own:
      return FieldError('start', self, 'sets no parameter here: drop it')
    return None


@dataclasses.dataclass(frozen=True)
class RandomStart(Start, tag='drawn'):
  """Random values of --init: a function of the seed and each path."""

  def values(self, given: StartInput) -> Values:
    """Returns no values."""
    del given
    return {}

  def begin(self, arch: Architecture, dims: Dims, params: Params) -> Params:
    """Returns the drawn values unchanged."""
    del arch, dims
    return params

  def problem(self, arch: Architecture, dims: Dims) -> FieldError | None:
    """Returns None: drawn values fit every architecture."""
    del arch, dims
