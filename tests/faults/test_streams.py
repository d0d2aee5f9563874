"""Streams that break, flag files that are none, advice that is true."""

import contextlib
import errno
import gzip
import io
import os
import pathlib
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import TextIO

import pytest

from experiments.messages import advice
from experiments.messages.errors import CommandError
from experiments.messages.signals import stop_signals
from experiments.messages.streams import lasting_streams, say
from experiments.planning import memory
from experiments.record import ledger
from experiments.record.flagfile import expand_flag_files, flag_file_text
from experiments.run import engine, pool
from experiments.run.pool import LAUNCH
from experiments.run.stop import StopSignal
from helpers.commands import run
from helpers.processes import start, words, write_text
from helpers.source import ROOT
from train.core.errors import DataError
from train.data import textfile
from train.data.textfile import read_file
from train.tasks.texts.text import Text


@contextlib.contextmanager
def broken(name: str, encoding: str = 'utf-8') -> Iterator[TextIO]:
  """Yields a stream to a pipe whose reader has ended, or to a full disk."""
  if name == 'full':
    descriptor = os.open('/dev/full', os.O_WRONLY)
  else:
    reading, descriptor = os.pipe()
    os.close(reading)
  stream = os.fdopen(descriptor, 'w', encoding=encoding)
  yield stream
  stream.close()  # Nothing is left in it that would fail now.


