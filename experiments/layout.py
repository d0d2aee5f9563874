"""How trials are laid out on the devices: measured once, then kept.

`layout.json` holds the choice: a trial's bytes may depend on it (under vmap on
the number of lanes), so that resuming and replaying use the same one.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from experiments.cost import EFFICIENCY, cost_on, flops_per_second
from model.field import FieldError
from train.feed import Feeding
from train.files import read_json, write_json
from train.parallel import Layout, Shared, parse_layout
from train.records import read_begun
from train.strict import Damaged
from train.timing import seconds_per_step
from train.trial import Options, Trial

# Runs that are expected to be shorter are not worth measuring for.
WORTH_SECONDS = 60.0
_FILE = 'layout.json'
_WAY_OUT = 'remove the file to have it measured'
GAIN = 1.1  # what twice the lanes must gain to be tried further


@dataclasses.dataclass(frozen=True)
class Choice:
  """A layout, why it was taken, and what each candidate took.

  `seconds` are those of one step of one trial with all lanes taken.
  """

  layout: Layout
  why: str
  seconds: Mapping[str, float]


def fixed(
  options: Options,
  workers: int,
  workdir: pathlib.Path,
  devices: Sequence[Any],
) -> Choice | None:
  """Returns the layout that needs no measuring, or none if there is none.

  Raises:
    FieldError: a flag asks for what cannot be.
  """
  plain = one_a_worker(workers, devices)
  return asked(options, devices) or pinned(workdir, devices) or plain


def asked(options: Options, devices: Sequence[Any]) -> Choice | None:
  """Returns the layout that the flags fix, or none if they fix none.

  Raises:
    FieldError: --lanes is not a layout, or asks for too many devices.
  """
  if options.lanes is None:
    if options.devices is None:
      return None
    return Choice(Shared(tuple(devices)), 'asked for by --devices', {})
  try:
    layout = parse_layout(options.lanes, devices)
  except ValueError as e:
    raise FieldError('lanes', options.lanes, str(e)) from e
  return Choice(layout, 'asked for by --lanes', {})


def one_a_worker(workers: int, devices: Sequence[Any]) -> Choice | None:
  """Returns the layout of several processes, or none if there is only one.

  Raises:
    FieldError: they would have to share accelerators.
  """
  if workers == 1:
    return None
  if devices[0].platform != 'cpu':
    raise FieldError(
      'workers',
      workers,
      f'is for CPUs, and this is {devices[0].device_kind}: --lanes fills it',
    )
  return Choice(Shared(tuple(devices[:1])), 'one trial a worker', {})


def pinned(workdir: pathlib.Path, devices: Sequence[Any]) -> Choice | None:
  """Returns the layout that the directory was begun with, if it fits here."""
  kept = read_layout(workdir)
  if kept is None:
    return None
  try:
    return Choice(parse_layout(kept.lanes, devices), 'as begun', {})
  except ValueError:
    return None


def choose(
  trials: Sequence[Trial], devices: Sequence[Any], feed: Feeding | None
) -> Choice:
  """Returns the fastest layout for trials of one program.

  Args:
    trials: those of the largest group that shares a program.
    devices: what there is.
    feed: as --feed says.
  """
  cpu = devices[0].platform == 'cpu'
  # On a CPU a second device is a second core: no help to one small batch.
  alone = Shared(tuple(devices[:1] if cpu else devices))
  if len(trials) < 2:
    return Choice(alone, 'no two trials share a program', {})
  if not cpu:
    if trials[0].config.batch_size % (
      alone.shares * trials[0].config.microbatches
    ):
      alone = Shared(tuple(devices[:1]))
    candidates = [alone, *_doubling(len(trials), devices)]
  elif len(devices) == 1:
    return Choice(alone, 'one core', {})
  else:
    most = min(len(devices), len(trials))
    lanes = [f'devices:{most}', f'vmap:{most}']
    beside = [parse_layout(text, devices) for text in lanes]
    if _expected_seconds(trials) < WORTH_SECONDS:
      return Choice(beside[0], 'one trial a core; too short to measure', {})
    candidates = [alone, *beside]
  seconds: dict[str, float] = {}
  best = alone
  for layout in candidates:
    try:
      seconds[layout.text] = seconds_per_step(trials, layout, feed)
    except jax.errors.JaxRuntimeError as e:
      if not seconds or 'RESOURCE_EXHAUSTED' not in str(e):
        raise
      continue  # More lanes than the memory of the device holds.
    if seconds[layout.text] <= min(seconds.values()):
      best = layout
    elif not cpu and seconds[layout.text] * GAIN > seconds[best.text]:
      break  # the device is full
  return Choice(best, 'the fastest measured', seconds)


def _doubling(most: int, devices: Sequence[Any]) -> list[Layout]:
  """Returns 1, 2, 4 ... lanes on each device, up to the number of trials."""
  found, per_device = [], 1
  while (per_device - 1) * len(devices) < most:
    found.append(
      parse_layout(f'devices:{len(devices)},vmap:{per_device}', devices)
    )
    per_device *= 2
  return found


def _expected_seconds(trials: Sequence[Trial]) -> float:
  work = sum(cost_on(t.config, t.data.vocabulary).flops for t in trials)
  return work / (flops_per_second() * EFFICIENCY)


def describe_choice(choice: Choice) -> str:
  """Returns the choice as the terminal shows it."""
  best = choice.seconds.get(choice.layout.text)
  others = ', '.join(
    f'{text} {seconds / best:.2f}x its time'
    for text, seconds in choice.seconds.items()
    if best is not None and text != choice.layout.text
  )
  return f'{choice.layout.text} ({choice.why}{": " if others else ""}{others})'


def write_choice(workdir: pathlib.Path, choice: Choice) -> None:
  """Keeps the layout; before the first step that is kept."""
  kept = Kept(choice.layout.text, choice.why, dict(choice.seconds))
  write_layout(workdir, kept)


# On the disk. -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Kept:
  """layout.json: a layout as text, why it was taken, and what was measured."""

  lanes: str
  why: str = ''
  seconds_per_step_of_a_trial: Mapping[str, float] = dataclasses.field(
    default_factory=dict
  )


def write_layout(workdir: pathlib.Path, kept: Kept) -> None:
  """Keeps a layout."""
  write_json(workdir / _FILE, dataclasses.asdict(kept))


def read_layout(workdir: pathlib.Path) -> Kept | None:
  """Returns the layout that a directory was begun with; none before that.

  Each trial keeps it too, so that a damaged file is no loss.

  Raises:
    Damaged: it cannot be known.
  """
  path = workdir / _FILE
  try:
    return read_json(path, Kept, _WAY_OUT) if path.exists() else None
  except Damaged as e:
    lanes = {name for name in map(_lanes_of, _trials(workdir)) if name}
    if len(lanes) == 1:
      return Kept(lanes.pop(), 'as its trials were begun')
    known = '|'.join(sorted(lanes)) or 'LAYOUT'
    raise Damaged(
      f'{e.fault}, and bits may depend on it',
      f'give --lanes={known} as it was, or {_WAY_OUT}',
    ) from e


def mend_layout(workdir: pathlib.Path) -> str | None:
  """Writes a damaged layout.json anew, and says so."""
  path = workdir / _FILE
  try:
    if path.exists():
      read_json(path, Kept, _WAY_OUT)
    return None
  except Damaged as e:
    try:
      kept = read_layout(workdir)
    except Damaged:
      return None  # --lanes says it, and is written with the first trial
    assert kept is not None
    write_layout(workdir, kept)
    return f'{e.fault}: made again from its trials: {kept.lanes}'


def _trials(workdir: pathlib.Path) -> list[pathlib.Path]:
  """Returns the folders of the trials that were begun there."""
  return sorted(p.parent for p in workdir.glob('runs/[!.]*/config.json'))


def _lanes_of(directory: pathlib.Path) -> str | None:
  """Returns the layout that a trial was begun in, if it is known."""
  try:
    return read_begun(directory).lanes
  except Damaged:
    return None
