"""Records how fast trials and layouts ran on this machine, in the user's cache.

The user's cache stores, for each compiled program, the seconds per step and per
compilation of its last trial.  A row whose program has run is expected to take
the same.  For any other row the program with the nearest FLOPs is scaled: with
fewer FLOPs in proportion; with more, the extra FLOPs are added at the best
known rate, because a small program spends most of its time on other work.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import jax

from experiments.planning.cost import EFFICIENCY, cost_on, flops_per_second
from experiments.planning.inputs import PlannedTrial
from model.core.field import split
from train.devices.cores import cores
from train.files.durable import cache_folder, read_json, write_json
from train.files.strict import DamagedFile
from train.flags.schema import to_flags
from train.trial import Trial

MOST = 256  # programs that are stored, the most recent ones
LEAST = 20  # steps that a trial must have for its speed to be stored
# n devices with a trial on each are GAIN * n times as fast as one trial alone:
# 1.60 times on two cores (docs/speed.md, "Trials side by side").
PARALLEL_EFFICIENCY = 0.8


@dataclasses.dataclass(frozen=True)
class Speed:
  """The measured times of a compiled program.

  Attributes:
    machine: devices, cores and the version of JAX.
    program: digest of the program.
    alone: whether one trial had the machine for itself; otherwise several ran
      at once, and `seconds` is the total time divided by their number.
    flops: per step.
    seconds: per step.
    evaluation_seconds: per evaluation, with its share of all other work, such
      as saving checkpoints.
    compile_seconds: before the first step.
  """

  machine: str
  program: str
  alone: bool
  flops: float
  seconds: float
  evaluation_seconds: float
  compile_seconds: float

  def of(self, planned: PlannedTrial) -> float:
    """Returns the expected seconds of a trial, without compilation."""
    evaluations = -(-planned.stop // planned.trial.config.eval_every)
    return planned.stop * self.seconds + evaluations * self.evaluation_seconds

  def times(self, factor: float) -> 'Speed':
    """Returns the speed of a program that takes `factor` times as long."""
    return dataclasses.replace(
      self,
      seconds=self.seconds * factor,
      evaluation_seconds=self.evaluation_seconds * factor,
    )


@dataclasses.dataclass(frozen=True)
class _Speeds:
  """Content of speed.json, the most recent trial last."""

  speeds: Sequence[Speed]


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Expected seconds of all trials.

  Attributes:
    seconds: the sum.
    measured: whether they follow from trials on this machine; otherwise from
      FLOPs alone.
  """

  seconds: float
  measured: bool


