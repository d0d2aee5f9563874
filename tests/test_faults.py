"""Kills, damage, full disks and signals: the numbers stay what they were."""

import dataclasses
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import alone
from commands import run
from processes import (
  ROW,
  TIMEOUT,
  TINY,
  Outcome,
  Unavailable,
  assert_same,
  end,
  kill_at,
  mount,
  outcome,
  resume_line,
  running,
  sizes,
  start,
  words,
  write_text,
)
from train import loop
from train.checkpoint import Checkpoints
from train.config import Config
from train.files import append_lines, read_lines
from train.parallel import Shared, to_host
from train.schema import override
from train.step import init_state
from train.trial import Hooks, Interrupted, Options, Result, Trial

pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.fixture(scope='module')
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A text of about 3 kB."""
  return write_text(tmp_path_factory.mktemp('text'))


@pytest.fixture(scope='module')
def whole(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
  """The working directory of a run that nothing disturbed; do not change."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  code, out, err = end(start(words(text, '--seeds=2', f'--workdir={workdir}')))
  assert (code, err) == (0, ''), out
  return workdir


@pytest.fixture(scope='module')
def expected(whole: Path) -> Outcome:
  """What the run that nothing disturbed came to."""
  found = outcome(whole)
  assert len(found.trials) == 4
  assert len({r['digest'] for r in found.trials.values()}) == 4
  # Every third step, and four evaluations.
  assert all(len(lines) == 17 for lines in found.figures.values())
  return found


# Kills. -----------------------------------------------------------------------


def survive(
  argv: Sequence[str], workdir: Path, moments: Sequence[str], seed: int
) -> int:
  """Kills a run at these moments, then lets it end; returns the kills."""
  draw = random.Random(seed)
  kills = 0
  for moment in moments:
    kills += kill_at(start(argv), workdir, moment, draw)
  code, out, err = end(start(argv))
  assert code == 0, (out, err)
  assert 'Traceback' not in err
  return kills


@pytest.mark.slow
def test_two_kills_change_nothing(
  text: Path, expected: Outcome, tmp_path: Path
) -> None:
  workdir = tmp_path / 'run'
  argv = words(text, '--seeds=2', f'--workdir={workdir}')
  assert survive(argv, workdir, ['a chunk', 'a save'], 0) == 2
  assert_same(workdir, expected)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(3))
def test_ten_kills_change_nothing(
  seed: int, text: Path, expected: Outcome, tmp_path: Path
) -> None:
  workdir = tmp_path / 'run'
  argv = words(text, '--seeds=2', f'--workdir={workdir}')
  early = ['start-up', 'before the first trial', 'compilation']
  middle = ['a chunk', 'a save', 'a chunk', 'a save', 'a record', 'start-up']
  random.Random(seed).shuffle(middle)
  moments = [*early, *middle, 'the report']
  assert survive(argv, workdir, moments, seed) >= 8
  assert_same(workdir, expected)


SELECTIONS = {
  'tune': ('--tune=learning_rate=1e-4 3e-3 1e-1',),
  'halving': ('--sweep=learning_rate=1e-4 1e-3 1e-2 1e-1', '--halving=2'),
}


@pytest.mark.slow
@pytest.mark.parametrize('how', SELECTIONS)
def test_kills_do_not_change_what_is_selected(
  how: str, text: Path, tmp_path: Path
) -> None:
  """Killed between stages, in them and beside a pause."""

  def came_to(workdir: Path) -> tuple[Any, ...]:
    records = {
      (r['trial'], r['status'], r['steps']): {
        k: r[k] for k in r if k != 'clock'
      }
      for r in read_lines(workdir / 'trials.jsonl')
    }
    table = json.loads((workdir / 'table.json').read_text())
    for row in table['rows']:
      del row['seconds']
    return records, table, (workdir / 'selection.json').read_text()

  runs = [tmp_path / 'whole', tmp_path / 'killed']
  argv = words(text, '--seeds=2', '--tune_seeds=1', *SELECTIONS[how])
  code, out, err = end(start([*argv, f'--workdir={runs[0]}']))
  assert (code, err) == (0, ''), out
  moments = ['a chunk', 'a record', 'a save', 'a record', 'a chunk', 'a record']
  again = [*argv, f'--workdir={runs[1]}']
  assert survive(again, runs[1], moments, 0) == 6
  assert came_to(runs[1]) == came_to(runs[0])


