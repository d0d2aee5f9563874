"""How fast trials ran on this machine; what --plan expects others to take.

The user's cache keeps, of each program, the seconds of a step and of its
compilation as its last trial found them.  A row whose program has run takes
what that took.  Any other takes what the program of the nearest FLOPs took: a
share of it, if it has fewer; if it has more, these besides, at the best rate
that is known, for a small program spends most of its time on other things.
"""

import dataclasses
import hashlib
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from experiments.cost import EFFICIENCY, cost_on, flops_per_second
from experiments.inputs import Planned
from model.field import split
from train.cores import cores
from train.files import cache, read_json, write_json
from train.schema import to_flags
from train.strict import Damaged

MOST = 256  # programs that are remembered, the last ones
LEAST = 20  # steps that tell how long others take
# Of n devices with a trial on each, so many times n as fast as one trial alone:
# 1.60 on two cores (README, "Faster than one after another").
GAIN = 0.8


@dataclasses.dataclass(frozen=True)
class Speed:
  """What a step of a program took, of each of its trials.

  Attributes:
    machine: devices, cores and the version of JAX.
    program: digest of what is compiled.
    alone: whether one trial had the machine; else several shared its devices,
      and `seconds` are those of all over their number.
    flops: of a step.
    seconds: of a step.
    evaluation_seconds: of an evaluation, with its share of all else: saving,
      and what is written at the end.
    compile_seconds: before the first step.
  """

  machine: str
  program: str
  alone: bool
  flops: float
  seconds: float
  evaluation_seconds: float
  compile_seconds: float

  def of(self, planned: Planned) -> float:
    """Returns the seconds of a trial, compilation apart."""
    evaluations = -(-planned.stop // planned.trial.config.eval_every)
    return planned.stop * self.seconds + evaluations * self.evaluation_seconds

  def times(self, factor: float) -> 'Speed':
    """Returns that of a program whose steps are so many times as long."""
    return dataclasses.replace(
      self,
      seconds=self.seconds * factor,
      evaluation_seconds=self.evaluation_seconds * factor,
    )


@dataclasses.dataclass(frozen=True)
class _Speeds:
  """What the file holds, the last trial last."""

  speeds: Sequence[Speed]


@dataclasses.dataclass(frozen=True)
class Estimate:
  """Seconds that trials are expected to take; `measured` on this machine."""

  seconds: float
  measured: bool


def remember(
  planned: Planned,
  outcome: Mapping[str, Any],
  devices: Sequence[Any],
  alone: bool,
) -> None:
  """Keeps what a trial took; where that cannot be kept, nothing happens."""
  if outcome['status'] != 'ok':
    return
  steps, clock = outcome['steps'], outcome['clock']
  rest = clock['seconds'] - clock['compile_seconds'] - clock['train_seconds']
  evaluations = -(-steps // planned.trial.config.eval_every)
  if steps < LEAST or clock['train_seconds'] <= 0:
    return
  found = Speed(
    _machine(devices),
    _program(planned),
    alone,
    _flops(planned),
    clock['train_seconds'] / steps,
    max(0.0, rest) / evaluations,
    clock['compile_seconds'],
  )
  others = [s for s in _read() if _key(s) != _key(found)]
  kept = [*others, found][-MOST:]
  try:
    cache().mkdir(parents=True, exist_ok=True)
    write_json(_path(), dataclasses.asdict(_Speeds(kept)))
  except OSError:  # read-only or full: an estimate is worth no warning
    return


def estimate(
  trials: Sequence[Planned], devices: Sequence[Any], programs: int
) -> Estimate:
  """Returns what trials of so many programs are expected to take."""
  mine = [s for s in _read() if s.machine == _machine(devices)]
  alone = len(trials) <= programs
  if not mine:
    work = sum(_flops(planned) * planned.stop for planned in trials)
    return Estimate(work / (flops_per_second() * EFFICIENCY), False)
  programs_of: dict[str, Speed] = {}
  total = 0.0
  for planned in trials:
    program = _program(planned)
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
  """Returns how fast a program is expected to be."""

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
    gain = devices * GAIN
    factor = factor / gain if nearest.alone else factor * gain
  return nearest.times(factor)


def _key(speed: Speed) -> tuple[str, str, bool]:
  return speed.machine, speed.program, speed.alone


def _path() -> pathlib.Path:
  return cache() / 'speed.json'


def _read() -> list[Speed]:
  """Returns what is known; nothing where the file is damaged or not there."""
  if not _path().exists():
    return []
  try:
    found = read_json(_path(), _Speeds, 'the next trial writes it again')
  except Damaged:
    return []
  return [speed for speed in found.speeds if _sound(speed)]


def _sound(speed: Speed) -> bool:
  """Returns whether the numbers are such as a trial can have taken."""
  rest = speed.evaluation_seconds, speed.compile_seconds
  return (
    0.0 < speed.flops < math.inf
    and 0.0 < speed.seconds < math.inf
    and all(0.0 <= seconds < math.inf for seconds in rest)
  )


def _machine(devices: Sequence[Any]) -> str:
  first = devices[0]
  return (
    f'{len(devices)} x {first.platform} {first.device_kind}, '
    f'{len(cores())} cores, jax {jax.__version__}'
  )


def _program(planned: Planned) -> str:
  """Returns what trials have in common that differ in numbers alone."""
  config, data = planned.trial.config, planned.trial.data
  _, free = split(config)
  flags = {k: v for k, v in to_flags(config).items() if k not in free}
  text = json.dumps([flags, data.digest, data.vocabulary.size], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:16]


def _flops(planned: Planned) -> float:
  """Returns the FLOPs of a step."""
  config = planned.trial.config
  cost = cost_on(config, planned.trial.data.vocabulary)
  return float(cost.flops_per_token * config.batch_size * config.seq_len)
