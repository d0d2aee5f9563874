"""Figures beside metrics.jsonl: the same ones, also after an interruption."""

import csv
import importlib.util
import json
import os
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import pytest

from helpers import alone
from helpers.source import ROOT
from model.core.field import FieldError
from train.config.config import Config
from train.devices.parallel import SharedLayout
from train.files import sinks
from train.files.durable import read_intact_lines
from train.files.log import LogLine, MetricsLog
from train.flags.schema import override
from train.trial import Interrupted, Options, Result, Trial

pytestmark = pytest.mark.usefixtures('quick_compilation')

TINY = {
  'num_layers': '1',
  'd_model': '16',
  'num_heads': '2',
  'seq_len': '16',
  'batch_size': '2',
  'steps': '24',
  'eval_every': '6',
  'warmup_steps': '4',
}
TIMEOUT = 120  # seconds that one process may take, on a busy machine


@pytest.fixture(scope='module')
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A short text."""
  path = tmp_path_factory.mktemp('text') / 'text.txt'
  path.write_text('the cat sat on the mat and the dog saw the cat. ' * 40)
  return path


def trial(text: Path, directory: Path) -> Trial:
  """Returns a trial of a few steps."""
  config: Config = override(Config(), {**TINY, 'task.path': str(text)})
  return Trial('one', config, directory, config.task.load())


def train(
  mine: Trial,
  to: sinks.AnySink,
  until: int | None = None,
  listener: alone.Listener | None = None,
) -> Result | None:
  """Trains to the end, or to a step; returns the result, if there is one."""
  options = Options(checkpoint_seconds=1e9, log_every=2, log_to=(to,))
  devices = SharedLayout((jax.local_devices()[0],))
  try:
    return alone.run(mine, options, devices, listener or alone.Listener(until))
  except Interrupted:
    return None


def rows(path: Path) -> list[dict[str, float]]:
  """Returns the lines of a CSV file, without its empty cells."""
  with path.open(newline='') as f:
    return [
      {name: float(x) for name, x in row.items() if x}
      for row in csv.DictReader(f)
    ]


def lines(path: Path) -> list[dict[str, float]]:
  """Returns the lines of metrics.jsonl, without what is not finite."""
  return [
    {name: x for name, x in line.items() if x is not None}
    for line in read_intact_lines(path)
  ]


@pytest.mark.slow
def test_csv_is_that_of_a_trial_in_one_go(text: Path, tmp_path: Path) -> None:
  """An interrupted trial goes on from a save, behind what it has logged."""
  whole = trial(text, tmp_path / 'whole')
  assert train(whole, sinks.CsvSink()) is not None
  mine = trial(text, tmp_path / 'mine')
  assert train(mine, sinks.CsvSink(), until=9) is None
  path = mine.directory / 'metrics.csv'
  # As if it had been killed later: after lines that no checkpoint holds.
  path.write_text(path.read_text() + '98,9.0,9.0,9.0,,\n99,9.0,9')
  figures = mine.directory / 'metrics.jsonl'
  figures.write_text(figures.read_text() + '{"step": 98, "loss": 9.0}\n{"st')
  assert train(mine, sinks.CsvSink()) is not None
  assert path.read_bytes() == (whole.directory / 'metrics.csv').read_bytes()
  assert rows(path) == lines(figures)
  assert len(rows(path)) == 12 + 4
  assert {'loss', 'grad_norm', 'val_loss'} < set(
    path.read_text()[:99].split(',')
  )


def test_csv_grows_a_column_and_leaves_cells_empty(tmp_path: Path) -> None:
  made: sinks.SinkContext = sinks.SinkContext('one', tmp_path, {}, print)
  (sink,) = sinks.CsvSink().open(made)
  log = MetricsLog(tmp_path / 'metrics.jsonl', None, [sink])
  assert (tmp_path / 'metrics.csv').read_text() == ''
  log.write([{'step': 1, 'loss': 0.1}, {'step': 2, 'loss': None}])
  log.write([{'step': 2, 'accuracy': 1 / 3}])
  log.write([{'step': 3, 'loss': 1e-30}])
  log.close()
  assert (tmp_path / 'metrics.csv').read_text() == (
    'step,loss,accuracy\n1,0.1,\n2,,\n2,,0.3333333333333333\n3,1e-30,\n'
  )


@pytest.mark.slow
def test_csv_may_be_asked_for_later(text: Path, tmp_path: Path) -> None:
  """It then begins with what metrics.jsonl holds already."""
  mine = trial(text, tmp_path / 'mine')
  assert train(mine, sinks.NoSink(), until=9) is None
  assert not (mine.directory / 'metrics.csv').exists()
  assert train(mine, sinks.CsvSink()) is not None
  written = rows(mine.directory / 'metrics.csv')
  assert written == lines(mine.directory / 'metrics.jsonl')
  assert written[0]['step'] == 2


def events(folder: Path) -> list[Any]:
  """Returns the events of TensorBoard's files, file by file."""
  from tensorboardX.proto import event_pb2

  found = []
  for path in sorted(folder.iterdir(), key=lambda p: p.stat().st_mtime_ns):
    data, at = path.read_bytes(), 0
    while at < len(data):
      (size,) = struct.unpack_from('<Q', data, at)
      found.append(event_pb2.Event.FromString(data[at + 12 : at + 12 + size]))
      at += 12 + size + 4
  return found


