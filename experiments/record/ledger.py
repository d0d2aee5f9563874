"""The record of a working directory: trials.jsonl, its lock and its owner."""

import contextlib
import dataclasses
import fcntl
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from experiments.messages.errors import CommandError
from experiments.messages.streams import say
from train.config.config import Config
from train.files.durable import (
  append_lines,
  read_json,
  refuse_link,
  unused_path,
  write_json,
  write_lines,
)
from train.files.records import AGAIN, OWNER, SPARE, TRIALS, read_trials
from train.files.strict import DamagedFile
from train.files.version import (
  FIRST,
  WORKDIR,
  UnreadableFormat,
  describe_difference,
  flag_differences,
)

FINISHED = ('ok', 'diverged')
ORPHAN_SECONDS = 300.0  # most time for workers of a killed process to save


@dataclasses.dataclass(frozen=True)
class WorkdirOwner:
  """The content of config.json: experiment, base configuration and data.

  The base has all flags except the seed, including those at their defaults.
  """

  experiment: str
  base: Mapping[str, str]
  data: str
  format: int = FIRST


class Ledger:
  """The records of all trials, kept in trials.jsonl.

  Damaged lines are dropped, so that their trials resume from their checkpoints;
  the damaged file is kept beside the repaired one.

  Attributes:
    damage: a warning for each damaged line.
  """

  def __init__(self, workdir: pathlib.Path):
    self._path = workdir / TRIALS
    refuse_link(self._path)
    found = read_trials(workdir)
    self._all = found.values
    self._last = {r['trial']: r for r in found.values}
    self.damage: list[str] = []
    if found.faults:
      aside = unused_path(workdir / f'{TRIALS}.damaged')
      os.rename(self._path, aside)
      then = f'kept in {aside.name}; its trial goes on from its checkpoint'
      self.damage = [f'{x}: {then}' for x in found.said(self._path)]
    if not found.as_written:
      write_lines(self._path, found.values)

  def finished(self, trial: str) -> bool:
    """Returns whether a trial has ended: all steps are done, or it diverged."""
    return trial in self._last and self._last[trial]['status'] in FINISHED

  def is_settled(self, trial: str, pause: int | None) -> bool:
    """Returns whether a trial has ended, or has reached a pause."""
    record = self._last.get(trial)
    if record is None or self.finished(trial):
      return record is not None
    paused = record['status'] == 'paused'
    return paused and pause is not None and record['steps'] >= pause

  def record(self, trial: str) -> Mapping[str, Any] | None:
    """Returns the last record of a trial, or None."""
    return self._last.get(trial)

  def at(self, trial: str, step: int) -> Mapping[str, Any] | None:
    """Returns the record of a trial that paused or ended at a step, or None."""
    mine = [r for r in self._all if r['trial'] == trial]
    there = [r for r in mine if r.get('steps') == step]
    return there[-1] if there else None

  def append(self, record: Mapping[str, Any]) -> None:
    """Appends a record and syncs it to disk."""
    append_lines(self._path, [record])
    self._all.append(dict(record))
    self._last[record['trial']] = dict(record)


def open_lock(workdir: pathlib.Path) -> TextIO:
  """Opens the lock file of a directory.

  Raises:
    DamagedFile: the file is a symbolic link.
    OSError: the directory cannot be written.
  """
  path = workdir / '.lock'
  refuse_link(path)
  flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
  return os.fdopen(os.open(path, flags, 0o666), 'r+', errors='replace')


