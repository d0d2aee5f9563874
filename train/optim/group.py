"""Groups of parameters with their own learning rate, decay and schedule.

A group names parameters by path or by kind.  Each parameter belongs to the
first group that names it; parameters in no group use the global flags.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from model.core.field import FieldError, Variant, field
from model.core.limits import COUNT, REAL
from model.core.parameter import ParamRole
from train.core.paths import match_paths
from train.core.trees import ArrayTree
from train.flags.schema import ListEntry
from train.flags.suggest import suggest_value
from train.optim.base import ParamTable, map_paths
from train.optim.schedule import Cosine, Schedule

if TYPE_CHECKING:
  import optax

_KIND = 'kind='


class Pace(NamedTuple):
  """The learning rate and decay of a parameter; numbers may be traced."""

  peak: Any
  warmup_steps: Any
  schedule: Schedule
  weight_decay: Any

  def rate(self, step: jax.Array, total: jax.Array) -> jax.Array:
    """Returns the learning rate of a step, counted from 0.

    peak * min(1, (step + 1) / (warmup_steps + 1)) * shape(step)
    """
    warm = jnp.minimum(1.0, (step + 1) / (self.warmup_steps + 1))
    shape = self.schedule.shape(step, jnp.asarray(self.warmup_steps), total)
    return self.peak * warm * shape


_USUAL = Pace(1.0, None, Cosine(), None)


@dataclasses.dataclass(frozen=True)
class SharedSchedule(Variant, tag='shared'):
  """The schedule of all other parameters."""


@dataclasses.dataclass(frozen=True)
class Group(ListEntry):
  """Parameters with their own learning rate, decay or schedule."""

  which: str = field(
    '', 'Regular expression that matches parameter paths, or kind=KIND|KIND.'
  )
  factor: float = field(
    1.0, 'Factor of --learning_rate.', min=0.0, max=REAL, traced=True
  )
  weight_decay: float | None = field(
    None,
    'Replaces --weight_decay, whatever --decay says.',
    min=0.0,
    max=REAL,
    traced=True,
  )
  warmup_steps: int | None = field(
    None, 'Replaces --warmup_steps.', min=0, max=COUNT, traced=True
  )
  schedule: SharedSchedule | Schedule = field(
    SharedSchedule(), 'Replaces --schedule, e.g. schedule=cosine:'
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields errors of groups without effect."""
    if self.factor == 0:
      yield FieldError(
        'factor', self.factor, 'moves nothing: say --freeze, or make it larger'
      )
    if self.which and self.pace(_USUAL) == _USUAL:
      yield FieldError(
        'factor', self.factor, 'changes nothing: give another, or weight_decay'
      )

  def pace(self, usual: Pace) -> Pace:
    """Returns the pace of its parameters, from that without the group."""
    decay, warmup, schedule = (
      self.weight_decay,
      self.warmup_steps,
      self.schedule,
    )
    return Pace(
      usual.peak * self.factor,
      usual.warmup_steps if warmup is None else warmup,
      usual.schedule if isinstance(schedule, SharedSchedule) else schedule,
      usual.weight_decay if decay is None else decay,
    )

  def named(self, table: ParamTable) -> frozenset[str]:
    """Returns the paths that it names; raises FieldError if there are none."""
    if not self.which:
      raise self.wrong('names no parameter: begin with a pattern or kind=KIND')
    if not self.which.startswith(_KIND):
      return _matching(self, table)
    kinds = self.which.removeprefix(_KIND).split('|')
    known = [kind.value for kind in ParamRole]
    for kind in kinds:
      if kind not in known:
        raise self.wrong(
          f'kind must be one of {"|".join(known)}{suggest_value(kind, known)}'
        )
    found = {p for p, spec in table.items() if spec.role.value in kinds}
    if not found:
      there = dict.fromkeys(spec.role.value for spec in table.values())
      raise self.wrong(f'matches no parameter: there are {"|".join(there)}')
    return frozenset(found)

  def wrong(self, rule: str) -> FieldError:
    """Returns an error of this group."""
    return FieldError('groups', str(self), rule)


def _matching(group: Group, table: ParamTable) -> frozenset[str]:
  """Returns the paths that a regular expression matches."""
  try:
    return match_paths('groups', group.which, table)
  except FieldError as e:
    raise group.wrong(e.rule) from e


def group_members(
  groups: Sequence[Group], table: ParamTable, trained: Iterable[str]
) -> dict[str, int]:
  """Returns the index of the group of each trained parameter that is in one.

  A parameter belongs to the first group that names it.

  Raises:
    FieldError: a group has no parameter.
  """
  found: dict[str, int] = {}
  for number, group in enumerate(groups):
    named = group.named(table)
    if not (own := [path for path in trained if path in named]):
      raise group.wrong('matches only what is not trained: drop it')
    if all(path in found for path in own):
      raise group.wrong(
        'is left no parameter by the groups before it: put it before them'
      )
    found = dict.fromkeys(own, number) | found
  return found


class PaceState(NamedTuple):
  """The number of steps taken."""

  count: jax.Array


def scale_by_pace(
  paces: Mapping[str, Pace], total: jax.Array
) -> 'optax.GradientTransformation':
  """Returns a transformation that applies each parameter's decay and rate.

  p <- p - rate (step + decay p)
  """
  import optax

  def init(params: ArrayTree) -> PaceState:
    del params
    return PaceState(jnp.zeros((), jnp.int32))

  def update(updates: ArrayTree, state: Any, params: ArrayTree = None) -> Any:
    # By identity: a pace may hold tracers, which cannot be compared.
    rates = {id(pace): pace.rate(state.count, total) for pace in paces.values()}

    def move(path: str, step: jax.Array, p: jax.Array) -> jax.Array:
      pace = paces[path]
      decay = pace.weight_decay
      if not (isinstance(decay, float) and decay == 0.0):
        step = step + decay * p
      return -rates[id(pace)] * step

    moved = map_paths(move, updates, params)
    return moved, PaceState(jnp.asarray(optax.safe_increment(state.count)))

  return optax.GradientTransformation(init, update)
