"""Averages of the parameters: what is evaluated, saved, loaded and reported."""

import json
import math
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers import alone, commands
from helpers.courses import (
  EVERYTHING,
  FROZEN,
  TINY,
  Course,
  assert_same_bits,
  assert_same_course,
  config,
  course,
  cpus,
  evaluation,
)
from helpers.lanes import EXACT, assert_near, layout_of, run, timeless, trials
from model.core.field import FieldError
from model.core.parameter import Params
from model.core.side_output import ATTENTION_MAPS
from spec.reference import REFERENCES
from spec.tolerance import assert_close
from train.core.trees import flatten
from train.files.checkpoint import Checkpoints
from train.files.durable import digest, read_intact_lines
from train.inference.load import load
from train.optim.average import CheckpointMean, Ema, UpdateTime
from train.programs.state import init_state
from train.trial import Interrupted, Options

pytestmark = pytest.mark.usefixtures('quick_compilation')

KINDS = {
  'ema': {'average': 'ema', 'average.decay': '0.7'},
  'tail': {'average': 'tail', 'average.count': '2'},
}
SHORT = EVERYTHING | {'steps': '8', 'eval_every': '3'}  # at steps 3, 6 and 8


def averages(course: Course) -> dict[str, Any]:
  assert course.state.average is not None
  return flatten(course.state.average)


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_the_average_is_that_of_the_parameters_after_each_step(
  kind: str,
) -> None:
  made = config(SHORT | KINDS[kind])
  known = [course(made, stops=(n,)) for n in range(9)]
  loop = REFERENCES['average'][kind]
  for n, at in enumerate(known):
    for path, found in averages(at).items():
      past = [flatten(k.state.params)[path] for k in known[: n + 1]]
      values = [np.asarray(x, np.float64) for x in past]
      expected = loop(made.optimization.average, values, 8, 3)
      assert_close(found, expected, n + 1, scale=1.0)
      assert np.array_equal(found, past[0]) == (n == 0 or path in FROZEN)


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_training_does_not_see_the_average(kind: str) -> None:
  plain = course(config(SHORT))
  assert plain.state.average is None
  other = course(config(SHORT | KINDS[kind]))
  assert_same_bits(other.metrics, plain.metrics)
  assert_same_bits(other.state.params, plain.state.params)


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_eight_devices_average_as_one(kind: str) -> None:
  made = config(SHORT | KINDS[kind])
  one, eight = course(made), course(made, cpus(8))
  assert_same_course(eight, one)
  for path, found in averages(eight).items():
    assert_close(found, averages(one)[path], 8 * 16 * 24, scale=1.0)


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_a_divergence_leaves_the_average_where_it_was(kind: str) -> None:
  made = config(SHORT | KINDS[kind] | {'learning_rate': '1e25'})
  end = course(made)
  at = int(end.state.diverged)
  assert 0 < at < 8
  assert_same_bits(averages(end), averages(course(made, stops=(at,))))
  assert all(np.isfinite(x).all() for x in averages(end).values())


@pytest.mark.slow
def test_chunk_length_does_not_change_a_bit() -> None:
  for kind in KINDS.values():
    made = config(SHORT | kind)
    parts = course(made, stops=(1, 2, 5, 8))
    assert_same_bits(parts.state, course(made).state)


def test_the_first_mean_leaves_the_initial_values_out() -> None:
  for decay in ('0.5', '0.999999'):
    made = config(SHORT | {'average': 'ema', 'average.decay': decay})
    one = course(made, stops=(1,))
    assert_same_bits(averages(one), flatten(one.state.params))
  for step in (1, 2, 2**30):  # a decay of 0 is the parameters themselves
    assert (
      float(Ema(0.0).weight(UpdateTime(jnp.int32(step), jnp.int32(9), 3))) == 1
    )


def test_weights_of_an_average_over_a_billion_steps() -> None:
  """They neither overflow nor vanish before their time."""
  total = 2**31 - 1
  for step, expected in ((1, 1.0), (10**6, 1e-6 / (1 - math.exp(-1)))):
    at = UpdateTime(jnp.int32(step), jnp.int32(total), 10)
    weight = float(Ema(0.999999).weight(at))
    assert weight == pytest.approx(expected, rel=0.05)
  for step, expected in ((10, 1.0), (total - 1, 0.0), (total, 1 / 4)):
    at = UpdateTime(jnp.int32(step), jnp.int32(total), 10)
    assert float(CheckpointMean(4).weight(at)) == expected
  for step, expected in ((total - 1, 1.0), (total, 0.5)):
    at = UpdateTime(jnp.int32(step), jnp.int32(total), total - 1)
    assert float(CheckpointMean(2).weight(at)) == expected


