"""Measurements: at the start, on the way, at checkpoints, without training."""

import dataclasses
import functools
import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.claims.metrics import Measurements, TrialMetrics
from experiments.claims.rule import Claim
from experiments.questions.rank_collapse import RATIO, Doubling
from helpers import alone, commands
from model.core.field import FieldError
from spec import reference
from train import loop
from train.config.config import Config
from train.core.metric import Metric
from train.core.trees import flatten
from train.devices.parallel import parse_layout
from train.files.durable import digest, read_intact_lines
from train.flags.schema import override
from train.inference.load import checkpoint_steps, load
from train.measurements.base import Measurement, MeasurementValues, Subject
from train.probe import Probe
from train.programs.signature import signature
from train.programs.state import init_state
from train.starts.base import Start, StartInput, Values
from train.tasks.base import Data
from train.tasks.generated.most_frequent import MostFrequent
from train.trial import Interrupted, Options, Result, Trial

TINY = {
  'task': 'most_frequent',
  'model': 'classifier',
  'd_model': '8',
  'num_heads': '2',
  'num_layers': '2',
  'seq_len': '6',
  'batch_size': '4',
  'eval_examples': '8',
  'eval_every': '2',
  'steps': '4',
  'warmup_steps': '0',
  # XLA optimises layers one after another otherwise for several devices.
  'scan_layers': 'true',
}
MEASURED = {'measure': 'rank_residual', 'measure_examples': '3'}
NAMES = {RATIO, *(f'{RATIO}@{n}' for n in range(3))}
FLAGS = (
  '--experiment=train',
  *(f'--{k}={v}' for k, v in (TINY | MEASURED).items()),
)


@functools.cache
def data() -> Data:
  return MostFrequent().load()


def config(changes: Mapping[str, str]) -> Config:
  return override(Config(), TINY | dict(changes))


def initial(made: Config) -> Any:
  """Returns the parameters that a trial starts from, on the host."""
  params = init_state(made, made.sizes(data().vocabulary)).params
  return jax.tree.map(np.asarray, params)


def trial(folder: pathlib.Path, changes: Mapping[str, str]) -> Trial:
  name = '-'.join(changes.values()).replace('.', '_') or 'plain'
  made = config(changes)
  return Trial(name, made, folder / 'runs' / name, data())


def run(
  mine: list[Trial],
  lanes: str = 'shared:1',
  listener: alone.Listener | None = None,
) -> dict[str, Result]:
  """Trains trials side by side; returns their results without the clock."""
  listener = listener or alone.Listener()
  layout = parse_layout(lanes, jax.local_devices(backend='cpu'))
  how = Options(log_every=1, keep_every=2, keep_checkpoints=1)
  loop.run(iter(mine), how, layout, listener)
  return {
    name: result._replace(clock={}) for name, result in listener.results.items()
  }


def lines(mine: Trial) -> list[dict[str, Any]]:
  return read_intact_lines(mine.directory / 'metrics.jsonl')


# At the start, and on the way. ------------------------------------------------

RUNS = (
  {'steps': '0', 'measure': 'rank_residual'},
  {'steps': '4', 'measure': 'rank_residual'},
  {'seed': '1', 'start': 'equal_heads', 'measure': 'rank_residual'},
)


@pytest.fixture(scope='module')
def solo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Result]:
  folder = tmp_path_factory.mktemp('solo')
  found = {}
  for changes in RUNS:
    found |= run([trial(folder, changes)])
  return found


def test_no_steps_end_where_they_start(tmp_path: pathlib.Path) -> None:
  mine = trial(tmp_path, RUNS[0])
  (result,) = run([mine]).values()
  assert (result.status, result.steps, result.tokens) == ('ok', 0, 0)
  assert result.digest == digest(initial(mine.config))
  assert result.metrics.keys() >= NAMES
  assert result.metrics['best_step'] == 0
  assert result.metrics['val_loss'] == result.metrics['best_val_loss']
  (line,) = logged = lines(mine)
  assert line['step'] == 0
  assert {name: line[name] for name in NAMES} == {
    name: result.metrics[name] for name in NAMES
  }
  # Once more, from its checkpoint: nothing is measured again.
  assert list(run([mine]).values()) == [result]
  assert lines(mine) == logged


