"""Several processes on one workdir: what they do is what one process does."""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments.command import WORKER_FLAG
from experiments.messages.errors import CommandError
from experiments.planning import layout
from experiments.record.ledger import lock_workdir
from experiments.run import pool, worker
from helpers.commands import run, trials
from helpers.processes import (
  ROW,
  TIMEOUT,
  Outcome,
  assert_same,
  end,
  outcome,
  resume_line,
  running,
  words,
  write_text,
)
from helpers.source import ROOT
from model.core.field import FieldError
from train.devices.cores import cores, split_cores
from train.files.durable import read_intact_lines

pytestmark = [
  pytest.mark.usefixtures('quick_compilation'),
  pytest.mark.skipif(
    not Path('/proc/self/stat').exists(), reason='looks for processes in /proc'
  ),
]
TWO = ('--seeds=2', '--workers=2')


@pytest.fixture(scope='module')
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A text of about 3 kB."""
  return write_text(tmp_path_factory.mktemp('text'))


@pytest.fixture(scope='module')
def expected(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
  """What one process comes to, in the layout that each worker takes."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  one = ('--seeds=2', '--lanes=shared:1', f'--workdir={workdir}')
  assert run(*words(text, *one)) == 0
  found = outcome(workdir)
  assert len({r['digest'] for r in found.trials.values()}) == 4
  return found


# Workers, seen from outside. --------------------------------------------------


def workers(parent: int) -> dict[str, int]:
  """Returns the processes of the workers of a process, by their names."""
  found = {}
  for folder in Path('/proc').iterdir():
    if not folder.name.isdecimal():
      continue
    with contextlib.suppress(OSError, IndexError):
      stat = (folder / 'stat').read_text().rpartition(')')[2].split()
      argv = (folder / 'cmdline').read_text().split('\0')
      if int(stat[1]) == parent and WORKER_FLAG in argv and stat[0] != 'Z':
        duty = json.loads(argv[argv.index(WORKER_FLAG) + 1])
        found[duty['owner']] = int(folder.name)
  return found


def leases(workdir: Path, owner: str) -> list[str]:
  """Returns the trials that a worker holds."""
  database = worker.queue_path(workdir)
  if not database.exists():
    return []
  with (
    contextlib.closing(sqlite3.connect(database, timeout=30)) as db,
    contextlib.suppress(sqlite3.OperationalError),  # no table yet
  ):
    query = 'SELECT trial FROM trials WHERE owner = ?'
    return [trial for (trial,) in db.execute(query, (owner,))]
  return []


def wait_until(what: Callable[[], Any], message: str) -> Any:
  """Waits until something is there, and returns it."""
  deadline = time.monotonic() + TIMEOUT
  while not (found := what()):
    assert time.monotonic() < deadline, message
    time.sleep(0.005)
  return found


def stop_one(parent: int, workdir: Path) -> tuple[int, list[str]]:
  """Stops a worker that trains; returns its process and what it holds."""

  def stopped() -> tuple[int, list[str]] | None:
    for owner, process in workers(parent).items():
      for trial in leases(workdir, owner):
        log = workdir / 'runs' / trial / 'metrics.jsonl'
        if log.exists() and log.stat().st_size:
          os.kill(process, signal.SIGSTOP)
          wait_until(lambda p=process: state(p) != 'R', 'it did not stop')
          if state(process) == 'T' and (held := leases(workdir, owner)):
            return process, held
          os.kill(process, signal.SIGCONT)
    return None

  return wait_until(stopped, 'no worker trained')


def state(process: int) -> str:
  """Returns the letter that Linux has for what a process does."""
  try:
    stat = Path(f'/proc/{process}/stat').read_text()
  except OSError:
    return 'X'
  return stat.rpartition(')')[2].split()[0]


@contextlib.contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
  """Does something beside the block, and raises what went wrong with it."""
  problems: list[BaseException] = []

  def safely() -> None:
    try:
      act()
    except BaseException as e:
      problems.append(e)

  thread = threading.Thread(target=safely)
  thread.start()
  try:
    yield
  finally:
    thread.join(TIMEOUT)
  assert not problems, problems