# Lanes and interruptions. -----------------------------------------------------

LANES = {
  'ema': [
    {'seed': '0', 'average': 'ema', 'average.decay': '0.5'},
    {'seed': '1', 'average': 'ema', 'average.decay': '0.9', 'steps': '5'},
    {'seed': '2', 'average': 'ema'},
  ],
  'tail': [
    {'seed': '0', 'average': 'tail', 'average.count': '2'},
    {'seed': '1', 'average': 'tail', 'average.count': '3'},
    {'seed': '2', 'average': 'tail', 'average.count': '2', 'steps': '5'},
  ],
}


@pytest.mark.slow
@pytest.mark.parametrize(
  ('kind', 'layout'),
  [
    ('ema', 'vmap:2'),
    *(
      pytest.param(kind, layout, marks=pytest.mark.slow)
      for kind, layout in [
        ('ema', 'devices:2'),
        ('tail', 'map:2'),
        ('tail', 'devices:2,vmap:2'),
      ]
    ),
  ],
)
def test_a_lane_is_the_trial_alone(
  kind: str, layout: str, tmp_path: pathlib.Path
) -> None:
  solo = run(trials(tmp_path / 'solo', LANES[kind]), 'shared:1')
  found = run(trials(tmp_path / 'lanes', LANES[kind]), layout)
  for name, result in found.items():
    if layout in EXACT:
      assert timeless(result) == timeless(solo[name])
    else:
      assert_near(result, solo[name])


@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS)
def test_an_interruption_changes_nothing(
  kind: str, tmp_path: pathlib.Path
) -> None:
  """It stops before, at and between the evaluations that count."""
  (whole,) = trials(tmp_path / 'whole', [KINDS[kind]])
  (parts,) = trials(tmp_path / 'parts', [KINDS[kind]])
  expected = alone.run(whole, Options(log_every=1), layout_of('shared:1'))
  for until in (2, 4, 5, 8):
    listener = alone.Listener(until)
    with pytest.raises(Interrupted):
      alone.run(parts, Options(log_every=1), layout_of('shared:1'), listener)
  found = alone.run(parts, Options(log_every=1), layout_of('shared:1'))
  assert timeless(found) == timeless(expected)
  lines = [
    read_intact_lines(t.directory / 'metrics.jsonl') for t in (whole, parts)
  ]
  assert lines[0] == lines[1]


def test_a_checkpoint_without_an_average_is_what_it_always_was(
  tmp_path: pathlib.Path,
) -> None:
  """Those that were written before there were averages still restore."""

  class State(NamedTuple):
    step: Any
    params: Params
    opt_state: optax.OptState
    diverged: Any

  def arrays(flags: dict[str, str]) -> Any:
    made = init_state(config(flags), config(flags).dims(24))
    return jax.tree.map(np.asarray, made)

  state, other = arrays(TINY), arrays(TINY | {'seed': '1'})
  assert state.average is None
  checkpoints = Checkpoints(tmp_path / 'checkpoints', 2, pytest.fail)
  checkpoints.save(3, State(*state[:4]), {})
  checkpoints.wait()
  restored = checkpoints.restore(other.checkpoint_tree)
  assert restored is not None
  assert_same_bits(restored.tree, state)
  averaged = arrays(TINY | KINDS['ema'])
  checkpoints.save(4, averaged.checkpoint_tree, {})
  checkpoints.wait()
  restored = checkpoints.restore(arrays(TINY | KINDS['ema']).checkpoint_tree)
  checkpoints.close()
  assert restored is not None
  assert_same_bits(restored.tree, averaged)
  assert type(restored.tree)._fields == (*State._fields, 'average')


# What users see. --------------------------------------------------------------


class Ran(NamedTuple):
  """A working directory with a row of each kind, and its records."""

  workdir: pathlib.Path
  records: dict[str, dict[str, Any]]


ROWS = {'base': 'none', 'average=ema': 'ema', 'average=tail': 'tail'}