def test_what_was_logged_before_a_crash_is_logged_once(
  tmp_path: pathlib.Path,
) -> None:
  mine = trial(tmp_path, RUNS[0])
  run([mine])
  logged = lines(mine)
  shutil.rmtree(mine.directory / 'checkpoints')
  (mine.directory / 'end.json').unlink()
  run([mine])
  assert lines(mine) == logged


def test_the_start_of_a_run_is_that_of_no_steps(
  solo: dict[str, Result], tmp_path: pathlib.Path
) -> None:
  mine = trial(tmp_path, RUNS[1])
  assert run([mine])[mine.id] == solo[mine.id]
  first, *others = lines(mine)
  still = solo[trial(tmp_path, RUNS[0]).id].metrics
  assert first['step'] == 0
  assert first.keys() == {'step', *NAMES}
  assert {name: first[name] for name in NAMES} == {n: still[n] for n in NAMES}
  measured = [line for line in others if RATIO in line]
  assert [line['step'] for line in measured] == [2, 4]
  assert solo[mine.id].metrics[RATIO] == measured[-1][RATIO] != first[RATIO]


def test_measuring_changes_nothing_else(
  solo: dict[str, Result], tmp_path: pathlib.Path
) -> None:
  plain, measured = trial(tmp_path, {}), trial(tmp_path, RUNS[1])
  layout = parse_layout('shared:1', jax.local_devices(backend='cpu'))
  programs = [signature(t.config, t.data, layout)[0] for t in (plain, measured)]
  assert programs[0] == programs[1]
  result, other = run([plain])[plain.id], solo[measured.id]
  assert result.digest == other.digest
  assert result.metrics == {
    name: x for name, x in other.metrics.items() if name not in NAMES
  }


@pytest.mark.slow
@pytest.mark.parametrize('lanes', ['devices:2', 'map:2'])
def test_lanes_are_the_trials_alone(
  lanes: str, solo: dict[str, Result], tmp_path: pathlib.Path
) -> None:
  """Among them one that trains nothing, and one that starts by hand."""
  assert run([trial(tmp_path, changes) for changes in RUNS], lanes) == solo


class Stopping(alone.Listener):
  """Asks to stop when it is asked for the n-th time."""

  def __init__(self, calls: int):
    super().__init__()
    self.calls = calls

  def stop_requested(self) -> bool:
    self.calls -= 1
    return not self.calls


def test_an_interruption_changes_nothing(
  solo: dict[str, Result], tmp_path: pathlib.Path
) -> None:
  """At the start, and later, of a trial that starts by hand."""
  mine = trial(tmp_path, RUNS[2])
  for calls in (1, 2):
    with pytest.raises(Interrupted):
      run([mine], listener=Stopping(calls))
  assert run([mine]) == {mine.id: solo[mine.id]}
  steps = [line['step'] for line in lines(mine) if RATIO in line]
  assert steps == [0, 2, 4]


# What is computed. ------------------------------------------------------------


def test_the_ratio_is_in_float64() -> None:
  """Of 4 layers without skip connections, against loops; float32 would stop."""
  made = config(
    {
      'num_layers': '4',
      'residual': 'none',
      'norm': 'none',
      'position': 'none',
      'scale_embeddings': 'true',
      'init': 'xavier',
    }
    | MEASURED
    | {'measure_examples': '1'}
  )
  params = initial(made)
  found = Probe(made, data(), is_host_fed=False).figures(params)
  batch = made.task.evaluation_batch({}, jnp.zeros(1, int), made.seq_len)
  tokens_T = np.asarray(batch.inputs.tokens_BT[0])
  wide = {p: np.asarray(x, np.float64) for p, x in flatten(params).items()}
  streams = reference.streams(
    made.architecture, wide, tokens_T, np.ones(tokens_T.size, int)
  )
  expected = reference.rank_ratios([streams])
  got = [found[f'{RATIO}@{n}'] for n in range(5)]
  assert expected[3] < 1e-9  # beyond what float32 can tell from 0
  np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-15)
  assert not jax.config.read('jax_enable_x64')