# The same numbers. ------------------------------------------------------------


@pytest.mark.slow
def test_workers_come_to_what_one_process_comes_to(
  text: Path,
  expected: Outcome,
  tmp_path: Path,
  capfd: pytest.CaptureFixture[str],
) -> None:
  workdir = tmp_path / 'run'
  assert run(*words(text, *TWO, f'--workdir={workdir}')) == 0
  assert_same(workdir, expected)
  out, err = capfd.readouterr()
  assert err == ''
  assert '2 workers, each: shared:1' in out
  assert '[4/4]' in out
  assert json.loads((workdir / 'layout.json').read_text())['lanes'] == (
    'shared:1'
  )
  assert not workers(os.getpid())
  with contextlib.closing(sqlite3.connect(worker.queue_path(workdir))) as db:
    rows = db.execute('SELECT trial, state, attempts FROM trials').fetchall()
  assert sorted(rows) == sorted((trial, 'done', 1) for trial in expected.trials)

  # Again, with one process: all is done before.
  record = (workdir / 'trials.jsonl').read_bytes()
  assert run(*words(text, '--seeds=2', f'--workdir={workdir}')) == 0
  assert (workdir / 'trials.jsonl').read_bytes() == record


@pytest.mark.slow
def test_each_worker_has_the_lanes_that_are_asked_for(
  text: Path, tmp_path: Path
) -> None:
  """Under vmap bits depend on the number of lanes: full or not, it stays."""
  argv = words(text, '--seeds=3', '--lanes=vmap:2')
  assert run(*argv, f'--workdir={tmp_path / "one"}') == 0
  assert run(*argv, '--workers=2', f'--workdir={tmp_path / "two"}') == 0
  assert_same(tmp_path / 'two', outcome(tmp_path / 'one'))


@pytest.mark.slow
def test_stages_go_from_worker_to_worker(text: Path, tmp_path: Path) -> None:
  """A trial that pauses at a rung goes on in any worker."""
  more = ('--ablate=scale=none', '--ablate=norm=rmsnorm', '--seeds=2')
  argv = words(text, *more, '--halving=2', '--lanes=shared:1')
  assert run(*argv, f'--workdir={tmp_path / "one"}') == 0
  assert run(*argv, '--workers=2', f'--workdir={tmp_path / "two"}') == 0
  records = [
    {(r['trial'], r['status'], r['digest']) for r in trials(tmp_path / name)}
    for name in ('one', 'two')
  ]
  assert records[0] == records[1]
  tables = [
    (tmp_path / n / 'selection.json').read_text() for n in ('one', 'two')
  ]
  assert tables[0] == tables[1]


def test_cores_are_shared_among_workers() -> None:
  mine = cores()
  for count in range(1, len(mine) + 3):
    found = split_cores(count)
    assert len(found) == count
    assert all(own for own in found)
    assert {core for own in found for core in own} == set(mine)
    if count <= len(mine):
      assert sum(map(len, found)) == len(mine)


def test_accelerators_are_not_shared(
  capsys: pytest.CaptureFixture[str],
) -> None:
  class Gpu:
    platform, device_kind = 'gpu', 'Some GPU'

  with pytest.raises(FieldError, match=r'--workers=2: is for CPUs.*Some GPU'):
    layout.one_a_worker(2, [Gpu()])
  assert layout.one_a_worker(1, [Gpu()]) is None


# Faults. ----------------------------------------------------------------------