@pytest.fixture(scope='module')
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
  folder = tmp_path_factory.mktemp('average')
  (folder / 'text.txt').write_text('abcabcabd' * 40 + 'dcbadcba' * 5)
  sizes = TINY | {'steps': '20', 'learning_rate': '0.02'}
  words = [f'--{name}={value}' for name, value in sizes.items()]
  words += [f'--ablate={row}' for row in ROWS if row != 'base']
  words += [f'--task.path={folder}/text.txt', f'--workdir={folder}/run']
  assert commands.run(*words, '--seeds=1') == 0
  records = {r['row']: r for r in commands.trials(folder / 'run')}
  assert set(records) == set(ROWS)
  return Ran(folder / 'run', records)


@pytest.mark.slow
@pytest.mark.parametrize('row', ROWS)
def test_what_is_loaded_is_what_was_evaluated(ran: Ran, row: str) -> None:
  record, loaded = ran.records[row], load(ran.workdir, row)
  assert digest(loaded.params) == record['digest']
  figures = loaded.evaluate()
  for name in ('val_loss', 'val_accuracy'):
    assert figures[name] == record['metrics'][name]
  best = load(ran.workdir, row, best=True)
  assert best.step == record['metrics']['best_step']
  assert best.evaluate()['val_loss'] == record['metrics']['best_val_loss']
  folder = ran.workdir / 'runs' / record['trial']
  with np.load(folder / 'attention.npz') as saved:
    tokens_1T = saved['tokens_T'][None].astype(np.int32)
    out = loaded.apply(tokens_1T, wanted=ATTENTION_MAPS)
    assert out.weights_LBNTS is not None
    np.testing.assert_allclose(
      saved['weights_LNTS'], out.weights_LBNTS[:, 0], atol=1e-3
    )


@pytest.mark.slow
def test_rows_differ_in_what_is_evaluated_only(ran: Ran) -> None:
  records = ran.records.values()
  assert len({r['digest'] for r in records}) == 3
  assert len({r['metrics']['val_loss'] for r in records}) == 3
  assert len({r['metrics']['train_loss'] for r in records}) == 1


@pytest.mark.slow
def test_a_trial_begins_with_the_average_of_another(
  ran: Ran, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """With all held it stays there."""
  record = ran.records['average=ema']
  sizes = TINY | {'steps': '2', 'freeze': '.', 'average': 'ema'}
  words = [f'--{name}={value}' for name, value in sizes.items()]
  words += [
    f'--task.path={ran.workdir.parent}/text.txt',
    f'--init_from={ran.workdir}:average=ema',
    f'--workdir={tmp_path}/next',
  ]
  assert commands.run(*words, '--seeds=1', '--only=base') == 0
  (found,) = commands.trials(tmp_path / 'next')
  assert found['digest'] == record['digest']
  capsys.readouterr()
  assert commands.run(f'--evaluate={ran.workdir}:average=ema') == 0
  printed = json.loads(capsys.readouterr().out)
  assert printed['val_loss'] == record['metrics']['val_loss']


def test_what_a_run_is_too_short_for_is_refused() -> None:
  for flags, message in (
    (
      {'average.count': '9'},
      '--average.count=9: must be at most 8, the evaluations of --steps=40: '
      'lower --eval_every=5',
    ),
    ({'average.count': '1'}, '--average.count=1: must be at least 2'),
    (
      {'eval_every': '40'},
      '--average.count=3: must be at most 1, the evaluations of --steps=40: '
      'lower --eval_every=40',
    ),
  ):
    with pytest.raises(FieldError) as e:
      config(TINY | {'average': 'tail'} | flags)
    assert str(e.value) == message
  assert config(TINY | {'average': 'tail', 'average.count': '8'})


# Does it help? ----------------------------------------------------------------


@pytest.mark.slow
def test_averaging_lowers_the_loss_where_steps_are_noisy() -> None:
  """A large learning rate that does not decay: the last step is a bad one."""
  noisy = TINY | {
    'steps': '120',
    'eval_every': '5',
    'batch_size': '4',
    'schedule': 'constant',
    'learning_rate': '0.03',
  }

  def loss(more: dict[str, str]) -> float:
    made = config(noisy | more)
    sums = evaluation(made, course(made, stops=(120,)).state.eval_params)
    return float(sums.loss / sums.count)

  last = loss({})
  assert loss({'average': 'ema', 'average.decay': '0.95'}) < last - 0.02
  assert loss({'average': 'tail', 'average.count': '8'}) < last - 0.02