@pytest.mark.slow
def test_a_kill_before_the_owner_is_written_is_no_stranger(
  text: Path, expected: Outcome, tmp_path: Path
) -> None:
  """What a kill leaves at the very start is a lock and a temporary file."""
  workdir = tmp_path / 'run'
  workdir.mkdir()
  (workdir / '.lock').write_text('1')
  (workdir / '.config.json.12345').write_text('{"exper')
  assert run(*words(text, '--seeds=2', f'--workdir={workdir}')) == 0
  assert_same(workdir, expected)


# Damaged checkpoints, in this process. ----------------------------------------


def devices() -> Shared:
  """Returns one device."""
  return Shared((jax.local_devices()[0],))


def trial(text: Path, directory: Path) -> Trial:
  """Returns the base row of the run."""
  config: Config = override(Config(), {**TINY, 'task.path': str(text)})
  return Trial('one', config, directory, config.task.load())


def train(
  mine: Trial, until: int | None = None
) -> tuple[Result | None, list[str]]:
  """Trains to the end, or to a step; returns the result and the warnings."""
  warnings: list[str] = []
  reached = [0]
  hooks = Hooks(
    progress=lambda progress: reached.__setitem__(0, progress.step),
    ended=lambda trial, result: None,
    warn=warnings.append,
    stop_requested=lambda: until is not None and reached[0] >= until,
  )
  options = Options(checkpoint_seconds=0.0, log_every=3)
  try:
    return alone.run(mine, options, devices(), hooks), warnings
  except Interrupted:
    return None, warnings


@dataclasses.dataclass(frozen=True)
class Halves:
  """A trial that was stopped halfway, and what it comes to in one go."""

  stopped: Path
  result: Result
  figures: list[dict[str, Any]]


