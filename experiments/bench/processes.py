"""Runs commands as child processes, and measures what they take."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, NamedTuple

POLL_SECONDS = 0.01
# A child that is told to end saves what it has first.
GRACE_SECONDS = 60.0


class Failure(Exception):
  """A command failed, or there was no time for it; one line says why."""


class Finished(NamedTuple):
  """A command that ended.

  Attributes:
    code: exit code; negative for a signal.
    out: what it printed.
    err: what it printed on stderr.
    seconds: until it ended, or until it did what was waited for.
    cpu_seconds: of all its threads.
    peak_bytes: most memory that it had.
  """

  code: int
  out: str
  err: str
  seconds: float
  cpu_seconds: float
  peak_bytes: int

  def lines(self) -> list[dict[str, Any]]:
    """Returns the JSON objects among the lines that it printed."""
    found = []
    for line in self.out.splitlines():
      with contextlib.suppress(ValueError):
        value = json.loads(line)
        if isinstance(value, dict):
          found.append(value)
    return found

  def checked(self) -> 'Finished':
    """Returns itself; raises Failure if the command failed."""
    if self.code == -signal.SIGKILL:
      raise Failure('killed: the time was up, or memory ran out')
    if self.code:
      said = (self.err.strip() or self.out.strip()).splitlines()
      raise Failure(f'exit code {self.code}: {said[-1] if said else "silent"}')
    return self


def run(
  command: Sequence[str],
  env: Mapping[str, str | None],
  folder: pathlib.Path | None,
  deadline: float | None = None,
  until: Callable[[], bool] | None = None,
) -> Finished:
  """Runs a command to its end, and returns what it took.

  Args:
    command: its words.
    env: changes of the environment; None removes a variable.
    folder: where it runs; None is here.
    deadline: when it is killed, by `time.monotonic`; None is never.
    until: what to wait for; then the command is told to end.

  Raises:
    Failure: it cannot be started.
  """
  if deadline is not None and time.monotonic() >= deadline:
    raise Failure('not measured: the time is up')
  both = {**os.environ, **env}
  with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
    begun = time.perf_counter()
    try:
      # A session of its own, so that what it starts ends with it.
      child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=err,
        cwd=folder,
        env={k: v for k, v in both.items() if v is not None},
        start_new_session=True,
      )
    except OSError as e:
      raise Failure(f'{command[0]}: {e.strerror}') from None
    try:
      seconds = _wait(child, begun, deadline, until)
    finally:
      usage = _reap(child)
    return Finished(
      child.returncode if until is None else 0,
      _read(out),
      _read(err),
      seconds,
      usage.ru_utime + usage.ru_stime,
      usage.ru_maxrss * 1024,
    )


def _wait(
  child: 'subprocess.Popen[bytes]',
  begun: float,
  deadline: float | None,
  until: Callable[[], bool] | None,
) -> float:
  """Waits, and returns the seconds that it took."""
  while not _has_ended(child):
    if until is not None and until():
      seconds = time.perf_counter() - begun
      child.send_signal(signal.SIGTERM)
      last = time.monotonic() + GRACE_SECONDS
      while not _has_ended(child) and time.monotonic() < last:
        time.sleep(POLL_SECONDS)
      return seconds
    if deadline is not None and time.monotonic() >= deadline:
      break
    time.sleep(POLL_SECONDS)
  seconds = time.perf_counter() - begun
  if until is not None and not until():
    raise Failure('ended before it did what was waited for')
  return seconds


def _has_ended(child: 'subprocess.Popen[bytes]') -> bool:
  """Returns whether a child has ended; its usage is still to be had."""
  found = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
  return found is not None


def _reap(child: 'subprocess.Popen[bytes]') -> Any:
  """Ends a child and all it started; returns what it used."""
  with contextlib.suppress(ProcessLookupError):
    os.killpg(child.pid, signal.SIGKILL)
  _, status, usage = os.wait4(child.pid, 0)
  child.returncode = os.waitstatus_to_exitcode(status)
  return usage


def _read(file: IO[bytes]) -> str:
  file.seek(0)
  return file.read().decode(errors='replace')