@dataclasses.dataclass(frozen=True)
class Slope(Measurement):
  """The derivative of the mean loss along one direction, and the loss."""

  figures: ClassVar[tuple[Metric, ...]] = (Metric('slope', 'x', True),)
  in_float64: ClassVar[bool] = True

  def measure(self, subject: Subject) -> MeasurementValues:
    grads = flatten(subject.gradients())
    slope = sum(
      (x * jnp.cos(jnp.arange(x.size)).reshape(x.shape)).sum()
      for x in grads.values()
    )
    logits_BV = subject.output().logits_BTV[:, 0]
    target_B1 = subject.batch.targets_BT
    log_BV = jax.nn.log_softmax(logits_BV)
    loss = -jnp.take_along_axis(log_BV, target_B1, -1).mean()
    return MeasurementValues({'slope': slope, 'loss': loss}, {})


@pytest.mark.slow
def test_gradients_are_those_of_the_mean_loss() -> None:
  made = dataclasses.replace(config({}), measure=(Slope(),))
  probe, params = Probe(made, data(), is_host_fed=False), initial(made)
  far = 1e-5

  def moved(sign: float) -> float:
    def move(x: np.ndarray) -> np.ndarray:
      way = np.cos(np.arange(x.size)).reshape(x.shape)
      return np.asarray(x, np.float64) + sign * far * way

    loss = probe.figures(jax.tree.map(move, params))['loss']
    assert loss is not None
    return loss

  slope = (moved(1.0) - moved(-1.0)) / (2 * far)
  assert probe.figures(params)['slope'] == pytest.approx(slope, rel=1e-6)


def test_what_is_not_finite_is_none() -> None:
  made = config(MEASURED)
  params = jax.tree.map(lambda x: x * np.nan, initial(made))
  found = Probe(made, data(), is_host_fed=False).figures(params)
  assert found == dict.fromkeys(found)


# Checkpoints. -----------------------------------------------------------------