@pytest.fixture(scope='module')
def halves(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Halves:
  """Trained once in one go, once up to the middle; do not change."""
  folder = tmp_path_factory.mktemp('halves')
  result, warnings = train(trial(text, folder / 'whole'))
  assert result is not None
  assert not warnings
  stopped, _ = train(trial(text, folder / 'stopped'), until=25)
  assert stopped is None
  assert 25 <= steps_of(folder / 'stopped')[-1] < 40
  figures = read_lines(folder / 'whole/metrics.jsonl')
  return Halves(folder / 'stopped', result, figures)


def steps_of(directory: Path) -> list[int]:
  """Returns the steps that have a folder among the checkpoints."""
  names = [p.name for p in (directory / 'checkpoints').iterdir()]
  return sorted(int(name) for name in names if name.isdigit())


def newest(directory: Path) -> Path:
  """Returns the folder of the newest checkpoint."""
  return directory / 'checkpoints' / str(steps_of(directory)[-1])


def data_file(checkpoint: Path) -> Path:
  """Returns the largest file of the state: it holds the parameters."""
  files = [p for p in (checkpoint / 'state').rglob('*') if p.is_file()]
  return max(files, key=lambda p: (p.stat().st_size, p))


def truncate(checkpoint: Path) -> None:
  path = data_file(checkpoint)
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty_file(checkpoint: Path) -> None:
  data_file(checkpoint).write_bytes(b'')


def empty_folder(checkpoint: Path) -> None:
  shutil.rmtree(checkpoint)
  checkpoint.mkdir()


def flip(checkpoint: Path) -> None:
  """Changes two bits: one may be of what nobody reads."""
  path = data_file(checkpoint)
  for bit in (path.stat().st_size * 3, path.stat().st_size * 5):
    flip_bit(path, bit)


def flip_bit(path: Path, bit: int) -> None:
  """Changes one bit of a file."""
  data = bytearray(path.read_bytes())
  data[bit // 8] ^= 1 << bit % 8
  path.write_bytes(data)


def lose_extra(checkpoint: Path) -> None:
  shutil.rmtree(checkpoint / 'extra')


def later_step(checkpoint: Path) -> None:
  (checkpoint.parent / '39').mkdir()


DAMAGES = (truncate, empty_file, empty_folder, flip, lose_extra, later_step)


def assert_recovers(mine: Trial, halves: Halves, at_least: int = 1) -> None:
  """Fails unless a trial warns, goes on, and comes to the same result."""
  result, warnings = train(mine)
  assert len(warnings) >= at_least, warnings
  assert all('damaged' in w and len(w.splitlines()) == 1 for w in warnings)
  assert result is not None
  assert result._replace(clock={}) == halves.result._replace(clock={})
  assert read_lines(mine.directory / 'metrics.jsonl') == halves.figures


# What Orbax leaves behind when a restore fails is found by the collector.
QUIET = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)


@pytest.mark.slow
@QUIET
@pytest.mark.parametrize('damage', DAMAGES, ids=lambda d: d.__name__)
def test_falls_back_to_the_checkpoint_before(
  damage: Callable[[Path], None], text: Path, halves: Halves, tmp_path: Path
) -> None:
  mine = trial(text, tmp_path / 'one')
  shutil.copytree(halves.stopped, mine.directory)
  damage(newest(mine.directory))
  assert_recovers(mine, halves)


@pytest.mark.slow
@QUIET
def test_begins_again_if_all_are_damaged(
  text: Path, halves: Halves, tmp_path: Path
) -> None:
  mine = trial(text, tmp_path / 'one')
  shutil.copytree(halves.stopped, mine.directory)
  steps = steps_of(mine.directory)
  for step in steps:
    flip(mine.directory / 'checkpoints' / str(step))
  assert_recovers(mine, halves, len(steps))


def restored(
  mine: Trial, step: int | None = None
) -> tuple[int, Any, dict[str, Any], list[str]]:
  """Returns step, arrays and JSON of the newest whole checkpoint."""
  dims = mine.config.dims(mine.data.vocabulary.size)
  template = to_host(init_state(mine.config, dims).saved)
  warnings: list[str] = []
  checkpoints = Checkpoints(mine.directory / 'checkpoints', 2, warnings.append)
  try:
    found = (
      checkpoints.restore(template)
      if step is None
      else checkpoints.restore_step(step, template)
    )
  finally:
    checkpoints.close()
  assert found is not None
  return found.step, found.tree, found.extra, warnings


# Each file of a checkpoint, by what is done to it.
EVERY_FILE: dict[str, Callable[[Path, random.Random], None]] = {
  'flipped': lambda p, draw: flip_bit(
    p, draw.randrange(max(p.stat().st_size, 1) * 8)
  ),
  'emptied': lambda p, _: p.write_bytes(b'') and None,
  'cut': lambda p, _: p.write_bytes(p.read_bytes()[:-1]) and None,
  'lost': lambda p, _: p.unlink(),
}


def assert_restores_or_falls_back(
  mine: Trial, truth: dict[int, tuple[Any, dict[str, Any]]]
) -> None:
  """Fails if a restore raises, or returns what was not saved."""
  step, tree, extra, warnings = restored(mine)
  saved_tree, saved_extra = truth[step]
  same = jax.tree.map(np.array_equal, tree, saved_tree)
  assert all(jax.tree.leaves(same)), f'step {step} has other arrays'
  assert extra == saved_extra, f'step {step} has other JSON'
  assert warnings or step == max(truth), 'fell back without a word'


def damage_every_file(
  how: str, text: Path, halves: Halves, tmp_path: Path, rounds: int
) -> list[str]:
  """Damages one file after the other; returns what went wrong."""
  mine = trial(text, tmp_path / 'one')
  truth = {}
  for step in steps_of(halves.stopped):
    shutil.copytree(halves.stopped, mine.directory)
    truth[step] = restored(mine, step)[1:3]
    shutil.rmtree(mine.directory)
  files = [p for p in newest(halves.stopped).rglob('*') if p.is_file()]
  draw, wrong = random.Random(0), []
  for path in sorted(files) * rounds:
    if path.stat().st_size == 0 and how != 'lost':
      continue
    name = path.relative_to(halves.stopped)
    shutil.copytree(halves.stopped, mine.directory)
    EVERY_FILE[how](mine.directory / name, draw)
    try:
      assert_restores_or_falls_back(mine, truth)
    except Exception as e:
      first = (str(e).splitlines() or [''])[0][:120]
      wrong.append(f'{name}: {type(e).__name__}: {first}')
    except AssertionError as e:
      wrong.append(f'{name}: {str(e).splitlines()[0]}')
    shutil.rmtree(mine.directory)
  return wrong


@QUIET
def test_a_flipped_digit_in_the_notes_is_noticed(
  text: Path, halves: Halves, tmp_path: Path
) -> None:
  """The notes hold figures of the table: they need a digest too."""
  mine = trial(text, tmp_path / 'one')
  shutil.copytree(halves.stopped, mine.directory)
  path = newest(mine.directory) / 'extra/metadata'
  number = re.search(rb'"best_val_loss": ?\d\.(\d)', path.read_bytes())
  assert number is not None
  flip_bit(path, number.start(1) * 8)  # 2.5 becomes 2.4
  assert_recovers(mine, halves)


@QUIET
@pytest.mark.slow
@pytest.mark.parametrize('how', EVERY_FILE)
def test_damage_to_any_file_is_noticed_or_harmless(
  how: str, text: Path, halves: Halves, tmp_path: Path
) -> None:
  rounds = 8 if how == 'flipped' else 1
  wrong = damage_every_file(how, text, halves, tmp_path, rounds)
  assert not wrong, '\n'.join(sorted(set(wrong)))


# Signals, and two processes. --------------------------------------------------


def wait_for(process: subprocess.Popen[str], workdir: Path, text: str) -> None:
  """Waits until a trial has logged a figure."""
  deadline = time.monotonic() + TIMEOUT
  while not any(size for size, _ in sizes(workdir, text).values()):
    assert process.poll() is None, process.communicate()
    assert time.monotonic() < deadline
    time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize(
  'name', ['SIGINT', pytest.param('SIGTERM', marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_says_how_to_go_on(
  name: str,
  text: Path,
  expected: Outcome,
  tmp_path: Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  number = signal.Signals[name]
  workdir = tmp_path / 'a run; of "mine"'
  argv = words(text, '--seeds=2', f'--workdir={workdir}')
  with running(argv) as process:
    wait_for(process, workdir, 'runs/*/metrics.jsonl')
    os.kill(process.pid, signal.SIGSTOP)
    os.waitpid(process.pid, os.WUNTRACED)  # The signal takes a while to arrive.
    if name == 'SIGINT':
      before = sorted(workdir.rglob('*'))
      assert run(*argv) == 2
      refused = capsys.readouterr().err
      assert len(refused.splitlines()) == 1
      assert f'process {process.pid} works there' in refused
      assert sorted(workdir.rglob('*')) == before
    os.kill(process.pid, number)
    os.kill(process.pid, signal.SIGCONT)
    code, out, err = end(process)
    assert (code, err) == (128 + number, '')
  assert len(read_lines(workdir / 'trials.jsonl')) < 4

  folder = Path(sys.executable).parent
  if not (folder / 'python').exists():
    pytest.skip('this interpreter is not called python')
  path = f'{folder}{os.pathsep}{os.environ["PATH"]}'
  done = subprocess.run(
    ['bash', '-c', resume_line(out)],
    env={**os.environ, 'PATH': path},
    capture_output=True,
    text=True,
    timeout=TIMEOUT,
    check=False,
  )
  assert (done.returncode, done.stderr) == (0, '')
  assert_same(workdir, expected)


# A disk that is full, or cannot be written. -----------------------------------


def says_to_make_room(done: tuple[int, str, str], workdir: Path) -> list[str]:
  """Returns what else is on stderr than the line that says what to do."""
  code, out, err = done
  lines = [line for line in err.splitlines() if 'make room' in line]
  assert (code, len(lines)) == (1, 1), (code, out[-500:], err[-500:])
  assert str(workdir) in lines[0]
  return [line[:200] for line in err.splitlines() if line not in lines][:4]


def pages(folder: Path) -> int:
  """Returns the memory that a folder takes in a tmpfs, in bytes."""
  paths = list(folder.rglob('*'))
  return sum(-(-p.stat().st_size // 4096) * 4096 for p in paths if p.is_file())


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
  """Mounts, or remounts, a small disk with this many bytes."""
  folder = tmp_path / 'disk'
  folder.mkdir()

  def sized(size: int) -> Path:
    try:
      mount(folder, f'size={size // 1024}k')
    except Unavailable as e:
      pytest.skip(str(e))
    return folder

  yield sized
  if os.path.ismount(folder):
    subprocess.run(['umount', '-l', str(folder)], check=True)


# How much of the room that a run needs there is.
@pytest.mark.slow
@pytest.mark.parametrize('share', [0.1, 0.3, 0.6, 0.8, 0.95])
def test_a_full_disk_ends_the_run_and_loses_nothing(
  share: float,
  text: Path,
  whole: Path,
  expected: Outcome,
  disk: Callable[[int], Path],
) -> None:
  room = pages(whole)
  workdir = disk(int(share * room)) / 'run'
  # One after another, so that the first have ended when the disk is full.
  alone = ('--seeds=2', '--lanes=shared:1')
  argv = words(text, *alone, f'--workdir={workdir}')
  more = says_to_make_room(end(start(argv)), workdir)
  done = read_lines(workdir / 'trials.jsonl')
  assert len(done) >= (1 if share > 0.5 else 0)
  assert all(r == expected.trials[r['trial']] | _clock(r) for r in done)

  disk(8 * room)
  code, out, err = end(start(argv))
  assert code == 0, (out, err)
  assert_same(workdir, expected)
  assert not more


def _clock(record: dict[str, Any]) -> dict[str, Any]:
  return {'clock': record['clock']}


@pytest.mark.slow
def test_a_disk_that_is_full_from_the_start(
  text: Path, expected: Outcome, disk: Callable[[int], Path]
) -> None:
  folder = disk(64 * 1024)
  room = os.statvfs(folder)
  (folder / 'filler').write_bytes(b'x' * (room.f_bavail * room.f_frsize))
  workdir = folder / 'run'
  argv = words(text, '--seeds=2', f'--workdir={workdir}')
  more = says_to_make_room(end(start(argv)), workdir)
  disk(1 << 26)
  assert run(*argv) == 0
  assert_same(workdir, expected)
  assert not more


def test_a_read_only_disk_is_refused(
  text: Path,
  disk: Callable[[int], Path],
  capsys: pytest.CaptureFixture[str],
) -> None:
  folder = disk(1 << 20)
  subprocess.run(['mount', '-o', 'remount,ro', str(folder)], check=True)
  for workdir in (folder, folder / 'run'):
    assert run(*words(text, f'--workdir={workdir}')) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert f'--workdir={workdir}' in err


def largest(folder: Path, pattern: str) -> int:
  """Returns the size of the largest file that matches."""
  return max(p.stat().st_size for p in folder.glob(pattern) if p.is_file())


@pytest.mark.slow
@pytest.mark.parametrize(
  'what', [pytest.param('JSON', marks=pytest.mark.slow), 'arrays', 'report']
)
def test_writes_that_fail_end_the_run_and_lose_nothing(
  what: str, text: Path, whole: Path, expected: Outcome, tmp_path: Path
) -> None:
  """No file may grow to its full size, as on a disk with quotas."""
  patterns = {
    'JSON': 'runs/*/checkpoints/*/extra/*',
    'arrays': 'runs/*/checkpoints/*/state/**/*',
    'report': 'report.html',
  }
  workdir = tmp_path / 'run'
  if what == 'report':  # smaller than arrays, so they must be there
    shutil.copytree(whole, workdir)
  argv = words(text, '--seeds=2', f'--workdir={workdir}')
  # Sizes differ by some bytes from run to run.
  child = start(argv, largest(whole, patterns[what]) * 3 // 4)
  more = says_to_make_room(end(child), workdir)
  done = {r['trial']: r['status'] for r in read_lines(workdir / 'trials.jsonl')}
  assert set(done.values()) <= {'ok'}
  assert len(done) == 4 if what == 'report' else len(done) < 4
  assert run(*argv) == 0
  assert_same(workdir, expected)
  assert not more


# Torn lines. ------------------------------------------------------------------


@pytest.mark.slow
def test_a_torn_record_is_mended_and_its_trial_taken_up_again(
  text: Path, whole: Path, expected: Outcome, tmp_path: Path
) -> None:
  workdir = tmp_path / 'run'
  shutil.copytree(whole, workdir)
  path = workdir / 'trials.jsonl'
  lines = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(b''.join(lines[:-1]) + lines[-1][:-20])
  assert run(*words(text, '--seeds=2', f'--workdir={workdir}')) == 0
  assert path.read_bytes().startswith(b''.join(lines[:-1]))
  assert_same(workdir, expected)


def test_a_torn_figure_is_mended(
  text: Path, halves: Halves, tmp_path: Path
) -> None:
  mine = trial(text, tmp_path / 'one')
  shutil.copytree(halves.stopped, mine.directory)
  path = mine.directory / 'metrics.jsonl'
  append_lines(path, [{'step': 33, 'loss': 9.0}])
  path.write_bytes(path.read_bytes() + b'{"step": 36, "lo')
  result, warnings = train(mine)
  assert result is not None
  assert not warnings
  assert result._replace(clock={}) == halves.result._replace(clock={})
  assert path.read_text().endswith('\n')
  assert read_lines(path) == halves.figures
  assert len(path.read_text().splitlines()) == len(halves.figures)


# Trials that fail or diverge. -------------------------------------------------


@pytest.mark.slow
def test_a_trial_that_raises_is_recorded_and_run_again(
  text: Path,
  expected: Outcome,
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  real, ran = loop.run, list[str]()

  def checked(trials: Iterator[Trial]) -> Iterator[Trial]:
    for mine in trials:
      architecture = mine.config.architecture
      if architecture.position.tag == 'none' and mine.config.seed == 1:
        raise RuntimeError('out of luck\nand a second line')
      yield mine

  def breaks(trials: Iterator[Trial], *rest: Any) -> None:
    real(checked(trials), *rest)

  def counts(trials: Iterator[Trial], *rest: Any) -> None:
    real((ran.append(mine.id) or mine for mine in trials), *rest)

  monkeypatch.setattr(loop, 'run', breaks)
  workdir = tmp_path / 'run'
  argv = words(text, '--seeds=2', f'--workdir={workdir}')
  assert run(*argv) == 1
  records = read_lines(workdir / 'trials.jsonl')
  assert [r['status'] for r in records] == ['ok', 'ok', 'ok', 'failed']
  assert 'out of luck' in records[-1]['error']
  assert (records[-1]['row'], records[-1]['seed']) == (ROW, 1)
  out, err = capsys.readouterr()
  assert 'out of luck' in out
  assert 'Traceback' not in out + err
  for name in ('table.md', 'table.tex', 'table.json', 'report.html'):
    assert 'out of luck' in (workdir / name).read_text()

  ran.clear()
  monkeypatch.setattr(loop, 'run', counts)
  assert run(*argv) == 0
  assert ran == [records[-1]['trial']]
  again = read_lines(workdir / 'trials.jsonl')
  assert again[:4] == records
  assert len(again) == 5
  (workdir / 'trials.jsonl').write_text(
    ''.join(json.dumps(r) + '\n' for r in again if r['status'] == 'ok')
  )
  assert_same(workdir, expected)


@pytest.mark.slow
def test_a_trial_that_diverges_is_a_result(
  text: Path,
  expected: Outcome,
  tmp_path: Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  workdir = tmp_path / 'run'
  row = 'learning_rate=1e30 clip=none'
  argv = words(text, f'--ablate={row}', '--seeds=2', f'--workdir={workdir}')
  assert run(*argv) == 0
  records = read_lines(workdir / 'trials.jsonl')
  bad = [r for r in records if r['row'] == row]
  assert [r['status'] for r in bad] == ['diverged', 'diverged']
  out = capsys.readouterr().out
  for record in bad:
    step = record['metrics']['diverged_at']
    assert 0 <= step < 40
    assert record['steps'] == step
    assert f'diverged at step {step}' in out
    figures = read_lines(workdir / f'runs/{record["trial"]}/metrics.jsonl')
    assert figures[-1]['step'] == step + 1
    for name in ('table.md', 'report.html'):
      assert (
        f'seed {record["seed"]} at step {step}' in (workdir / name).read_text()
      )
  others = {r['trial']: r for r in records if r['row'] != row}
  assert others.keys() == expected.trials.keys()
  for name, record in others.items():
    assert record == expected.trials[name] | _clock(record)
  assert run(*argv) == 0
  assert read_lines(workdir / 'trials.jsonl') == records


@pytest.mark.slow
def test_a_divergence_is_the_same_after_a_kill(
  text: Path, tmp_path: Path
) -> None:
  argv = words(text, '--ablate=learning_rate=1e30 clip=none', '--seeds=2')
  plain, killed = tmp_path / 'plain', tmp_path / 'killed'
  assert run(*argv, f'--workdir={plain}') == 0
  moments = ['a chunk', 'a save', 'a record', 'a save', 'a chunk']
  assert survive([*argv, f'--workdir={killed}'], killed, moments, 3) >= 4
  assert_same(killed, outcome(plain))


# The same command again, and more of it. --------------------------------------


def test_the_same_command_again_trains_nothing(
  text: Path, whole: Path, expected: Outcome, tmp_path: Path
) -> None:
  workdir = tmp_path / 'run'
  shutil.copytree(whole, workdir)
  before = sizes(workdir, 'runs/**/*')
  record = (workdir / 'trials.jsonl').read_bytes()
  assert run(*words(text, '--seeds=2', f'--workdir={workdir}')) == 0
  assert (workdir / 'trials.jsonl').read_bytes() == record
  assert sizes(workdir, 'runs/**/*') == before
  assert_same(workdir, expected)


@pytest.mark.slow
def test_more_seeds_and_rows_keep_what_was_there(
  text: Path, whole: Path, tmp_path: Path
) -> None:
  workdir = tmp_path / 'run'
  shutil.copytree(whole, workdir)
  path = workdir / 'trials.jsonl'
  before = path.read_bytes()
  argv = words(text, f'--workdir={workdir}', '--seeds=3')
  assert run(*argv) == 0
  more = path.read_bytes()
  assert more.startswith(before)
  new = read_lines(path)[4:]
  assert [(r['row'], r['seed']) for r in new] == [('base', 2), (ROW, 2)]

  assert run(*argv, '--ablate=learning_rate=2e-3') == 0
  assert path.read_bytes().startswith(more)
  new = read_lines(path)[6:]
  assert [(r['row'], r['seed']) for r in new] == [
    ('learning_rate=2e-3', seed) for seed in range(3)
  ]
  table = json.loads((workdir / 'table.json').read_text())
  rows = {row['row']: row['seeds'] for row in table['rows']}
  assert rows == {'base': 3, ROW: 3, 'learning_rate=2e-3': 3}