@pytest.mark.parametrize('name', ['pipe', 'full'])
@pytest.mark.parametrize('flag', ['--list', '--help'])
def test_a_listing_that_nobody_reads(
  flag: str,
  name: str,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  with broken(name) as stream:
    monkeypatch.setattr(sys, 'stdout', stream)
    code = run(flag)
    assert sys.stdout is stream
  err = capsys.readouterr().err
  if name == 'pipe':
    assert (code, err) == (0, '')
  else:
    assert code == 1
    assert len(err.splitlines()) == 1
    assert 'stdout cannot be written (No space left on device)' in err


@pytest.mark.parametrize('name', ['pipe', 'full'])
def test_an_error_that_nobody_reads_keeps_its_exit_code(
  name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
  with broken(name) as stream:
    monkeypatch.setattr(sys, 'stderr', stream)
    assert run('--positon=rope') == 2


@pytest.mark.parametrize('encoding', ['ascii', 'latin-1', 'utf-8'])
def test_what_a_stream_cannot_encode_is_readable(
  encoding: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  path = tmp_path / 'out'
  with path.open('w', encoding=encoding) as stream, monkeypatch.context() as m:
    m.setattr(sys, 'stdout', stream)
    with lasting_streams():
      say('2.5 ± 0.1 – é 日')
  want = {
    'ascii': r'2.5 +/- 0.1 - \xe9 \u65e5',
    'latin-1': r'2.5 ± 0.1 - é \u65e5',
    'utf-8': '2.5 ± 0.1 – é 日',
  }
  assert path.read_text(encoding=encoding) == want[encoding] + '\n'


def test_a_slow_reader_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
  """Of a pipe that does not block, as some terminals hand over."""
  reading, writing = os.pipe()
  os.set_blocking(writing, False)
  code = f'import time; time.sleep(.3); print(len(open({reading}).read()))'
  with subprocess.Popen(
    [sys.executable, '-c', code], stdout=subprocess.PIPE, pass_fds=[reading]
  ) as reader:
    os.close(reading)
    with os.fdopen(writing, 'w') as stream, monkeypatch.context() as m:
      m.setattr(sys, 'stdout', stream)
      with lasting_streams():
        say('x' * 300_000)
    out, _ = reader.communicate(timeout=60)
  assert int(out) == 300_001


def test_streams_in_memory_stay(monkeypatch: pytest.MonkeyPatch) -> None:
  stream = io.StringIO()
  monkeypatch.setattr(sys, 'stdout', stream)
  with lasting_streams() as output:
    say('a')
    assert output.exit_code() == 0
  assert stream.getvalue() == 'a\n'


CLOSED = """
import os, sys
for number in (0, 1, 2):
  os.close(number)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.slow
@pytest.mark.usefixtures('quick_compilation')
@pytest.mark.parametrize('name', ['pipe', 'full'])
def test_a_run_goes_on_without_its_terminal(
  name: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  workdir = tmp_path / 'run'
  small = ('--experiment=train', '--num_layers=1', '--steps=2', '--seeds=1')
  argv = words(write_text(tmp_path), *small, f'--workdir={workdir}')
  with broken(name) as out, broken(name) as err, monkeypatch.context() as m:
    m.setattr(sys, 'stdout', out)
    m.setattr(sys, 'stderr', err)
    code = run(*argv, '--eval_every=2', '--warmup_steps=1')
  assert code == 0
  assert (workdir / 'report.html').exists()
  assert len((workdir / 'trials.jsonl').read_text().splitlines()) == 2


@pytest.mark.slow
@pytest.mark.parametrize('how', ['pipe', 'closed'])
def test_a_process_goes_on_without_its_terminal(
  how: str, tmp_path: pathlib.Path
) -> None:
  workdir = tmp_path / 'run'
  argv = words(write_text(tmp_path), '--seeds=1', f'--workdir={workdir}')
  if how == 'pipe':
    with start(argv) as process:
      assert process.stdout
      assert process.stderr
      process.stdout.close()
      process.stderr.close()
  else:
    launch = [sys.executable, '-c', CLOSED, str(LAUNCH), *argv, '--workers=2']
    process = subprocess.Popen(launch)
  assert process.wait(timeout=600) == 0
  assert (workdir / 'report.html').exists()
  assert len((workdir / 'trials.jsonl').read_text().splitlines()) == 2


# Signals. ---------------------------------------------------------------------


def test_a_hangup_stops_and_a_second_does_not_kill(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  # These tests may themselves run under nohup.
  before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
  stop = StopSignal()
  try:
    for _ in range(2):
      os.kill(os.getpid(), signal.SIGHUP)
    assert stop.requested()
    assert stop.signal == signal.SIGHUP
  finally:
    stop.restore()
  signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
  try:
    assert signal.SIGHUP not in stop_signals()
    stop = StopSignal()
    os.kill(os.getpid(), signal.SIGHUP)
    assert not stop.requested()
    stop.restore()
  finally:
    signal.signal(signal.SIGHUP, before)


# Has Ctrl-C pressed where a module is looked for, then becomes the program.
_PRESSED = """
import atexit, os, runpy, signal, sys
_, where, *sys.argv = sys.argv
# A job in the background of a shell inherits that it is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
class Pressed:
  def find_spec(self, name, path=None, target=None):
    if name == where:
      signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Pressed())
if where == 'end':
  atexit.register(signal.raise_signal, signal.SIGINT)
sys.path.insert(0, os.path.dirname(sys.argv[0]))
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.mark.parametrize(
  ('module', 'words', 'code', 'said'),
  [
    ('experiments.cli.main', ['--version'], -signal.SIGINT, ''),
    (
      'experiments.questions.ladder',
      ['--list'],
      130,
      'launch.py: interrupted; nothing was trained\n',
    ),
    ('end', ['--version'], -signal.SIGINT, ''),
  ],
)
def test_an_interrupt_prints_no_traceback(
  module: str, words: list[str], code: int, said: str
) -> None:
  done = subprocess.run(
    [sys.executable, '-c', _PRESSED, module, str(ROOT / 'launch.py'), *words],
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stderr) == (code, said)


# Files that are none. ---------------------------------------------------------


def make(kind: str, path: pathlib.Path) -> pathlib.Path:
  """Returns the path of something that is no file of text."""
  match kind:
    case 'pipe':
      os.mkfifo(path)
    case 'device':
      return pathlib.Path('/dev/zero')
    case 'folder':
      path.mkdir()
    case 'socket':
      with socket.socket(socket.AF_UNIX) as own:
        own.bind(str(path))
    case 'binary':
      path.write_bytes(b'--smoke\n\0')
    case 'no UTF-8':
      path.write_bytes(b'--smoke\n\xff')
    case 'long':
      return path.with_name('x' * 5000)
    case 'itself':
      path.write_text(f'--flagfile={path}\n')
    case 'large':
      path.write_text('# \n' * 2**20)
  return path


KINDS = ('pipe', 'device', 'folder', 'socket', 'binary', 'no UTF-8', 'long')


@pytest.mark.parametrize('kind', [*KINDS, 'absent', 'itself', 'large'])
def test_a_flag_file_that_is_none(
  kind: str,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.chdir(tmp_path)
  assert run(f'--flagfile={make(kind, pathlib.Path("f"))}') == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert '--flagfile=' in line
  assert len(line) < 1000


def test_flag_files_are_read_as_absl_reads_them(tmp_path: pathlib.Path) -> None:
  inner, outer = tmp_path / 'inner', tmp_path / 'outer'
  inner.write_text('--b=2\r\n')
  outer.write_text(f'# no\n// no\n\n--a=1 x\n-flagfile={inner}\n--c\n')
  want = ['l', '--a=1 x', '--b=2', '--c', '--d']
  assert expand_flag_files(['l', f'--flagfile={outer}', '--d']) == want
  assert expand_flag_files(['l', '--flagfile', str(outer), '--d']) == want
  assert expand_flag_files(['l', '--', '--flagfile=x']) == [
    'l',
    '--',
    '--flagfile=x',
  ]


def test_flags_that_are_not_those_that_were_written_are_said(
  tmp_path: pathlib.Path,
) -> None:
  """No bit, no line and no end of the file can change in silence."""
  path, said = tmp_path / 'flags.txt', list[str]()
  lines = ['--steps=6', '--task.path= a b ', '--ablate=norm=rmsnorm']
  text = flag_file_text(lines)
  path.write_text(text)
  words = ['l', f'--flagfile={path}']
  truth = expand_flag_files(words, said.append)
  assert not said
  path.write_text(f'# mine\n\n{text.replace(lines[1], lines[1] + " ")}')
  assert expand_flag_files(words, said.append) == truth  # a comment is no flag
  assert not said
  data = text.encode()
  damaged = [data[:size] for size in range(len(data))]
  for bit in range(len(data) * 8):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    damaged.append(bytes(changed))
  for changed in damaged:
    path.write_bytes(changed)
    said.clear()
    try:
      found = expand_flag_files(words, said.append)
    except CommandError:
      continue
    # Of a comment that is none any more absl says that it is no flag.
    assert said or found == truth or not found[1].startswith('-')


def test_a_replay_on_other_data_says_so(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """A path is relative, and a file may have changed since."""
  text, path = tmp_path / 'a.txt', tmp_path / 'flags.txt'
  ours = ['--experiment=train', f'--task.path={text}']
  data = Text(path=str(text))
  text.write_text('to be or not to be\n' * 90)
  path.write_text(flag_file_text(ours, data.load().digest))
  words = '--plan', f'--workdir={tmp_path / "run"}'
  for given in ([f'--flagfile={path}'], ['--flagfile', str(path)]):
    assert run(*given, *words) == 0
    assert 'other data' not in capsys.readouterr().err
  text.write_text('that is the question\n' * 90)
  for given in ([f'--flagfile={path}'], ['--flagfile', str(path)]):
    assert run(*given, *words) == 0
    assert f'{path}: was run on other data than' in capsys.readouterr().err
  # Who names other data knows.
  assert run(f'--flagfile={path}', f'--task.path={text}', *words) == 0
  assert 'other data' not in capsys.readouterr().err


def test_a_flag_file_that_was_edited_runs_and_says_so(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  path = tmp_path / 'flags.txt'
  ours = '--experiment=train', '--task=most_frequent', '--model=classifier'
  path.write_text(flag_file_text([*ours, '--steps=6']).replace('=6', '=7'))
  words = f'--flagfile={path}', '--plan', f'--workdir={tmp_path / "run"}'
  assert run(*words) == 0
  lines = capsys.readouterr().err.splitlines()
  assert (
    sum('flags.txt: its flags are not those' in line for line in lines) == 1
  )
  assert run(*words, '--steps=x') == 2  # a refusal is one line
  (line,) = capsys.readouterr().err.splitlines()
  assert '--steps=x' in line
  path.write_text('# none\n')
  assert run(*words, *ours) == 0
  assert 'flags.txt: holds no flags' in capsys.readouterr().err


@pytest.mark.parametrize('kind', [*KINDS, 'absent'])
def test_a_table_that_is_none(
  kind: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.chdir(tmp_path)
  with pytest.raises(DataError, match=r'give|write it|convert'):
    read_file(make(kind, pathlib.Path('f')))


def test_a_packed_table_that_is_a_bomb(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(textfile, 'ROOM', 2**20)
  path = tmp_path / 'a.gz'
  path.write_bytes(gzip.compress(b'a' * 2**23))
  with pytest.raises(DataError, match='unpacks to more than 100 times'):
    read_file(path)
  path.write_bytes(gzip.compress(b'a' * 2**19))
  assert len(read_file(path)) == 2**19


NAMES = (
  '--workdir={}',
  '--merge={}',
  '--task.path={}',
  '--init_from={}:base',
  '--generate={}:base',
  '--evaluate={}:base',
  '--only={}',
  '--experiment={}',
  '--ablate=position={}',
)


@pytest.mark.parametrize('flag', NAMES)
def test_a_name_of_5000_letters(
  flag: str,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.chdir(tmp_path)
  if 'merge' not in flag:  # which is refused there
    monkeypatch.setattr(engine, 'run_plan', lambda *_: 0)
  assert run('--experiment=train', flag.format('x' * 5000)) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert len(line) < 2000
  assert not list(tmp_path.iterdir())


# Advice. ----------------------------------------------------------------------


@pytest.mark.parametrize(
  ('code', 'says', 'never'),
  [
    (errno.ENOSPC, 'make room', 'local'),
    (errno.EDQUOT, 'make room', 'local'),
    (errno.EROFS, 'read-only', 'make room'),
    (errno.EACCES, 'chmod', 'make room'),
    (errno.EIO, 'another', 'make room'),
    (errno.EMFILE, 'ulimit -n', 'make room'),
    (errno.ENOTSUP, os.strerror(errno.ENOTSUP), 'make room'),
  ],
)
def test_advice_is_of_what_happened(
  code: int, says: str, never: str, tmp_path: pathlib.Path
) -> None:
  (tmp_path / '.lock').touch()
  error = OSError(code, os.strerror(code))
  text = ' '.join(advice.disk_advice(tmp_path, error))
  assert says in text
  assert never not in text
  (tmp_path / '.lock').unlink()
  text = ' '.join(advice.disk_advice(tmp_path, error))
  assert 'was removed' in text
  assert 'make room' not in text


def test_a_file_system_without_locks_is_refused(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  def refuse(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

  monkeypatch.setattr(ledger.fcntl, 'flock', refuse)
  with (
    pytest.raises(CommandError, match=r'has no locks.*local disk'),
    ledger.lock_workdir(tmp_path),
  ):
    pass
  (tmp_path / '.lock').touch()
  with ledger.lock_for_reading(tmp_path):
    pass


def test_too_little_memory_is_said() -> None:
  error = RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes')
  for own in (error, MemoryError(), RuntimeError("can't start new thread")):
    text = advice.memory_advice(own)
    assert text
    for flag in ('--batch_size', '--microbatches', '--backend=chunked'):
      assert flag in text
  assert advice.memory_advice(RuntimeError('out of luck')) is None


@pytest.mark.parametrize(
  ('code', 'silent', 'likely'),
  [
    (-9, False, True),
    (-6, False, True),
    (-15, False, False),
    (-9, True, False),
  ],
)
def test_the_end_of_a_worker_tells_of_memory(
  code: int, silent: bool, likely: bool
) -> None:
  class Ended(subprocess.Popen[bytes]):
    def __init__(self) -> None:
      self.pid, self.returncode, self._child_created = 1, code, False

  left, right = pool.multiprocessing.Pipe()
  left.close()
  member = pool._Member(0, Ended(), right, silent=silent)
  assert ('--batch_size' in member.likely()) == likely
  right.close()


def test_what_cannot_fit_is_refused(
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
  tmp_path: pathlib.Path,
) -> None:
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(engine, 'run_plan', lambda *_: 0)
  room = memory.MemoryLimit(10 * 2**30, 2**20, 'RAM')
  monkeypatch.setattr(memory, 'rooms', lambda workers: [room])
  argv = ('--experiment=train', '--task.corpus=pydoc', '--seeds=1')
  assert run(*argv) == 0
  (line,) = capsys.readouterr().err.splitlines()
  assert 'needs about' in line
  assert 'there are 0.0 GiB (RAM)' in line
  small = room._replace(total=2**20)
  monkeypatch.setattr(memory, 'rooms', lambda workers: [small])
  assert run(*argv) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert 'and moments alone' in line
  assert not list(tmp_path.iterdir())