@pytest.mark.slow
def test_what_a_killed_worker_held_others_take_over(
  text: Path,
  expected: Outcome,
  tmp_path: Path,
  capfd: pytest.CaptureFixture[str],
) -> None:
  workdir = tmp_path / 'run'
  killed = []

  def kill() -> None:
    process, _ = stop_one(os.getpid(), workdir)
    os.kill(process, signal.SIGKILL)
    killed.append(process)

  with meanwhile(kill):
    assert run(*words(text, *TWO, f'--workdir={workdir}')) == 0
  assert_same(workdir, expected)
  # JAX warns of a compilation cache that the kill may have left half written.
  lines = capfd.readouterr().err.splitlines()
  (line,) = [x for x in lines if 'process' in x]
  assert f'(process {killed[0]}) was killed by SIGKILL' in line
  assert '1 trials go to others' in line


@pytest.mark.slow
def test_a_silent_worker_is_ended(
  text: Path,
  expected: Outcome,
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
  capfd: pytest.CaptureFixture[str],
) -> None:
  """It may only sleep, and must not wake up when another has its trials."""
  monkeypatch.setattr(pool, 'LEASE_SECONDS', 6.0)
  workdir = tmp_path / 'run'
  with meanwhile(lambda: stop_one(os.getpid(), workdir) and None):
    assert run(*words(text, *TWO, f'--workdir={workdir}')) == 0
  assert_same(workdir, expected)
  assert 'gave no sign of life and was ended' in capfd.readouterr().err
  assert not workers(os.getpid())


FAULTY = f"""
import os, signal, sys
sys.path[0] = {str(ROOT)!r}
from experiments.run import worker

class Faulty(worker._Worker):
  def begin(self, trial):
    if (trial.row, trial.config.seed) == ({ROW!r}, 1):
      FAULT
    super().begin(trial)

worker._Worker = Faulty
sys.exit(worker.run_worker(sys.argv[2]))
"""


