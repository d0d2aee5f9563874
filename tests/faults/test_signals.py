"""Signals: a run saves, and says how to go on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from helpers.commands import run
from helpers.processes import (
  TIMEOUT,
  Outcome,
  assert_same,
  end,
  resume_line,
  running,
  sizes,
  words,
)
from train.files.durable import read_intact_lines

pytestmark = pytest.mark.usefixtures('quick_compilation')


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
  assert len(read_intact_lines(workdir / 'trials.jsonl')) < 4

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