def test_each_kept_checkpoint_is_evaluated(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  where = f'--workdir={tmp_path}'
  assert not commands.run(*FLAGS, where, '--keep_every=2', '--seeds=1')
  (record,) = commands.trials(tmp_path)
  assert checkpoint_steps(tmp_path, 'base') == [0, 2, 4]
  start = load(tmp_path, 'base', step=0).params
  made = config(MEASURED)
  assert digest(jax.tree.map(np.asarray, start)) == digest(initial(made))
  logged = {
    line['step']: line
    for line in read_intact_lines(
      tmp_path / 'runs' / record['trial'] / 'metrics.jsonl'
    )
    if RATIO in line
  }
  capsys.readouterr()
  named = f'--evaluate={tmp_path}:base'
  measure = ('--measure=rank_residual', '--measure_examples=3')
  assert not commands.run(named, '--at=all', *measure)
  shown = [json.loads(x) for x in capsys.readouterr().out.splitlines()]
  assert [line['step'] for line in shown] == [0, 2, 4]
  for line in shown:
    for name in NAMES:
      assert line[name] == logged[line['step']][name]
  assert not commands.run(
    named, '--at=2', '--measure=none', '--measure_examples=16'
  )
  (line,) = capsys.readouterr().out.splitlines()
  assert json.loads(line)['val_loss'] == logged[2]['val_loss']
  assert RATIO not in json.loads(line)
  assert commands.run(named, '--at=3') == 2
  assert (
    'has no checkpoint of step 3, but of 0, 2, 4' in capsys.readouterr().err
  )


# A table of what is not trained. ----------------------------------------------


@pytest.mark.slow
def test_a_table_of_starts(
  tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  command = (
    *FLAGS,
    '--steps=0',
    '--seeds=3',
    f'--workdir={tmp_path}',
    '--metric=rank_residual',
    '--ablate=residual=none',
  )
  assert not commands.run(*command, '--plan')
  assert '6 trials, 2 programs to compile, 0.00 TFLOP' in ' '.join(
    capsys.readouterr().out.split()
  )
  assert not commands.run(*command)
  table = json.loads((tmp_path / 'table.json').read_text())
  base, other = table['rows']
  assert table['metric'] == RATIO
  assert base['mean'] > 0.5 > other['mean']
  assert other['verdict'] == 'worse'
  assert '@' not in (tmp_path / 'table.md').read_text()
  written = (tmp_path / 'trials.jsonl').read_text()
  assert not commands.run(*command)
  assert (tmp_path / 'trials.jsonl').read_text() == written
  assert 'NaN' not in (tmp_path / 'report.html').read_text()


# By hand. ---------------------------------------------------------------------


def test_heads_that_start_equal_stay_equal(tmp_path: pathlib.Path) -> None:
  """Founding question 3: each gets the gradient of the others."""
  mine = trial(tmp_path, {'start': 'equal_heads', 'init.std': '0.5'})
  run([mine])
  end = load(tmp_path, mine.id).params
  moved = 0.0
  for path, x in flatten(end).items():
    before = flatten(initial(mine.config))[path]
    moved = max(moved, np.abs(np.asarray(x) - before).max())
    axis = {'query': 2, 'key': 2, 'value': 2, 'out': 1}.get(path.split('/')[-1])
    if 'attention/' in path and axis is not None:
      heads = np.split(np.asarray(x), 2, axis)
      np.testing.assert_array_equal(heads[0], heads[1], err_msg=path)
  assert moved > 1e-3


@dataclasses.dataclass(frozen=True)
class Handmade(Start):
  """Sets one parameter."""

  path: str = 'embedding/token'
  size: int = 0  # of a vector; 0 is as the parameter is

  def values(self, given: StartInput) -> Values:
    shape = (self.size,) if self.size else given.drawn[self.path].shape
    return {self.path: np.full(shape, 7.0)}


def test_a_start_sets_what_it_names() -> None:
  start = Handmade()
  drawn = flatten(initial(config({})))
  made = dataclasses.replace(config({}), start=start)
  for path, x in flatten(initial(made)).items():
    assert x.dtype == np.float32
    np.testing.assert_array_equal(
      x, np.full(x.shape, 7.0) if path == start.path else drawn[path]
    )


@pytest.mark.parametrize(
  ('start', 'why'),
  [
    (Handmade('embedding/tokens', 1), 'sets embedding/tokens, which is no'),
    (
      Handmade('norm_final/scale', 3),
      r'the shape \(3,\), and it has \(8,\)',
    ),
  ],
)
def test_a_start_that_does_not_fit_is_refused(start: Start, why: str) -> None:
  with pytest.raises(FieldError, match=why):
    dataclasses.replace(config({}), start=start)


@pytest.mark.parametrize(
  ('changes', 'why'),
  [
    (
      {'start': 'equal_heads', 'num_heads': '1'},
      '--start=equal_heads: sets no',
    ),
    (
      {'start': 'equal_heads', 'init_from': 'a:b'},
      '--start=equal_heads: has no effect beside --init_from=a:b',
    ),
    ({'measure_examples': '4'}, 'has no effect without --measure'),
    ({'measure': 'none,rank_residual'}, 'none has no effect beside others'),
    ({'measure': 'rank_residual,rank_residual'}, 'must name each once'),
    (
      {'steps': '0', 'average': 'tail'},
      '--average=tail: averages updates, and --steps=0 makes none',
    ),
  ],
)
def test_what_means_nothing_is_refused(
  changes: dict[str, str], why: str
) -> None:
  with pytest.raises(FieldError, match=why):
    config(changes)


@pytest.mark.parametrize(
  ('flags', 'why'),
  [
    (('--at=2',), '--at=2: has no effect without --evaluate'),
    (('--at=first', '--evaluate=a:b'), '--at=first: must be last, all or a'),
    (('--keep_every=0',), '--keep_every=0: must be at least 1'),
  ],
)
def test_flags_of_checkpoints_are_checked(
  flags: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
  assert commands.run(*flags) == 2
  assert why in capsys.readouterr().err


def test_nothing_is_warned_of_where_nothing_moves() -> None:
  assert config({'steps': '0', 'warmup_steps': '9'}).warnings() == []


# The rule of the experiment. --------------------------------------------------


@pytest.mark.parametrize(
  ('ratios', 'holds'),
  [
    ((1.0, 0.8, 0.1, 0.01, 1e-4), True),
    ((1.0, 0.8, 0.1, 0.011, 1e-4), False),
    ((1.0, 0.8, 0.1, 0.01, 1.1e-4), False),
    ((1.0, 0.8, 0.1, 1e-3, 0.0), True),
    ((1.0, 0.8, 1.0, 0.01, 1e-4), False),
    ((1.0, 0.8, 0.1, 0.01), False),
  ],
)
def test_doubling(ratios: tuple[float, ...], holds: bool) -> None:
  final = {f'{RATIO}@{n}': x for n, x in enumerate(ratios)}
  own = TrialMetrics(False, final, {}, [], 0.0, 0)
  found = Doubling(2, 4).find(
    Measurements({'a': {0: own}}), Claim('a', RATIO, None)
  )
  assert found.holds == holds
