"""The state of a trial between two steps, and its initial value."""

import collections
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from model import transformer
from model.core.parameter import Dims, Params, key_of
from train.config.config import Config


class TrainState(NamedTuple):
  """The training state between two steps.

  Attributes:
    step: number of steps done.
    params: the parameters.
    opt_state: of the optimiser.
    diverged: first step, counted from 0, whose loss or gradient was not finite,
      else -1; from that step on everything but `step` stays as it is.
    average: of the parameters, or None without --average.
    after: states of the rules of --after_update by tag, or None.
  """

  step: jax.Array
  params: Params
  opt_state: optax.OptState
  diverged: jax.Array
  average: Params | None = None
  after: dict[str, Any] | None = None

  @property
  def eval_params(self) -> Params:
    """Returns the parameters to evaluate: the average if there is one."""
    return self.params if self.average is None else self.average

  @property
  def checkpoint_tree(self) -> Any:
    """Returns the value to checkpoint: a named tuple of the fields not None.

    So a field that is added later does not change the checkpoints of trials
    that do not use it.
    """
    there = {k: x for k, x in self._asdict().items() if x is not None}
    return _saved(tuple(there))(**there)

  @classmethod
  def from_checkpoint(cls, saved: Any) -> 'TrainState':
    """Returns the state, from the value of a checkpoint."""
    return cls(**saved._asdict())


@functools.cache
def _saved(names: tuple[str, ...]) -> Any:
  """Returns the class of named tuples that checkpoints hold.

  Cached, since a tree of another class would not match.
  """
  return collections.namedtuple('Saved', names)


def init_state(
  config: Config, dims: Dims, params: Params | None = None
) -> TrainState:
  """Returns the state before the first step.

  Args:
    config: the trial, with its traced numbers.
    dims: sizes of the axes.
    params: initial values, or None to draw them from the seed.
  """
  if params is None:
    key = key_of('init', jax.random.key(config.seed))
    params = transformer.init(config.architecture, dims, key)
    params = config.start.begin(config.architecture, dims, params)
  table = config.architecture.parameter_table(dims)
  total = jnp.asarray(config.steps)
  first, after = config.optimization.start(table, params)
  opt_state = config.optimization.transform(table, total).init(first)
  zero = jnp.zeros((), jnp.int32)
  average = config.optimization.average.start(first)
  return TrainState(zero, first, opt_state, zero - 1, average, after)