def faulty(folder: Path, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
  """Makes workers do something when they begin one of the trials."""
  script = folder / 'faulty.py'
  script.write_text(FAULTY.replace('FAULT', fault))
  monkeypatch.setattr(pool, 'LAUNCH', script)


def assert_only_one_failed(
  argv: Sequence[str],
  workdir: Path,
  expected: Outcome,
  monkeypatch: pytest.MonkeyPatch,
) -> dict[str, Any]:
  """Runs a faulty trial, then again without the fault; returns the failure."""
  real = pool.LAUNCH
  assert run(*argv) == 1
  records = trials(workdir)
  assert len(records) == 4
  (failed,) = [r for r in records if r['status'] == 'failed']
  assert (failed['row'], failed['seed']) == (ROW, 1)
  for record in records:
    if record is not failed:
      assert record['digest'] == expected.trials[record['trial']]['digest']
  assert failed['error'] in (workdir / 'table.md').read_text()

  assert real is pool.LAUNCH
  monkeypatch.undo()
  assert run(*argv) == 0
  (again,) = trials(workdir)[4:]
  assert again['trial'] == failed['trial']
  lines = [r for r in trials(workdir) if r['status'] == 'ok']
  path = workdir / 'trials.jsonl'
  path.write_text(''.join(json.dumps(line) + '\n' for line in lines))
  assert_same(workdir, expected)
  return failed


@pytest.mark.slow
def test_a_trial_that_raises_fails_alone_and_is_run_again(
  text: Path,
  expected: Outcome,
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
  capfd: pytest.CaptureFixture[str],
) -> None:
  faulty(tmp_path, "raise RuntimeError('out of luck\\nand more')", monkeypatch)
  workdir = tmp_path / 'run'
  argv = words(text, *TWO, f'--workdir={workdir}')
  failed = assert_only_one_failed(argv, workdir, expected, monkeypatch)
  assert failed['error'] == 'RuntimeError: out of luck'
  assert capfd.readouterr().err == ''


@pytest.mark.slow
def test_a_trial_that_ends_its_workers_fails_after_some_of_them(
  text: Path,
  expected: Outcome,
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
  capfd: pytest.CaptureFixture[str],
) -> None:
  """As if it took all memory; its neighbours in the lanes do not suffer."""
  fault = 'os.kill(os.getpid(), signal.SIGKILL)'
  faulty(tmp_path, fault, monkeypatch)
  workdir = tmp_path / 'run'
  argv = words(text, *TWO, '--lanes=map:2', f'--workdir={workdir}')
  failed = assert_only_one_failed(argv, workdir, expected, monkeypatch)
  assert 'was killed by SIGKILL, as 2 before' in failed['error']
  said = capfd.readouterr().err.splitlines()
  assert len(said) == pool.ATTEMPTS
  assert all('was killed by SIGKILL' in line for line in said)


@pytest.mark.slow
def test_a_full_disk_ends_all_and_loses_nothing(
  text: Path,
  expected: Outcome,
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
  capfd: pytest.CaptureFixture[str],
) -> None:
  faulty(tmp_path, 'raise OSError(28, os.strerror(28))', monkeypatch)
  workdir = tmp_path / 'run'
  argv = words(text, *TWO, f'--workdir={workdir}')
  assert run(*argv) == 1
  (line,) = capfd.readouterr().err.splitlines()
  assert 'the disk is full' in line
  assert 'make room, then: python launch.py' in line
  assert not workers(os.getpid())
  done = {
    r['trial']: r['status'] for r in read_intact_lines(workdir / 'trials.jsonl')
  }
  assert set(done.values()) <= {'ok'}
  assert len(done) < 4
  monkeypatch.undo()
  assert run(*argv) == 0
  assert_same(workdir, expected)


def test_workers_that_cannot_begin_are_no_endless_loop(
  text: Path,
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
  capfd: pytest.CaptureFixture[str],
) -> None:
  script = tmp_path / 'broken.py'
  script.write_text('raise SystemExit(7)')
  monkeypatch.setattr(pool, 'LAUNCH', script)
  workdir = tmp_path / 'run'
  assert run(*words(text, *TWO, f'--workdir={workdir}')) == 1
  assert [r['status'] for r in trials(workdir)] == ['failed'] * 4
  assert all(
    'no worker is left' in r['error'] and 'exit code 7' in r['error']
    for r in trials(workdir)
  )
  assert len(capfd.readouterr().err.splitlines()) == 2


@pytest.mark.slow
def test_a_damaged_queue_loses_nothing(
  text: Path,
  expected: Outcome,
  tmp_path: Path,
  capfd: pytest.CaptureFixture[str],
) -> None:
  workdir = tmp_path / 'run'
  argv = words(text, f'--workdir={workdir}')
  assert run(*argv, '--seeds=1', '--lanes=shared:1') == 0
  worker.queue_path(workdir).write_bytes(random.Random(0).randbytes(9000))
  assert run(*argv, *TWO) == 0
  assert_same(workdir, expected)
  (line,) = capfd.readouterr().err.splitlines()
  assert 'rebuilt from trials.jsonl' in line
  assert (workdir / 'queue.sqlite.damaged-0').stat().st_size == 9000


# Signals and kills of the process that has the workers. -----------------------


def all_gone(processes: Sequence[int]) -> bool:
  """Returns whether these processes have ended."""
  return all(state(process) in 'XZ' for process in processes)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM'])
def test_a_signal_saves_and_ends_all(
  name: str, text: Path, expected: Outcome, tmp_path: Path
) -> None:
  number, workdir = signal.Signals[name], tmp_path / 'run'
  argv = words(text, *TWO, f'--workdir={workdir}')
  with running(argv) as process:
    asleep, held = stop_one(process.pid, workdir)
    begun = list(workers(process.pid).values())
    os.kill(process.pid, number)
    os.kill(asleep, signal.SIGCONT)
    code, out, err = end(process)
  assert (code, err) == (128 + number, '')
  assert all_gone(begun)
  done = {r['trial'] for r in read_intact_lines(workdir / 'trials.jsonl')}
  assert len(done) < 4
  for trial in set(held) - done:
    saves = (workdir / 'runs' / trial / 'checkpoints').iterdir()
    assert any(folder.name.isdecimal() for folder in saves)

  folder = Path(sys.executable).parent
  if not (folder / 'python').exists():
    pytest.skip('this interpreter is not called python')
  again = subprocess.run(
    ['bash', '-c', resume_line(out)],
    env={**os.environ, 'PATH': f'{folder}{os.pathsep}{os.environ["PATH"]}'},
    capture_output=True,
    text=True,
    timeout=TIMEOUT,
    check=False,
  )
  assert (again.returncode, again.stderr) == (0, '')
  assert_same(workdir, expected)


@pytest.mark.slow
def test_a_kill_leaves_no_orphans(
  text: Path, expected: Outcome, tmp_path: Path
) -> None:
  """Workers save and end; the next run waits for them, and goes on."""
  workdir = tmp_path / 'run'
  argv = words(text, *TWO, f'--workdir={workdir}')
  with running(argv) as process:
    asleep, held = stop_one(process.pid, workdir)
    begun = list(workers(process.pid).values())
    os.kill(asleep, signal.SIGCONT)
    process.kill()
    process.wait(TIMEOUT)
    # Not through a pipe whose other end the workers have: they end anyway.
    wait_until(lambda: all_gone(begun), 'a worker did not end')
    _, err = process.communicate(timeout=TIMEOUT)
    assert err == ''
  done = {r['trial'] for r in read_intact_lines(workdir / 'trials.jsonl')}
  assert len(done) < 4
  for trial in set(held) - done:
    saves = (workdir / 'runs' / trial / 'checkpoints').iterdir()
    assert any(folder.name.isdecimal() for folder in saves)
  assert run(*argv) == 0
  assert_same(workdir, expected)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(2))