@contextlib.contextmanager
def lock_workdir(workdir: pathlib.Path) -> Iterator[int]:
  """Locks a directory for this process; the kernel unlocks it if that dies.

  Yields the file descriptor of the lock; a process that inherits it holds the
  lock too.  If workers of a killed process still hold it, waits for them to
  save and end.

  Raises:
    CommandError: another process holds the lock.
  """
  with open_lock(workdir) as f:
    waited = False
    deadline = time.monotonic() + ORPHAN_SECONDS
    while (owner := _hold(f, workdir)) is not None:
      if _lives(owner) or time.monotonic() > deadline:
        raise CommandError(
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
  """Takes the lock; returns None, or the id of the process that holds it."""
  try:
    fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    f.seek(0)
    return f.read().strip() or 'unknown'
  except OSError as e:
    raise CommandError(
      f'--workdir={workdir}: its file system has no locks ({e.strerror}), so '
      'that two runs could spoil each other: give a --workdir on a local disk'
    ) from e
  return None


def _lives(process: str) -> bool:
  """Returns whether a process is alive, or may be."""
  try:
    os.kill(int(process), 0)
  except ProcessLookupError:
    return False
  except (ValueError, OverflowError, OSError):
    return True
  return True


@contextlib.contextmanager
def lock_for_reading(workdir: pathlib.Path) -> Iterator[None]:
  """Locks a directory for reading, without writing to it.

  Raises:
    CommandError: another process writes there.
  """
  try:
    f = (workdir / '.lock').open(errors='replace')
  except OSError:  # a copy without the lock file, or not readable
    yield
    return
  with f:
    try:
      fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
      raise CommandError(
        f'--merge={workdir}: process {f.read().strip() or "unknown"} works '
        'there: wait for it'
      ) from None
    except OSError:  # a file system without locks, where no run can be
      pass
    yield


def check_owner(
  workdir: pathlib.Path, mine: WorkdirOwner, base: Config, flag: str = 'workdir'
) -> None:
  """Refuses a directory of another experiment, base configuration or data.

  Args:
    workdir: the directory.
    mine: the owner that it must have.
    base: base configuration of this owner.
    flag: name of the flag whose value is the directory.
  """
  theirs = _owner(workdir, flag)
  if theirs is None:
    return
  parts = {
    'experiment': (theirs.experiment, mine.experiment),
    'data': (theirs.data, mine.data),
  }
  for part, (old, new) in parts.items():
    if old != new:
      raise CommandError(
        f'--{flag}={workdir}: belongs to {part} {old}, not {new}: give another '
        f'--{flag}'
      )
  flags = {**theirs.base, 'seed': str(base.seed)}
  for key, (old, new) in flag_differences(flags, base).items():
    raise CommandError(
      f'--{flag}={workdir}: was begun {describe_difference(key, old, new)}: '
      f'give another --{flag}, or --ablate for a row that differs'
    )


def _owner(workdir: pathlib.Path, flag: str) -> WorkdirOwner | None:
  """Returns the owner of a directory, or None if the directory is empty."""
  try:
    # Hidden files may be left from a run that was killed as it began.
    names = sorted(p.name for p in workdir.iterdir() if p.name[0] != '.')
  except FileNotFoundError:
    return None
  except OSError as e:
    raise CommandError(
      f'--{flag}={workdir}: cannot be used ({e.strerror}): give another'
    ) from e
  if not names:
    return None
  problems = []
  # The spare is a copy, in case the first is damaged.
  for name in (OWNER, SPARE):
    if not (workdir / name).exists():
      continue
    try:
      return read_json(workdir / name, WorkdirOwner, AGAIN, WORKDIR)
    except UnreadableFormat as e:
      raise CommandError(f'--{flag}={workdir}: {e.rule}') from e
    except DamagedFile as e:
      problems.append(str(e.__cause__))
  if problems and (workdir / 'runs').is_dir():
    raise CommandError(
      f'--{flag}={workdir}: {OWNER} is damaged ({problems[0]}), so that nobody '
      f'knows what was begun there: give another --{flag}'
    )
  raise CommandError(
    f'--{flag}={workdir}: holds files of something else ({names[0]}): give an '
    'empty or a new folder'
  )


def write_owner(workdir: pathlib.Path, owner: WorkdirOwner) -> None:
  """Writes the owner of a directory, and a spare copy."""
  about = dataclasses.asdict(owner)
  write_json(workdir / SPARE, about)
  write_json(workdir / OWNER, about)
