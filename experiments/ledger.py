"""The record of a working directory: trials.jsonl, append-only, and a lock."""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from experiments.streams import say
from train.files import (
  append_lines,
  read_json,
  refuse_link,
  unused,
  write_json,
  write_lines,
)
from train.records import AGAIN, TRIALS, read_trials
from train.strict import Damaged

FINISHED = ('ok', 'diverged')
ORPHAN_SECONDS = 300.0  # that workers of a killed process may take to save


OWNER, SPARE = 'config.json', '.config.json'


@dataclasses.dataclass(frozen=True)
class Owner:
  """config.json of a directory: the experiment, its base and its data."""

  experiment: str
  base: Mapping[str, str]
  data: str


class Refused(ValueError):
  """The command cannot be carried out here; says why and what to do."""


class Ledger:
  """What is known of each trial; the file is the truth.

  Lines that are damaged are not known: their trials are taken up again, from
  their checkpoints.  The file with them stays beside the mended one.

  Attributes:
    damage: a line of text for each damaged line.
  """

  def __init__(self, workdir: pathlib.Path):
    self._path = workdir / TRIALS
    refuse_link(self._path)
    found = read_trials(workdir)
    self._all = found.values
    self._last = {r['trial']: r for r in found.values}
    self.damage: list[str] = []
    if found.faults:
      aside = unused(workdir / f'{TRIALS}.damaged')
      os.rename(self._path, aside)
      then = f'kept in {aside.name}; its trial goes on from its checkpoint'
      self.damage = [f'{x}: {then}' for x in found.said(self._path)]
    if not found.as_written:
      write_lines(self._path, found.values)

  def finished(self, trial: str) -> bool:
    """True if the trial need not run: it ended, well or by diverging."""
    return trial in self._last and self._last[trial]['status'] in FINISHED

  def settled(self, trial: str, pause: int | None) -> bool:
    """True if the trial need not run now: it ended, or came to the pause."""
    record = self._last.get(trial)
    if record is None or self.finished(trial):
      return record is not None
    paused = record['status'] == 'paused'
    return paused and pause is not None and record['steps'] >= pause

  def record(self, trial: str) -> Mapping[str, Any] | None:
    """Returns the last record of a trial."""
    return self._last.get(trial)

  def at(self, trial: str, step: int) -> Mapping[str, Any] | None:
    """Returns the record of a trial that paused or ended at a step."""
    mine = [r for r in self._all if r['trial'] == trial]
    there = [r for r in mine if r.get('steps') == step]
    return there[-1] if there else None

  def append(self, record: Mapping[str, Any]) -> None:
    """Adds a record, on the disk before this returns."""
    append_lines(self._path, [record])
    self._all.append(dict(record))
    self._last[record['trial']] = dict(record)


def open_lock(workdir: pathlib.Path) -> TextIO:
  """Opens the file by which one process holds a directory.

  Raises:
    Damaged: a link stands in its place.
    OSError: the directory cannot be written.
  """
  path = workdir / '.lock'
  refuse_link(path)
  flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
  return os.fdopen(os.open(path, flags, 0o666), 'r+', errors='replace')


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[int]:
  """Holds the directory for one process; the kernel frees it at its death.

  Yields the file descriptor that holds it: a process that inherits it, holds
  it too.  If a killed process left such ones behind, which are about to end,
  they are waited for.

  Raises:
    Refused: another process holds it.
  """
  with open_lock(workdir) as f:
    waited = False
    deadline = time.monotonic() + ORPHAN_SECONDS
    while (owner := _hold(f, workdir)) is not None:
      if _lives(owner) or time.monotonic() > deadline:
        raise Refused(
          f'--workdir={workdir}: process {owner} works there: wait for it, or '
          'give another --workdir'
        )
      if not waited:
        say(f'workers of process {owner} still save: waiting')
      waited = True
      time.sleep(0.1)
    f.seek(0)
    f.truncate()
    f.write(str(os.getpid()))
    f.flush()
    yield f.fileno()


def _hold(f: TextIO, workdir: pathlib.Path) -> str | None:
  """Takes the lock; returns the process that has it, if one does."""
  try:
    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    f.seek(0)
    return f.read().strip() or 'unknown'
  except OSError as e:
    raise Refused(
      f'--workdir={workdir}: its file system has no locks ({e.strerror}), so '
      'that two runs could spoil each other: give a --workdir on a local disk'
    ) from e
  return None


def _lives(process: str) -> bool:
  """Returns whether a process is there, or cannot be asked."""
  try:
    os.kill(int(process), 0)
  except ProcessLookupError:
    return False
  except (ValueError, OverflowError, OSError):
    return True
  return True


@contextlib.contextmanager
def reading(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps others from working in a directory; changes nothing there.

  Raises:
    Refused: another process works there.
  """
  try:
    f = (workdir / '.lock').open(errors='replace')
  except OSError:  # copied without it, or not ours
    yield
    return
  with f:
    try:
      fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
      raise Refused(
        f'--merge={workdir}: process {f.read().strip() or "unknown"} works '
        'there: wait for it'
      ) from None
    except OSError:  # its file system has no locks, so nobody works there
      pass
    yield


def check_owner(
  workdir: pathlib.Path, mine: Mapping[str, Any], flag: str = 'workdir'
) -> None:
  """Refuses a directory of another experiment, base configuration or data.

  Args:
    workdir: the directory.
    mine: what it must have been begun with.
    flag: that named it.
  """
  theirs = _owner(workdir, flag)
  if theirs is None:
    return
  for part in ('experiment', 'data'):
    if theirs[part] != mine[part]:
      raise Refused(
        f'--{flag}={workdir}: belongs to {part} {theirs[part]}, not '
        f'{mine[part]}: give another --{flag}'
      )
  for key in sorted(set(theirs['base']) | set(mine['base'])):
    old, new = theirs['base'].get(key), mine['base'].get(key)
    if old != new:
      raise Refused(
        f'--{flag}={workdir}: was begun with --{key}={old}, not {new}: give '
        f'another --{flag}, or --ablate for a row that differs'
      )


def _owner(workdir: pathlib.Path, flag: str) -> dict[str, Any] | None:
  """Returns what a directory was begun with; none if it holds nothing."""
  try:
    # Hidden files may be what a kill left of the first moment.
    names = sorted(p.name for p in workdir.iterdir() if p.name[0] != '.')
  except FileNotFoundError:
    return None
  except OSError as e:
    raise Refused(
      f'--{flag}={workdir}: cannot be used ({e.strerror}): give another'
    ) from e
  if not names:
    return None
  problems = []
  # The second is the same again, for the first may be damaged.
  for name in (OWNER, SPARE):
    if not (workdir / name).exists():
      continue
    try:
      return dataclasses.asdict(read_json(workdir / name, Owner, AGAIN))
    except Damaged as e:
      problems.append(str(e.__cause__))
  if problems and (workdir / 'runs').is_dir():
    raise Refused(
      f'--{flag}={workdir}: {OWNER} is damaged ({problems[0]}), so that nobody '
      f'knows what was begun there: give another --{flag}'
    )
  raise Refused(
    f'--{flag}={workdir}: holds files of something else ({names[0]}): give an '
    'empty or a new folder'
  )


def write_owner(workdir: pathlib.Path, owner: Mapping[str, object]) -> None:
  """Writes what a directory is begun with, twice."""
  write_json(workdir / SPARE, owner)
  write_json(workdir / OWNER, owner)