def store_speed(
  planned: PlannedTrial,
  record: Mapping[str, Any],
  devices: Sequence[Any],
  alone: bool,
) -> None:
  """Stores the speed of a finished trial; does nothing if it cannot write."""
  if record['status'] != 'ok':
    return
  steps, clock = record['steps'], record['clock']
  rest = clock['seconds'] - clock['compile_seconds'] - clock['train_seconds']
  evaluations = -(-steps // planned.trial.config.eval_every)
  if steps < LEAST or clock['train_seconds'] <= 0:
    return
  found = Speed(
    describe_machine(devices),
    program_digest(planned.trial),
    alone,
    _flops(planned),
    clock['train_seconds'] / steps,
    max(0.0, rest) / evaluations,
    clock['compile_seconds'],
  )
  others = [s for s in _read_speeds() if _key(s) != _key(found)]
  kept = [*others, found][-MOST:]
  _write(_SPEEDS, _Speeds(kept))


def estimate(
  trials: Sequence[PlannedTrial], devices: Sequence[Any], programs: int
) -> Estimate:
  """Returns the expected time of trials that share `programs` programs."""
  mine = [s for s in _read_speeds() if s.machine == describe_machine(devices)]
  alone = len(trials) <= programs
  if not mine:
    work = sum(_flops(planned) * planned.stop for planned in trials)
    return Estimate(work / (flops_per_second() * EFFICIENCY), False)
  programs_of: dict[str, Speed] = {}
  total = 0.0
  for planned in trials:
    program = program_digest(planned.trial)
    if program not in programs_of:
      flops = _flops(planned)
      programs_of[program] = _nearest(mine, program, flops, alone, len(devices))
    total += programs_of[program].of(planned)
  compiling = [s.compile_seconds for s in mine]
  total += programs * sorted(compiling)[len(compiling) // 2]
  return Estimate(total, True)


def _nearest(
  known: Sequence[Speed], program: str, flops: float, alone: bool, devices: int
) -> Speed:
  """Returns the expected speed of a program, from the most similar one."""

  def distance(speed: Speed) -> tuple[bool, float, bool]:
    far = abs(math.log(speed.flops / flops))
    return speed.program != program, far, speed.alone != alone

  nearest = min(known, key=distance)
  factor = flops / nearest.flops
  if factor > 1.0:
    best = max(speed.flops / speed.seconds for speed in known)
    rate = max(best, flops_per_second() * EFFICIENCY)
    factor = 1.0 + (flops - nearest.flops) / rate / nearest.seconds
  if devices > 1 and nearest.alone != alone:
    gain = devices * PARALLEL_EFFICIENCY
    factor = factor / gain if nearest.alone else factor * gain
  return nearest.times(factor)


def _key(speed: Speed) -> tuple[str, str, bool]:
  return speed.machine, speed.program, speed.alone


_SPEEDS, _LAYOUTS = 'speed.json', 'layouts.json'
_Content = TypeVar('_Content')


def _read(name: str, cls: type[_Content]) -> _Content | None:
  """Returns a file of the user's cache; None if it is damaged or missing."""
  path = cache_folder() / name
  if not path.exists():
    return None
  try:
    return read_json(path, cls, 'the next run writes it again')
  except DamagedFile:
    return None


def _write(name: str, content: Any) -> None:
  """Writes a file of the user's cache; does nothing if it cannot write."""
  try:
    cache_folder().mkdir(parents=True, exist_ok=True)
    write_json(cache_folder() / name, dataclasses.asdict(content))
  except OSError:  # read-only or full: an estimate is worth no warning
    return


@dataclasses.dataclass(frozen=True)
class LayoutTimes:
  """Seconds per step and trial of layouts of a program, by their text."""

  machine: str
  program: str
  seconds: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class _Layouts:
  """Content of layouts.json, the most recently measured program last."""

  layouts: Sequence[LayoutTimes]


def read_layouts(machine: str, program: str) -> dict[str, float]:
  """Returns the measured seconds of a program's layouts on a machine."""
  return {
    text: seconds
    for times in _read_all_layouts()
    if (times.machine, times.program) == (machine, program)
    for text, seconds in times.seconds.items()
    if 0.0 < seconds < math.inf
  }


def store_layouts(
  machine: str, program: str, seconds: Mapping[str, float]
) -> None:
  """Stores what was measured; does nothing if it cannot write."""
  key = machine, program
  kept = {
    (times.machine, times.program): times for times in _read_all_layouts()
  }
  before = kept.pop(key, None)
  known = {**(before.seconds if before else {}), **seconds}
  kept[key] = LayoutTimes(machine, program, known)  # the last, as the newest
  _write(_LAYOUTS, _Layouts([*kept.values()][-MOST:]))


def _read_all_layouts() -> Sequence[LayoutTimes]:
  """Returns the content of layouts.json; none if damaged or missing."""
  found = _read(_LAYOUTS, _Layouts)
  return found.layouts if found else ()


def _read_speeds() -> list[Speed]:
  """Returns the stored speeds; none if the file is damaged or missing."""
  found = _read(_SPEEDS, _Speeds)
  return [
    speed for speed in (found.speeds if found else ()) if _is_valid(speed)
  ]


def _is_valid(speed: Speed) -> bool:
  """Returns whether all numbers are plausible."""
  rest = speed.evaluation_seconds, speed.compile_seconds
  return (
    0.0 < speed.flops < math.inf
    and 0.0 < speed.seconds < math.inf
    and all(0.0 <= seconds < math.inf for seconds in rest)
  )


def describe_machine(devices: Sequence[Any]) -> str:
  """Returns the devices, cores and version of JAX, as text."""
  first = devices[0]
  return (
    f'{len(devices)} x {first.platform} {first.device_kind}, '
    f'{len(cores())} cores, jax {jax.__version__}'
  )


def program_digest(trial: Trial) -> str:
  """Returns a digest of all flags but those that are runtime arguments."""
  config, data = trial.config, trial.data
  _, free = split(config)
  flags = {k: v for k, v in to_flags(config).items() if k not in free}
  text = json.dumps([flags, data.digest, data.vocabulary.size], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _flops(planned: PlannedTrial) -> float:
  """Returns the FLOPs per step."""
  config = planned.trial.config
  cost = cost_on(config, planned.trial.data.vocabulary)
  return float(cost.flops_per_token * config.batch_size * config.seq_len)
