"""The record of a working directory: trials.jsonl, append-only, and a lock."""

import contextlib
import fcntl
import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from experiments.streams import say
from train.files import append_lines, mend_lines

FINISHED = ('ok', 'diverged')
ORPHAN_SECONDS = 300.0  # that workers of a killed process may take to save


class Refused(ValueError):
  """The command cannot be carried out here; says why and what to do."""


class Ledger:
  """What is known of each trial; the file is the truth."""

  def __init__(self, workdir: pathlib.Path):
    self._path = workdir / 'trials.jsonl'
    self._last = {r['trial']: r for r in mend_lines(self._path)}

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

  def append(self, record: Mapping[str, Any]) -> None:
    """Adds a record, on the disk before this returns."""
    append_lines(self._path, [record])
    self._last[record['trial']] = dict(record)


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator[int]:
  """Holds the directory for one process; the kernel frees it at its death.

  Yields the file descriptor that holds it: a process that inherits it, holds
  it too.  If a killed process left such ones behind, which are about to end,
  they are waited for.

  Raises:
    Refused: another process holds it.
  """
  with (workdir / '.lock').open('a+') as f:
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
    f.truncate(0)
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
  except (ValueError, OSError):
    return True
  return True


@contextlib.contextmanager
def reading(workdir: pathlib.Path) -> Iterator[None]:
  """Keeps others from working in a directory; changes nothing there.

  Raises:
    Refused: another process works there.
  """
  try:
    f = (workdir / '.lock').open()
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
  try:
    owner = json.loads((workdir / 'config.json').read_text())
    if set(owner) == {'experiment', 'base', 'data'} and dict(owner['base']):
      return owner
  except (OSError, ValueError, TypeError):
    pass
  raise Refused(
    f'--{flag}={workdir}: holds files of something else ({names[0]}): give an '
    'empty or a new folder'
  )
