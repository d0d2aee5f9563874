"""Whose a failure is, and what becomes of the trials beside it."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import jax
import pytest

from experiments.run.runner import Runner
from helpers import alone
from helpers.lanes import data
from train.config.config import Config
from train.devices.parallel import parse_layout
from train.files.records import BEGUN
from train.flags.schema import override
from train.lane import Lane
from train.trial import Failure, Interrupted, Options, Trial, TrialOutcome

pytestmark = pytest.mark.usefixtures('quick_compilation')
TINY = {
  'num_layers': '1',
  'd_model': '8',
  'num_heads': '1',
  'seq_len': '8',
  'batch_size': '2',
  'eval_every': '2',
  'warmup_steps': '1',
}
STEPS = (2, 4, 2)  # of each trial
FAILED = Failure('failed', 'RuntimeError: out of luck')
# What is raised; `name` is that of the trial.
Fault = Callable[[str], None]


class Listener(alone.Listener):
  """Raises what it is given, and asks to stop, when trials begin or end."""

  def __init__(
    self,
    at_begin: Fault = lambda name: None,
    at_end: Fault = lambda name: None,
    stop: Callable[['Listener'], bool] = lambda listener: False,
  ):
    super().__init__()
    self.at_begin, self.at_end, self.stop = at_begin, at_end, stop

  def begin(self, trial: Trial) -> None:
    super().begin(trial)
    self.at_begin(trial.id)

  def end(self, trial: Trial, outcome: TrialOutcome) -> None:
    assert trial.id not in self.outcomes
    super().end(trial, outcome)
    self.at_end(trial.id)

  def stop_requested(self) -> bool:
    return self.stop(self)


def unlucky(name: str) -> None:
  if name == '1':
    raise RuntimeError('out of luck\nand a second line')


def train(folder: Path, lanes: str, listener: Listener, count: int = 3) -> None:
  """Trains trials 0, 1, ... of rows 'row 0', 'row 1', ..."""
  trials = [
    Trial(
      str(n),
      override(Config(), {**TINY, 'seed': str(n), 'steps': str(steps)}),
      folder / str(n),
      data(),
      row=f'row {n}',
    )
    for n, steps in enumerate(STEPS[:count])
  ]
  layout = parse_layout(lanes, jax.local_devices(backend='cpu'))
  Runner(Options(), layout, listener).run(iter(trials))


def at_the_end(monkeypatch: pytest.MonkeyPatch, fault: Fault) -> None:
  """Has a fault raise when a trial is trained, before it has ended."""
  real = Lane.compute_final_metrics

  def judge(lane: Lane) -> None:
    fault(lane.trial.id)
    real(lane)

  monkeypatch.setattr(Lane, 'compute_final_metrics', judge)


@pytest.fixture(scope='module')
def digests(
  tmp_path_factory: pytest.TempPathFactory, quick_compilation: None
) -> dict[str, str]:
  """What the trials come to, one after another, where nothing fails."""
  del quick_compilation
  listener = Listener()
  train(tmp_path_factory.mktemp('fine'), 'shared:1', listener)
  assert not listener.warnings
  return {name: r.digest for name, r in listener.results.items()}


def assert_one_failed(listener: Listener, digests: dict[str, str]) -> None:
  """Fails unless trial 1 failed, and the others came to what they are."""
  assert listener.outcomes.pop('1') == FAILED
  found = {name: r.digest for name, r in listener.results.items()}
  assert found == {name: digests[name] for name in ('0', '2')}


@pytest.mark.parametrize('where', ['begin', 'end'])
def test_one_lane_knows_whose_a_failure_is(
  where: str,
  digests: dict[str, str],
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  listener = Listener()
  if where == 'begin':
    listener = Listener(at_begin=unlucky)
  else:
    at_the_end(monkeypatch, unlucky)
  train(tmp_path, 'shared:1', listener)
  assert listener.begun == ['0', '1', '2']
  assert not listener.warnings
  assert_one_failed(listener, digests)


def test_of_several_lanes_each_that_is_left_runs_alone(
  digests: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Trial 0 has ended, and 2 has its lane, when 1 raises."""
  at_the_end(monkeypatch, unlucky)
  listener = Listener()
  train(tmp_path, 'map:2', listener)
  assert listener.begun == ['0', '1', '2', '1', '2']
  assert listener.warnings == [
    f'row 1, row 2: {FAILED.error}: running each alone'
  ]
  assert_one_failed(listener, digests)
  lay = [json.loads((tmp_path / n / BEGUN).read_text()) for n in '012']
  assert [about['lanes'] for about in lay] == ['map:2', 'shared:1', 'shared:1']


