"""Runs `python launch.py` as its users do, and compares what it leaves."""

import contextlib
import dataclasses
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from helpers.source import ROOT
from train.files.durable import read_intact_lines

TINY = {
  'num_layers': '2',
  'd_model': '16',
  'num_heads': '2',
  'seq_len': '16',
  'batch_size': '2',
  'steps': '40',
  'eval_every': '10',
  'warmup_steps': '4',
  # So that a trial alone is one of several lanes: for several devices, XLA
  # optimises layers one after another otherwise.
  'scan_layers': 'true',
}
ROW = 'position=none'
RUN = ('--log_every=3', '--checkpoint_seconds=0', f'--ablate={ROW}')
TIMEOUT = 120  # seconds that one process may take, on a busy machine


def write_text(folder: Path) -> Path:
  """Returns a new text of about 3 kB."""
  draw = random.Random(0)
  names = ['to', 'be', 'or', 'not', 'that', 'is', 'the', 'question.\n']
  path = folder / 'text.txt'
  path.write_text(' '.join(draw.choices(names, k=750)))
  return path


def words(text: Path, *more: str) -> list[str]:
  """Returns the arguments of the run of these tests: 2 rows."""
  sizes = [f'--{name}={value}' for name, value in TINY.items()]
  return [*sizes, f'--task.path={text}', *RUN, *more]


# Sets the largest file that may be written, then becomes the program: a fork
# with code in between does not go with the threads of JAX.
LIMITED = """
import os, resource, sys
size = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""


def start(
  argv: Sequence[str], largest_file: int | None = None
) -> subprocess.Popen[str]:
  """Starts `python launch.py ARGV`."""
  command = [str(ROOT / 'launch.py'), *argv]
  if largest_file is not None:
    command = ['-c', LIMITED, str(largest_file), *command]
  return subprocess.Popen(
    [sys.executable, *command],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )


@contextlib.contextmanager
def running(argv: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
  """Starts `python launch.py ARGV`; nothing of it outlives the block."""
  with start(argv) as process:
    try:
      yield process
    finally:
      process.kill()


def end(
  process: subprocess.Popen[str], timeout: float = TIMEOUT
) -> tuple[int, str, str]:
  """Returns the exit code, stdout and stderr of a process."""
  try:
    out, err = process.communicate(timeout=timeout)
  finally:
    process.kill()
  return process.returncode, out, err


@dataclasses.dataclass(frozen=True)
class Outcome:
  """All that must not depend on faults: of every trial, and of the table."""

  trials: dict[str, dict[str, Any]]
  figures: dict[str, list[dict[str, Any]]]
  table: dict[str, Any]


def outcome(workdir: Path) -> Outcome:
  """Returns what a finished working directory holds, without the clock."""
  records = read_intact_lines(workdir / 'trials.jsonl')
  ids = [record['trial'] for record in records]
  assert len(set(ids)) == len(ids), 'a finished trial was run again'
  table = json.loads((workdir / 'table.json').read_text())
  for row in table['rows']:
    del row['seconds']
  return Outcome(
    {r['trial']: {k: r[k] for k in r if k != 'clock'} for r in records},
    {i: read_intact_lines(workdir / f'runs/{i}/metrics.jsonl') for i in ids},
    table,
  )


def assert_same(workdir: Path, expected: Outcome) -> None:
  """Fails unless a working directory holds this outcome."""
  found = outcome(workdir)
  assert found.trials == expected.trials
  assert found.figures == expected.figures
  assert found.table == expected.table


def sizes(workdir: Path, pattern: str) -> dict[str, tuple[int, int]]:
  """Returns size and time of change of the files that match."""
  found = {}
  for path in workdir.glob(pattern):
    try:
      stat = path.stat()
    except OSError:  # it was there a moment ago
      continue
    found[str(path)] = stat.st_size, stat.st_mtime_ns
  return found


# What to wait for: files that change or appear, and seconds after that.
MOMENTS = {
  'start-up': (None, 1.5),
  'before the first trial': ('environment.json', 0.2),
  'compilation': ('runs/*/config.json', 0.6),
  'a chunk': ('runs/*/metrics.jsonl', 0.05),
  'a save': ('runs/*/checkpoints/*tmp*', 0.1),
  'a file of a trial': ('runs/*/*.*', 0.02),
  'a temporary file': ('**/.*.tmp', 0.003),
  'the end of a trial': ('runs/*/end.json', 0.02),
  'a record': ('trials.jsonl', 0.01),
  'the report': ('table.*', 0.03),
  'the page': ('report.html', 0.02),
  'any time': (None, 12.0),
}


class Late(AssertionError):
  """What was waited for did not come in time."""


def kill_at(
  process: subprocess.Popen[str],
  workdir: Path,
  moment: str,
  draw: random.Random,
) -> bool:
  """Kills a process near a moment; False if it ended before."""
  pattern, spread = MOMENTS[moment]
  deadline = time.monotonic() + TIMEOUT
  if pattern is not None:
    before = sizes(workdir, pattern)
    while sizes(workdir, pattern).items() <= before.items():
      if process.poll() is not None:
        break
      if time.monotonic() > deadline:
        process.kill()
        process.communicate()
        raise Late(f'{moment} never came')
      time.sleep(0.001)
  time.sleep(draw.uniform(0, spread))
  killed = process.poll() is None
  process.kill()
  _, err = process.communicate(timeout=TIMEOUT)
  assert 'Traceback' not in err, err
  return killed


def resume_line(out: str) -> str:
  """Returns the command that a stopped run prints."""
  (line,) = [x for x in out.splitlines() if 'to go on: ' in x]
  return line.partition('to go on: ')[2]


class Unavailable(Exception):
  """This machine cannot do that to itself."""


def mount(place: Path, options: str) -> None:
  """Mounts a small disk at a folder, or changes the one that is there."""
  if os.path.ismount(place):
    options += ',remount'
  command = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(place)]
  try:
    subprocess.run(command, check=True, capture_output=True)
  except (OSError, subprocess.CalledProcessError) as e:
    raise Unavailable(f'cannot mount a small disk here: {e}') from e


def clock_of(record: dict[str, Any]) -> dict[str, Any]:
  return {'clock': record['clock']}