@pytest.mark.slow
@pytest.mark.parametrize('until', [None, 9])
def test_tensorboard_has_each_figure_once(
  until: int | None, text: Path, tmp_path: Path
) -> None:
  mine = trial(text, tmp_path / 'mine')
  if until is not None:
    assert train(mine, sinks.TensorBoard(), until) is None
    # As if it had gone on, and been killed before the next save.
    (sink,) = sinks.TensorBoard().open(
      sinks.SinkContext('one', mine.directory, {}, pytest.fail)
    )
    sink.begin(lines(mine.directory / 'metrics.jsonl'))
    sink.write([{'step': 20, 'loss': 9.0}])
    sink.close()
  assert train(mine, sinks.TensorBoard()) is not None
  shown: dict[tuple[int, str], float] = {}
  for event in events(mine.directory / 'tensorboard'):
    if event.HasField('session_log'):  # a viewer forgets what comes after
      shown = {k: v for k, v in shown.items() if k[0] < event.step}
    for value in event.summary.value:
      assert (event.step, value.tag) not in shown
      shown[event.step, value.tag] = value.simple_value
  assert shown == {
    (line['step'], name): pytest.approx(x, rel=1e-6)
    for line in lines(mine.directory / 'metrics.jsonl')
    for name, x in line.items()
    if name != 'step'
  }


class Broken:
  """A sink that raises in one of its methods."""

  def __init__(self, where: str):
    self._where, self.calls = where, list[str]()

  def begin(self, kept: Sequence[LogLine]) -> None:
    self._call('begin')

  def write(self, lines: Sequence[LogLine]) -> None:
    self._call('write')

  def close(self) -> None:
    self._call('close')

  def _call(self, name: str) -> None:
    self.calls.append(name)
    if name == self._where:
      raise ConnectionError('no network\nand a second line')


@pytest.mark.parametrize('where', ['begin', 'write', 'close'])
def test_a_sink_that_fails_never_ends_the_trial(
  where: str, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  expected = train(trial(text, tmp_path / 'plain'), sinks.NoSink())
  broken, listener = Broken(where), alone.Listener()
  monkeypatch.setattr(sinks, '_WandbRun', lambda project, about: broken)
  mine = trial(text, tmp_path / 'mine')
  result = train(mine, sinks.WeightsAndBiases(), listener=listener)
  assert result is not None
  assert expected is not None
  assert result._replace(clock={}) == expected._replace(clock={})
  assert listener.warnings == [
    '--log_to=wandb goes no further: ConnectionError: no network'
  ]
  assert broken.calls.count(where) == 1
  assert broken.calls[-1] == where


@pytest.mark.parametrize(
  ('to', 'package', 'file'),
  [
    (sinks.TensorBoard(), 'tensorboardX', 'requirements.lock'),
    (sinks.WeightsAndBiases(), 'wandb', 'requirements-tracking.txt'),
  ],
  ids=lambda x: str(x)[:20],
)
def test_what_is_not_installed_is_refused_with_a_hint(
  to: sinks.AnySink,
  package: str,
  file: str,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.setitem(sys.modules, package, None)
  hint = f'--log_to={to.tag}: needs {package}: pip install -r {file}'
  with pytest.raises(FieldError, match=hint):
    to.check()
  assert (ROOT / file).exists()


WANDB = pytest.mark.skipif(
  importlib.util.find_spec('wandb') is None,
  reason='wandb is not installed: pip install -r requirements-tracking.txt',
)


def launch(
  text: Path, folder: Path, mode: dict[str, str]
) -> subprocess.CompletedProcess[str]:
  """Returns what a run of two trials side by side with --log_to=wandb did."""
  sizes = [f'--{name}={value}' for name, value in TINY.items()]
  environment = {k: v for k, v in os.environ.items() if 'WANDB' not in k}
  return subprocess.run(
    [
      sys.executable,
      str(ROOT / 'launch.py'),
      *sizes,
      f'--task.path={text}',
      '--seeds=2',
      '--only=base',
      '--log_to=wandb',
      '--log_to.project=cats',
      f'--workdir={folder / "run"}',
    ],
    # At home there may be an account.
    env=environment | {'HOME': str(folder)} | mode,
    capture_output=True,
    text=True,
    timeout=TIMEOUT,
    check=False,
  )


@pytest.mark.slow
@WANDB
def test_wandb_without_network_and_account(text: Path, tmp_path: Path) -> None:
  done = launch(text, tmp_path, {'WANDB_MODE': 'offline'})
  assert (done.returncode, done.stderr) == (0, ''), done
  records = read_intact_lines(tmp_path / 'run/trials.jsonl')
  assert len(records) == 2
  for record in records:
    folder = tmp_path / 'run/runs' / record['trial']
    (path,) = folder.glob('wandb/offline-run-*/run-*.wandb')
    saved = path.read_bytes()
    assert path.stem == f'run-{(folder / "wandb/id").read_text()}'
    assert b'cats' in saved
    for line in lines(folder / 'metrics.jsonl'):
      for name, value in line.items():
        assert name.encode() in saved
        # As JSON, whose numbers W&B may write in a shorter form.
        short = {json.dumps(value), f'{value:g}', str(float(value))}
        assert any(s.encode() in saved for s in short), (name, value)


@pytest.mark.slow
@WANDB
def test_wandb_without_an_account_is_refused(
  text: Path, tmp_path: Path
) -> None:
  done = launch(text, tmp_path, {})
  assert done.returncode == 2
  assert len(done.stderr.splitlines()) == 1
  assert 'run wandb login, or set WANDB_MODE=offline' in done.stderr
  assert not (tmp_path / 'run').exists()