def test_kills_of_anyone_change_nothing(
  seed: int, text: Path, expected: Outcome, tmp_path: Path
) -> None:
  draw, workdir = random.Random(seed), tmp_path / 'run'
  argv = words(text, *TWO, f'--workdir={workdir}')
  for _ in range(3):
    with running(argv) as process:
      asleep, _ = stop_one(process.pid, workdir)
      begun = list(workers(process.pid).values())
      os.kill(asleep, signal.SIGCONT)
      time.sleep(draw.uniform(0, 0.3))
      victim = draw.choice([process.pid, *begun])
      os.kill(victim, signal.SIGKILL)
      time.sleep(draw.uniform(0, 0.3))
      process.kill()
      process.wait(TIMEOUT)
  assert run(*argv) == 0
  assert_same(workdir, expected)


# Takes the lock, gives it to a child, and dies.
HOLDER = f"""
import os, pathlib, subprocess, sys
sys.path.insert(0, {str(ROOT)!r})
from experiments.record.ledger import lock_workdir
with lock_workdir(pathlib.Path(sys.argv[1])) as lock:
  child = subprocess.Popen(['cat'], stdin=0, stdout=1, pass_fds=(lock,))
  print(child.pid, flush=True)
  os._exit(1)
"""


def test_a_run_waits_for_the_workers_of_one_that_was_killed(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  with subprocess.Popen(
    [sys.executable, '-c', HOLDER, str(tmp_path)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as killed:
    assert killed.stdout is not None
    assert killed.stdin is not None
    orphan = int(killed.stdout.readline())
    assert killed.wait(TIMEOUT) == 1
    said, order = list[str](), list[str]()

    def let_go() -> None:
      wait_until(lambda: said.append(capsys.readouterr().out) or any(said), '')
      order.append('the worker ends')
      assert killed.stdin is not None
      killed.stdin.close()

    with meanwhile(let_go), lock_workdir(tmp_path):
      order.append('the next run begins')
    assert order == ['the worker ends', 'the next run begins']
    assert ''.join(said) == (
      f'workers of process {killed.pid} still save: waiting\n'
    )
    wait_until(lambda: all_gone([orphan]), 'it still runs')


def test_a_run_that_lives_is_not_waited_for(tmp_path: Path) -> None:
  with (
    lock_workdir(tmp_path),
    pytest.raises(CommandError) as problem,
    lock_workdir(tmp_path),
  ):
    pass
  assert f'process {os.getpid()} works there' in str(problem.value)
