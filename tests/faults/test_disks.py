"""Disks that are full or read-only: nothing is lost."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from helpers.commands import run
from helpers.processes import (
  Outcome,
  Unavailable,
  assert_same,
  clock_of,
  end,
  mount,
  start,
  words,
)
from train.files.durable import read_intact_lines

pytestmark = pytest.mark.usefixtures('quick_compilation')


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
  done = read_intact_lines(workdir / 'trials.jsonl')
  assert len(done) >= (1 if share > 0.5 else 0)
  assert all(r == expected.trials[r['trial']] | clock_of(r) for r in done)

  disk(8 * room)
  code, out, err = end(start(argv))
  assert code == 0, (out, err)
  assert_same(workdir, expected)
  assert not more


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
  done = {
    r['trial']: r['status'] for r in read_intact_lines(workdir / 'trials.jsonl')
  }
  assert set(done.values()) <= {'ok'}
  assert len(done) == 4 if what == 'report' else len(done) < 4
  assert run(*argv) == 0
  assert_same(workdir, expected)
  assert not more
