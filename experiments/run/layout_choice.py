"""Chooses the layout of a run: as learned before, by measuring, or by rule.

Measuring costs a compilation for each layout, most of which are thrown away.
So it may take at most a share of what the trials are expected to take, and what
it finds is kept in the user's cache.
"""

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax

from experiments.planning import speed
from experiments.planning.cost import (
  EFFICIENCY,
  cost_on,
  flops_per_second,
  trial_bytes,
)
from experiments.planning.layout import MEASURED, LayoutChoice
from train.devices.parallel import Layout, SharedLayout, parse_layout
from train.host_feed import Feeding
from train.timing import MEASURE_STEPS, seconds_per_step
from train.trial import Options, Trial

MEASURING = 0.05  # largest share of the expected seconds that measuring takes
# What a program of the default size takes to compile, on two cores or one H100.
COMPILE_SECONDS = 8.0
# Least seconds of a step on an accelerator, where a small model waits for its
# kernels to start: 9,600 steps of the default model took 5.4 s on an H100.
LAUNCH_SECONDS = 0.55e-3
# Parameters of all lanes of an accelerator up to which as many lanes as fit are
# taken without measuring: so small, steps wait for kernels to start, and lanes
# share the wait.  16 lanes of 110,000 were 8 times as fast as one by one; up to
# here it is a guess.
MOST_UNMEASURED = 32_000_000
MEMORY_SHARE = 0.8  # of an accelerator's memory that lanes are planned for


class _Candidates(NamedTuple):
  """Layouts to choose from.

  Attributes:
    layouts: in the order in which they are measured.
    default: what is taken if measuring does not pay.
    why: the reason for that.
  """

  layouts: Sequence[Layout]
  default: Layout
  why: str


class _Budget(NamedTuple):
  """What measuring may take.

  Attributes:
    seconds: in all.
    step_seconds: expected, of a step of one trial.
  """

  seconds: float
  step_seconds: float

  def price(self, layout: Layout) -> float:
    """Returns the seconds that measuring a layout takes, about."""
    steps = 3 * MEASURE_STEPS * layout.lanes / len(layout.devices)
    return COMPILE_SECONDS + steps * self.step_seconds


def choose_layout(
  groups: Sequence[Sequence[Trial]],
  devices: Sequence[Any],
  options: Options,
) -> LayoutChoice:
  """Returns the layout for all trials of a run.

  Args:
    groups: the trials that share a program, for each program.
    devices: all devices.
    options: where the data lie, and whether to measure whatever it takes.
  """
  trials = max(groups, key=len)  # those that are measured
  if not any(trial.config.steps for trial in trials):
    return LayoutChoice(
      SharedLayout(tuple(devices[:1])), 'nothing is trained', {}
    )
  wanted = _candidates(groups, trials, devices)
  if len(wanted.layouts) == 1:
    return LayoutChoice(wanted.default, wanted.why, {})
  where = speed.describe_machine(devices), speed.program_digest(trials[0])
  known = speed.read_layouts(*where)
  known = {a.text: known[a.text] for a in wanted.layouts if a.text in known}
  if len(known) > 1:
    best = parse_layout(min(known, key=known.__getitem__), devices)
    return LayoutChoice(best, 'the fastest measured here before', known)
  budget = _budget(groups, devices)
  if options.lanes == MEASURED:
    budget = budget._replace(seconds=math.inf)
  seconds = _measure(trials, wanted.layouts, options.feed, budget)
  if not seconds:
    return LayoutChoice(
      wanted.default, f'{wanted.why}; too short to measure', {}
    )
  speed.store_layouts(*where, seconds)
  best = parse_layout(min(seconds, key=seconds.__getitem__), devices)
  return LayoutChoice(best, 'the fastest measured', seconds)


