"""Base classes of optimisers, and of rules that follow each update.

Both read the table of parameters (`Param` in model/core/parameter.py, by path):
which of them are matrices, of what size, and in how many layers.
"""

import abc
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax

from model.core.field import FieldError, Variant
from model.core.parameter import Param
from train.core.trees import ArrayTree
from train.optim.average import UpdateTime

if TYPE_CHECKING:
  import optax

ParamTable = Mapping[str, Param]


def map_paths(fn: Callable[..., Any], params: ArrayTree, *rest: Any) -> Any:
  """Returns the tree of `fn(path, array, *arrays)`, with arrays of `rest`.

  A path is a key of the table, such as 'embedding/token'.
  """

  def call(keys: Any, *arrays: Any) -> Any:
    path = jax.tree_util.keystr(keys, simple=True, separator='/')
    return fn(path, *arrays)

  return jax.tree_util.tree_map_with_path(call, params, *rest)


@dataclasses.dataclass(frozen=True)
class Optimizer(Variant, abc.ABC):
  """An open union: each file in `train/optim/` adds one family."""

  @abc.abstractmethod
  def scale(self, table: ParamTable) -> 'optax.GradientTransformation':
    """Returns the transformation of gradients, before decay and learning rate.

    Parameters that are not trained have gradients of zero, for which it must
    return zero.
    """

  def rates(self, table: ParamTable) -> Mapping[str, Any]:
    """Returns the peak learning rates that it sets itself, by path."""
    del table
    return {}

  def problem(self, table: ParamTable) -> FieldError | None:
    """Returns why it does not fit the trained parameters, or None."""
    del table

  def doubts(self) -> Iterator[FieldError]:
    """Yields settings that are allowed but likely a mistake."""
    return iter(())


class UpdateContext(NamedTuple):
  """What a rule of --after_update reads.

  Attributes:
    table: the parameters that it may change: all that are not frozen.
    params: all parameters, after the update.
    aux: side outputs of the forward pass by group and name, such as
      'blocks/load', summed over the batch: over
      micro-batches and devices too.
    at: the time of the update.
  """

  table: ParamTable
  params: ArrayTree
  aux: Mapping[str, jax.Array]
  at: UpdateTime


class AfterUpdate(Variant, abc.ABC):
  """An open union: rules that change parameters after each update.

  A value that the model reads, such as the bias of an expert, is a parameter of
  `ParamRole.STATE`, which nothing else changes.  A value that only the rule
  needs is its own state.  Both are saved with the trial.
  """

  def problem(self, table: ParamTable, steps: int) -> FieldError | None:
    """Returns why it does not fit the parameters or the run, or None."""
    del table, steps

  def start(
    self, table: ParamTable, params: ArrayTree
  ) -> tuple[ArrayTree, Any]:
    """Returns the parameters before the first step, and its state.

    The state is a tree of arrays, or None if it needs none.
    """
    del table
    return params, None

  @abc.abstractmethod
  def after(self, state: Any, now: UpdateContext) -> tuple[ArrayTree, Any]:
    """Returns the changed parameters, and its state."""


@dataclasses.dataclass(frozen=True)
class NoAfterUpdate(AfterUpdate, tag='none'):
  """Only the optimiser changes parameters."""

  def after(self, state: Any, now: UpdateContext) -> tuple[ArrayTree, Any]:
    """Returns the parameters unchanged."""
    return now.params, state
