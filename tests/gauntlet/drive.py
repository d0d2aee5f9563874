"""Runs the parts, each in a process of its own: what is tried may end it."""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import simulate
from gauntlet import commandlines, faults, flips, kills, verdicts
from gauntlet.outcome import Attempt, Outcome, Tally
from helpers.source import ROOT

SEEDS = 10**6  # of attempts that one --seed has
# Of a part, by its name: its attempts, in a folder that all parts share.
PARTS: Mapping[str, Callable[[Path, int], Attempt]] = {
  'kills': lambda home, tables: kills.attempts(home),
  'flips': lambda home, tables: flips.attempts(home),
  'commands': lambda home, tables: commandlines.attempts(home),
  'faults': lambda home, tables: faults.attempts(home),
  'simulations': lambda home, tables: verdicts.attempts(tables),
}
# Of the seconds that are left, and how long one attempt may take.
SHARES = {
  'kills': 3,
  'flips': 4,
  'commands': 4,
  'faults': 2,
  'simulations': 2,
}
LONGEST = 1800.0


def settings() -> int:
  """Returns how many settings are simulated."""
  return len(list(simulate.settings()))


def run(
  seeds: Mapping[str, Sequence[int]], tables: int, seconds: float | None
) -> list[Tally]:
  """Returns what the attempts of each part came to.

  Args:
    seeds: of the attempts, by part.
    tables: that are simulated of each setting.
    seconds: that all of it may take; none is as long as it takes.
  """
  end = None if seconds is None else time.monotonic() + seconds
  tallies, left = [], dict(seeds)
  with tempfile.TemporaryDirectory(prefix='gauntlet-') as folder:
    try:
      for part in seeds:
        weight = SHARES[part] / sum(SHARES[name] for name in left)
        own = None if end is None else (end - time.monotonic()) * weight
        command = [
          *(sys.executable, '-m', 'tests.gauntlet', f'--child={part}'),
          *(f'--home={folder}', f'--simulations={tables}'),
        ]
        with Child(command) as child:
          tallies.append(_part(part, left.pop(part), child, own))
    finally:
      faults.clear(Path(folder) / faults.FOLDER)
  return tallies


def _part(
  part: str, seeds: Sequence[int], child: 'Child', seconds: float | None
) -> Tally:
  """Returns what came of at least one attempt, and of more in the time."""
  tally, start = Tally(part, len(seeds)), time.monotonic()
  for seed in seeds:
    if tally.tried >= tally.asked:  # an attempt may try many things
      break
    late = seconds is not None and time.monotonic() - start > seconds
    if late and tally.tried:
      break
    found = child.attempt(seed)
    tally.add(seed, found)
    if seed in tally.bad:
      say = f'{found.kind}: --only={part}:{seed}: {found.about}'
      print(say, file=sys.stderr, flush=True)
  tally.seconds = time.monotonic() - start
  return tally


class Child:
  """A process that makes attempts; where one ends it, the next begins anew.

  Args:
    command: starts what answers a line with a seed by a line of JSON.
  """

  def __init__(self, command: Sequence[str]):
    self._command = command
    self._process: subprocess.Popen[str] | None = None

  def __enter__(self) -> 'Child':
    return self

  def __exit__(self, *error: object) -> None:
    if self._process is not None:
      # And what it started, which may hang too.
      with contextlib.suppress(ProcessLookupError):
        os.killpg(self._process.pid, signal.SIGKILL)
      self._process.communicate()
      self._process = None

  def attempt(self, seed: int) -> Outcome:
    """Returns what an attempt came to, though it end or hang the process."""
    if self._process is None:
      self._process = subprocess.Popen(
        self._command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
      )
    process = self._process
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f'{seed}\n')
    process.stdin.flush()
    ready, _, _ = select.select([process.stdout], [], [], LONGEST)
    line = process.stdout.readline() if ready else ''
    if line:
      return Outcome(*json.loads(line))
    if ready:
      why = f'the process ended ({process.wait()})'
    else:
      why = f'nothing came of it in {LONGEST:.0f} s'
    self.__exit__()
    return Outcome('traceback', why)


def serve(part: str, home: Path, tables: int) -> None:
  """Makes the attempts whose seeds come from stdin, a line each."""
  # What is tried may print; the answers go where nothing else does.
  with os.fdopen(os.dup(1), 'w') as answers:
    os.dup2(2, 1)
    attempt = PARTS[part](home, tables)
    for line in _lines():
      print(json.dumps(attempt(int(line))), file=answers, flush=True)


def _lines() -> Iterator[str]:
  """Yields lines as they come."""
  while line := sys.stdin.readline():
    yield line