def _candidates(
  groups: Sequence[Sequence[Trial]],
  trials: Sequence[Trial],
  devices: Sequence[Any],
) -> _Candidates:
  """Returns the layouts that may be the fastest for the largest group."""
  cpu, lone = devices[0].platform == 'cpu', len(trials) < 2
  one = SharedLayout(tuple(devices[:1]))
  every = SharedLayout(tuple(devices))
  divisible = all(
    trial.config.batch_size % (every.shares * trial.config.microbatches) == 0
    for group in groups
    for trial in group
  )
  if cpu and len(devices) == 1:
    return _Candidates([one], one, 'one core')
  if lone:
    why = 'no two trials share a program'
    if not divisible or every == one:
      return _Candidates([one], one, why)
    # A core has less to do with half of a batch, and then waits for the other.
    return _Candidates(
      [one, every] if cpu else [every], one if cpu else every, why
    )
  if cpu:
    most = min(len(devices), len(trials))
    lanes, batched = (
      parse_layout(f'{how}:{most}', devices) for how in ('devices', 'vmap')
    )
    return _Candidates([one, lanes, batched], lanes, 'one trial a core')
  alone = every if divisible else one
  side_by_side = _fitting_lanes(trials, devices)
  small = [
    layout
    for layout in side_by_side
    if _parameters(trials[0]) * layout.lanes <= MOST_UNMEASURED
  ]
  return _Candidates(
    [*side_by_side, alone],
    small[0] if small else alone,
    'the most lanes of a small model' if small else 'one trial at a time',
  )


def _fitting_lanes(
  trials: Sequence[Trial], devices: Sequence[Any]
) -> list[Layout]:
  """Returns layouts with ever fewer lanes, from the most that memory holds."""
  config, vocabulary = trials[0].config, trials[0].data.vocabulary
  statistics = devices[0].memory_stats() or {}
  room = MEMORY_SHARE * statistics.get('bytes_limit', float('inf'))
  found, per_device = [], -(-len(trials) // len(devices))
  while per_device * len(devices) > 1:
    if trial_bytes(config, vocabulary) * per_device <= room:
      text = f'devices:{len(devices)},vmap:{per_device}'
      found.append(parse_layout(text, devices))
    if per_device == 1:
      break
    per_device = -(-per_device // 2)
  return found


def _measure(
  trials: Sequence[Trial],
  layouts: Sequence[Layout],
  feed: Feeding | None,
  budget: _Budget,
) -> dict[str, float]:
  """Returns layout -> seconds per step and trial, of those in the budget.

  On an accelerator, where fewer and fewer lanes follow, it stops at the first
  layout that is slower than one before it.
  """
  seconds: dict[str, float] = {}
  if sum(map(budget.price, layouts[:2])) > budget.seconds:
    return seconds  # one alone could not be compared
  began = time.monotonic()
  for layout in layouts:
    left = budget.seconds - (time.monotonic() - began)
    if len(seconds) > 1 and budget.price(layout) > left:
      break
    try:
      taken = seconds_per_step(trials, layout, feed)
    except jax.errors.JaxRuntimeError as e:
      if 'RESOURCE_EXHAUSTED' not in str(e):
        raise
      continue  # too many lanes for the device's memory
    seconds[layout.text] = taken
    is_cpu = layout.devices[0].platform == 'cpu'
    if not is_cpu and taken > min(seconds.values()):
      break
  return seconds


def _budget(
  groups: Sequence[Sequence[Trial]], devices: Sequence[Any]
) -> _Budget:
  """Returns the seconds for measuring, by what the trials should take."""
  rate = flops_per_second() * EFFICIENCY
  least = 0.0 if devices[0].platform == 'cpu' else LAUNCH_SECONDS
  total = steps = 0.0
  for group in groups:
    for trial in group:
      work = cost_on(trial.config, trial.data.vocabulary).flops
      total += max(work / rate, least * trial.config.steps)
      steps += trial.config.steps
  return _Budget(MEASURING * total, total / steps)


def _parameters(trial: Trial) -> int:
  return cost_on(trial.config, trial.data.vocabulary).parameters