def test_what_passes_alone_has_not_failed(
  digests: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """As if lanes took too much memory together; the last one is not alone."""
  listener = Listener()

  def full(name: str) -> None:
    del name
    if not listener.warnings:
      raise MemoryError

  at_the_end(monkeypatch, full)
  train(tmp_path, 'map:2', listener)
  assert listener.begun == ['0', '1', '0', '1', '2']
  (warning,) = listener.warnings
  assert warning.startswith(
    'row 0, row 1: too little memory: a smaller --batch'
  )
  assert {n: r.digest for n, r in listener.results.items()} == digests


def test_the_last_of_several_is_tried_alone_too(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """What raised may be what it shared with one that has ended."""
  at_the_end(monkeypatch, unlucky)
  listener = Listener()
  train(tmp_path, 'map:2', listener, count=2)
  assert listener.begun == ['0', '1', '1']
  assert listener.warnings == [f'row 1: {FAILED.error}: running each alone']
  assert listener.outcomes.pop('1') == FAILED
  assert listener.results.keys() == {'0'}


@pytest.mark.parametrize('where', ['closed', 'recorded'])
def test_what_raises_behind_the_end_is_nobodys_failure(
  where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  def broken(_: object) -> None:
    raise RuntimeError('out of luck')

  listener = Listener()
  if where == 'recorded':
    listener = Listener(at_end=broken)
  else:
    monkeypatch.setattr(Lane, 'close', broken)
  train(tmp_path, 'shared:1', listener, count=1)
  assert listener.begun == ['0']
  assert listener.results['0'].status == 'ok'
  assert listener.warnings == [f'after all trials had ended: {FAILED.error}']


@pytest.mark.parametrize('lanes', ['shared:1', 'map:2'])
@pytest.mark.parametrize('wrapped', [False, True])
def test_the_disk_ends_all_and_fails_nobody(
  wrapped: bool, lanes: str, tmp_path: Path
) -> None:
  """Orbax wraps what the disk says in errors of its own."""
  text = os.strerror(errno.ENOSPC)

  def full(name: str) -> None:
    del name
    raise ValueError(f'write: {text}') if wrapped else OSError(28, text)

  listener = Listener(at_begin=full)
  with pytest.raises(OSError, match=text) as problem:
    train(tmp_path, lanes, listener)
  assert problem.value.errno == errno.ENOSPC
  assert listener.begun == ['0']
  assert not listener.outcomes
  assert not listener.warnings


def test_an_error_of_the_system_is_no_trials_failure(tmp_path: Path) -> None:
  """Whatever its number is, and whichever trial meets it."""

  def refused(name: str) -> None:
    del name
    raise ConnectionRefusedError

  listener = Listener(at_begin=refused)
  with pytest.raises(ConnectionRefusedError):
    train(tmp_path, 'shared:1', listener)
  assert not listener.outcomes
  assert not listener.warnings


def test_a_stop_before_the_first_begins_nothing(tmp_path: Path) -> None:
  listener = Listener(stop=lambda _: True)
  with pytest.raises(Interrupted):
    train(tmp_path, 'map:2', listener)
  assert not listener.begun


def test_a_stop_in_training_fails_nobody(tmp_path: Path) -> None:
  listener = Listener(stop=lambda listener: bool(listener.begun))
  with pytest.raises(Interrupted):
    train(tmp_path, 'shared:1', listener)
  assert listener.begun == ['0']
  assert not listener.outcomes
  assert not listener.warnings


def test_a_stop_between_those_left_fails_nobody(tmp_path: Path) -> None:
  """Those that wait for their turn alone are taken up by the next run."""
  listener = Listener(
    at_begin=unlucky,
    stop=lambda listener: '0' in listener.outcomes,
  )
  with pytest.raises(Interrupted):
    train(tmp_path, 'map:2', listener)
  assert listener.begun == ['0', '1', '0']
  assert listener.results.keys() == {'0'}
