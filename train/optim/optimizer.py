"""The update of parameters: optimiser, schedule, decay, freezing, averages."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp

import train.optim  # noqa: F401  (its files are the members of the unions)
from model.core.field import FieldError, Record, field
from model.core.limits import COUNT, REAL
from model.core.parameter import Param, ParamRole
from train.core.paths import match_paths
from train.core.trees import ArrayTree, unflatten
from train.optim.adamw import AdamW
from train.optim.average import Average, NoAverage
from train.optim.base import (
  AfterUpdate,
  NoAfterUpdate,
  Optimizer,
  UpdateContext,
)
from train.optim.group import Group, Pace, group_members, scale_by_pace
from train.optim.schedule import Cosine, Schedule

if TYPE_CHECKING:
  import optax


@dataclasses.dataclass(frozen=True)
class Optimization(Record):
  """Optimization: how the parameters change."""

  learning_rate: float = field(
    1e-3, 'Peak learning rate.', min=0.0, max=REAL, traced=True
  )
  warmup_steps: int = field(
    100, 'Steps of linear warm-up to the peak.', min=0, max=COUNT, traced=True
  )
  schedule: Schedule = field(Cosine(), 'Learning rate after the warm-up:')
  optimizer: Optimizer = field(AdamW(), 'Optimiser:')
  weight_decay: float = field(
    0.1,
    'Decoupled weight decay, multiplied by the learning rate.',
    min=0.0,
    max=REAL,
    traced=True,
  )
  decay: Literal['matrices', 'all'] = field(
    'matrices',
    'Which parameters decay; matrices includes embeddings, but no gain, bias '
    'or vector:',
  )
  clip: float | None = field(
    1.0, 'Largest global norm of the gradient.', min=0.0, max=REAL, traced=True
  )
  freeze: str | None = field(
    None, 'Regular expression for the paths of parameters not to train.'
  )
  groups: tuple[Group, ...] = field(
    (),
    'Parameters with a learning rate, decay or schedule of their own, by the '
    'first rule that matches, such as "^embedding/: factor=0.1; '
    'kind=scale|bias: weight_decay=0.1":',
  )
  after_update: tuple[AfterUpdate, ...] = field(
    (NoAfterUpdate(),),
    'What changes parameters after each update, a list, in order:',
  )
  average: Average = field(NoAverage(), 'What is evaluated and saved:')

  def problems(self) -> Iterator[FieldError]:
    """Yields errors of flags under which nothing would be trained."""
    if self.learning_rate == 0:
      yield FieldError(
        'learning_rate',
        self.learning_rate,
        'moves nothing: make it larger, or say --freeze=. to train nothing',
      )
    if self.clip == 0:
      yield FieldError(
        'clip',
        self.clip,
        'clips every gradient to nothing: --clip=none is off',
      )
    tags = [rule.tag for rule in self.after_update]
    if len(set(tags)) < len(tags):
      yield FieldError('after_update', self.after_update, 'must name each once')
    if NoAfterUpdate.tag in tags and len(tags) > 1:
      yield FieldError(
        'after_update',
        self.after_update,
        'none has no effect beside others: drop it',
      )

  def check(self, table: Mapping[str, Param], steps: int) -> None:
    """Raises a FieldError if a flag does not fit the parameters."""
    moving = self._moving(table)
    self._members(table)
    if not moving:
      return  # a warning says so
    free = self._free(table)
    for found in (
      self.optimizer.problem(moving),
      *(rule.problem(free, steps) for rule in self.after_update),
    ):
      if found:
        raise found

  def warnings(
    self, table: Mapping[str, Param], steps: int
  ) -> Iterator[FieldError]:
    """Yields settings that are likely a mistake in a run of `steps` steps."""
    if self.warmup_steps >= steps:
      share = steps / (self.warmup_steps + 1)
      yield FieldError(
        'warmup_steps',
        self.warmup_steps,
        f'is no shorter than --steps={steps}: the learning rate comes to '
        f'{share:.2g} of --learning_rate={self.learning_rate:g}',
      )
    if self._decrease >= 1:
      yield FieldError(
        'weight_decay',
        self.weight_decay,
        f'times --learning_rate={self.learning_rate:g} takes all of a '
        'parameter off in one step',
      )
    for doubt in self.optimizer.doubts():
      yield doubt.under('optimizer.')
    for group in self.groups:
      pace = group.pace(self._pace)
      if pace.warmup_steps >= steps > self.warmup_steps:
        yield group.wrong(f'its warm-up is no shorter than --steps={steps}')
      if pace.peak * pace.weight_decay >= 1 > self._decrease:
        yield group.wrong('takes all of a parameter off in one step')
    if not self._moving(table):
      yield FieldError(
        'freeze', self.freeze, 'holds every parameter: nothing is trained'
      )

  def frozen(self, table: Mapping[str, Param]) -> frozenset[str]:
    """Returns the paths of the parameters that --freeze names."""
    if self.freeze is None:
      return frozenset()
    return match_paths('freeze', self.freeze, table)

  def untrained(self, table: Mapping[str, Param]) -> frozenset[str]:
    """Returns the paths without a gradient: frozen parameters and states."""
    states = {p for p, spec in table.items() if spec.role is ParamRole.STATE}
    return self.frozen(table) | states

  def decayed(self, table: Mapping[str, Param]) -> frozenset[str]:
    """Returns the paths of the parameters that decay."""
    return frozenset(
      path
      for path, spec in self._moving(table).items()
      if self.decay == 'all' or spec.is_matrix
    )

  def _moving(self, table: Mapping[str, Param]) -> dict[str, Param]:
    """Returns the parameters that are trained."""
    untrained = self.untrained(table)
    return {path: spec for path, spec in table.items() if path not in untrained}

  def _free(self, table: Mapping[str, Param]) -> dict[str, Param]:
    """Returns the parameters that are not frozen."""
    frozen = self.frozen(table)
    return {path: spec for path, spec in table.items() if path not in frozen}

  def _members(self, table: Mapping[str, Param]) -> dict[str, int]:
    """Returns the index of the group of each parameter that is in one."""
    return group_members(self.groups, table, self._moving(table))

  @property
  def _decrease(self) -> float:
    """Returns the share of a parameter that one step of decay takes off."""
    return self.learning_rate * self.weight_decay

  @property
  def _pace(self) -> Pace:
    """Returns the pace of parameters that decay and are in no group."""
    return Pace(
      self.learning_rate, self.warmup_steps, self.schedule, self.weight_decay
    )

  def rate(self, step: jax.Array, total: jax.Array) -> jax.Array:
    """Returns the learning rate of a step, counted from 0."""
    return self._pace.rate(step, total)

  def transform(
    self, table: Mapping[str, Param], total: jax.Array
  ) -> 'optax.GradientTransformation':
    """Returns the chain: clip, optimiser, decay, times minus learning rate.

    Parameters that are not trained have gradients of zero and do not decay, so
    their update is exactly zero.
    """
    import optax

    chain = [] if self.clip is None else [optax.clip_by_global_norm(self.clip)]
    chain.append(self.optimizer.scale(table))
    if paces := self._paces(table):
      return optax.chain(*chain, scale_by_pace(paces, total))
    decayed = self.decayed(table)
    decays = {path: path in decayed for path in table}
    if not (isinstance(self.weight_decay, float) and self.weight_decay == 0.0):
      mask = unflatten(decays)
      chain.append(optax.add_decayed_weights(self.weight_decay, mask))
    chain.append(
      optax.scale_by_schedule(lambda step: -self.rate(jnp.asarray(step), total))
    )
    return optax.chain(*chain)

  def _paces(self, table: Mapping[str, Param]) -> dict[str, Pace]:
    """Returns the pace of each parameter by path, or {} if all have one."""
    groups, peaks = self._members(table), self.optimizer.rates(table)
    if not groups and not peaks:
      return {}
    decayed, usual = self.decayed(table), self._pace
    distinct: dict[Any, Pace] = {}
    paces = {}
    for path in table:
      index, decays = groups.get(path), path in decayed
      key = (index, decays, path in peaks)
      if key not in distinct:
        pace = usual._replace(
          peak=peaks.get(path, usual.peak),
          weight_decay=usual.weight_decay if decays else 0.0,
        )
        grouped = index is not None
        distinct[key] = self.groups[index].pace(pace) if grouped else pace
      paces[path] = distinct[key]
    return paces

  @property
  def _changes(self) -> bool:
    """Returns whether any rule changes parameters after an update."""
    return not isinstance(self.after_update[0], NoAfterUpdate)

  def start(
    self, table: Mapping[str, Param], params: ArrayTree
  ) -> tuple[ArrayTree, dict[str, Any] | None]:
    """Returns the parameters before the first step, and states of rules.

    The states are by tag; None if no rule has one.
    """
    if not self._changes:
      return params, None
    states, free, before = {}, self._free(table), params
    for rule in self.after_update:
      params, state = rule.start(free, params)
      if state is not None:
        states[rule.tag] = state
    return self._restore_frozen(table, params, before), states or None

  def after(
    self, kept: Mapping[str, Any] | None, before: ArrayTree, now: UpdateContext
  ) -> tuple[ArrayTree, dict[str, Any] | None]:
    """Returns the parameters and states after the rules of --after_update.

    Args:
      kept: states of the rules, by tag.
      before: the parameters before the update.
      now: what the rules read, with the table of all parameters.
    """
    if not self._changes:
      return now.params, None
    states, table = dict(kept or {}), now.table
    now = now._replace(table=self._free(table))
    for rule in self.after_update:
      params, state = rule.after(states.get(rule.tag), now)
      now = now._replace(params=params)
      if state is not None:
        states[rule.tag] = state
    return self._restore_frozen(table, now.params, before), states or None

  def _restore_frozen(
    self, table: Mapping[str, Param], params: ArrayTree, before: ArrayTree
  ) -> ArrayTree:
    """Returns the parameters, with frozen ones as they were before."""
    frozen = self.frozen(table)
    if not frozen:
      return params
    is_frozen = unflatten({path: path in frozen for path in table})
    return jax.tree.map(
      lambda new, old, f: old if f else new, params, before, is_frozen
    )
