"""How trials share the devices: as flags or `layout.json` have it.

The choice is stored in `layout.json`.  The bits of a trial may depend on it
(under vmap, on the number of lanes), so resuming and replaying must use the
same layout.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from model.core.field import FieldError
from train.devices.parallel import Layout, SharedLayout, parse_layout
from train.files.durable import read_json, write_json
from train.files.records import read_trial_start
from train.files.strict import DamagedFile
from train.trial import Options

_FILE = 'layout.json'
MEASURED = 'measured'  # value of --lanes
_FIX = 'remove the file to have it measured'


@dataclasses.dataclass(frozen=True)
class LayoutChoice:
  """A layout, and why it was chosen.

  Attributes:
    layout: the layout.
    why: the reason, in words.
    seconds: layout -> seconds per step and trial with all lanes in use, of each
      layout that was measured.
  """

  layout: Layout
  why: str
  seconds: Mapping[str, float]


def fixed_layout(
  options: Options,
  workers: int,
  workdir: pathlib.Path,
  devices: Sequence[Any],
) -> LayoutChoice | None:
  """Returns the layout if flags, `layout.json` or --workers fix it, else None.

  Raises:
    FieldError: the flags ask for a layout that is impossible here.
  """
  if workers > 1 and options.lanes == MEASURED:
    raise FieldError(
      'lanes', MEASURED, 'is of one process, and there are --workers'
    )
  plain = one_a_worker(workers, devices)
  return (
    layout_from_flags(options, devices)
    or stored_layout(workdir, devices)
    or plain
  )


def layout_from_flags(
  options: Options, devices: Sequence[Any]
) -> LayoutChoice | None:
  """Returns the layout that --lanes or --devices fix, or None.

  Raises:
    FieldError: --lanes is not a layout, or asks for too many devices.
  """
  if options.lanes == MEASURED:
    return None
  if options.lanes is None:
    if options.devices is None:
      return None
    return LayoutChoice(
      SharedLayout(tuple(devices)), 'asked for by --devices', {}
    )
  try:
    layout = parse_layout(options.lanes, devices)
  except ValueError as e:
    raise FieldError('lanes', options.lanes, str(e)) from e
  return LayoutChoice(layout, 'asked for by --lanes', {})


def one_a_worker(workers: int, devices: Sequence[Any]) -> LayoutChoice | None:
  """Returns the layout of one trial per process, or None without --workers.

  Raises:
    FieldError: the processes would have to share an accelerator.
  """
  if workers == 1:
    return None
  if devices[0].platform != 'cpu':
    raise FieldError(
      'workers',
      workers,
      f'is for CPUs, and this is {devices[0].device_kind}: --lanes fills it',
    )
  return LayoutChoice(
    SharedLayout(tuple(devices[:1])), 'one trial a worker', {}
  )


def stored_layout(
  workdir: pathlib.Path, devices: Sequence[Any]
) -> LayoutChoice | None:
  """Returns the layout in `layout.json`, or None if it does not fit here."""
  kept = read_layout(workdir)
  if kept is None:
    return None
  try:
    return LayoutChoice(parse_layout(kept.lanes, devices), 'as begun', {})
  except ValueError:
    return None


def describe_choice(choice: LayoutChoice) -> str:
  """Returns the choice in words, with the other layouts' relative times."""
  best = choice.seconds.get(choice.layout.text)
  others = ', '.join(
    f'{text} {seconds / best:.2f}x its time'
    for text, seconds in choice.seconds.items()
    if best is not None and text != choice.layout.text
  )
  return f'{choice.layout.text} ({choice.why}{": " if others else ""}{others})'


def write_choice(workdir: pathlib.Path, choice: LayoutChoice) -> None:
  """Stores the layout; must come before the first checkpoint."""
  kept = LayoutFile(choice.layout.text, choice.why, dict(choice.seconds))
  write_layout(workdir, kept)


# layout.json. -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class LayoutFile:
  """Content of layout.json: the value of --lanes, why, and measured times."""

  lanes: str
  why: str = ''
  seconds_per_step_of_a_trial: Mapping[str, float] = dataclasses.field(
    default_factory=dict
  )


def write_layout(workdir: pathlib.Path, kept: LayoutFile) -> None:
  """Writes layout.json."""
  write_json(workdir / _FILE, dataclasses.asdict(kept))


def read_layout(workdir: pathlib.Path) -> LayoutFile | None:
  """Returns the layout of a working directory; None if there is no file.

  Each trial records its layout too, from which a damaged file is restored.

  Raises:
    DamagedFile: the file is damaged, and the trials do not agree on one layout.
  """
  path = workdir / _FILE
  try:
    return read_json(path, LayoutFile, _FIX) if path.exists() else None
  except DamagedFile as e:
    lanes = {name for name in map(_lanes_of, _trials(workdir)) if name}
    if len(lanes) == 1:
      return LayoutFile(lanes.pop(), 'as its trials were begun')
    known = '|'.join(sorted(lanes)) or 'LAYOUT'
    raise DamagedFile(
      f'{e.fault}, and bits may depend on it',
      f'give --lanes={known} as it was, or {_FIX}',
    ) from e


def mend_layout(workdir: pathlib.Path) -> str | None:
  """Restores a damaged layout.json; returns a message if it did."""
  path = workdir / _FILE
  try:
    if path.exists():
      read_json(path, LayoutFile, _FIX)
    return None
  except DamagedFile as e:
    try:
      kept = read_layout(workdir)
    except DamagedFile:
      return None  # then --lanes is required, and written with the first trial
    assert kept is not None
    write_layout(workdir, kept)
    return f'{e.fault}: made again from its trials: {kept.lanes}'


def _trials(workdir: pathlib.Path) -> list[pathlib.Path]:
  """Returns the folders of the trials that were started there."""
  return sorted(p.parent for p in workdir.glob('runs/[!.]*/config.json'))


def _lanes_of(directory: pathlib.Path) -> str | None:
  """Returns the layout that a trial was started in, or None if unreadable."""
  try:
    return read_trial_start(directory).lanes
  except DamagedFile:
    return None
