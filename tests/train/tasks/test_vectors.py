"""Tasks of real vectors: what is read, predicted, learned, and refused."""

import dataclasses
import functools
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.questions.gradient_step import EXPERIMENT, GD_LOSS
from helpers.commands import run, trials
from model import transformer
from model.core.field import FieldError
from model.core.inputs import ModelInputs
from spec import reference
from train.config.config import Config, trial_id
from train.core.errors import DataError
from train.core.trees import flatten, unflatten
from train.devices.parallel import parse_layout, to_host
from train.flags.schema import non_default_flags, override, to_flags
from train.inference.load import load
from train.optim.objective import CrossEntropy, SquaredError
from train.programs.batches import batch_of
from train.programs.program import get_program
from train.programs.signature import signature
from train.programs.state import init_state
from train.starts.base import StartInput
from train.starts.gradient_step import GradientStep
from train.tasks.base import Batch
from train.tasks.generated import one_step
from train.tasks.generated.regression import Regression
from train.text.vectors import PLACES, VectorVocabulary

pytestmark = pytest.mark.usefixtures('quick_compilation')

TINY = {
  'task': 'regression',
  'task.dim': '3',
  'task.held': '40',
  'seq_len': '5',
  'batch_size': '8',
  'd_model': '8',
  'num_heads': '2',
  'num_layers': '1',
}


def made(flags: Mapping[str, str]) -> Config:
  return override(Config(), TINY | flags)


# The task. --------------------------------------------------------------------


def drawn(config: Config, step: int) -> Batch:
  return batch_of(config, {}, jnp.asarray(step, jnp.int32))


def test_an_example_is_what_the_docstring_says() -> None:
  batch = drawn(made({'batch_size': '64'}), 0)
  v_BTI = np.asarray(batch.inputs.vectors_BTI, np.float64)
  assert batch.inputs.tokens_BT is None
  assert batch.targets_BT is None
  assert v_BTI.shape == (64, 5, 4)
  assert batch.targets.shape == (64, 5, 1)
  x_BTI, y_BT = v_BTI[..., :-1], np.asarray(batch.targets)[..., 0]
  assert 0.45 < np.abs(x_BTI).max() <= 0.5
  np.testing.assert_array_equal(v_BTI[:, -1, -1], 0.0)
  np.testing.assert_array_equal(v_BTI[:, :-1, -1], y_BT[:, :-1])
  # Four pairs fix the three numbers of w, which then give the answer.
  for x_TI, y_T in zip(x_BTI, y_BT, strict=True):
    w_I, *_ = np.linalg.lstsq(x_TI[:-1], y_T[:-1], rcond=None)
    np.testing.assert_allclose(x_TI[-1] @ w_I, y_T[-1], atol=1e-3)
  np.testing.assert_array_equal(batch.weights_BT, [[0, 0, 0, 0, 1]] * 64)


def test_a_batch_is_a_function_of_key_and_step() -> None:
  config = made({})
  first, again, other = (drawn(config, n) for n in (3, 3, 4))
  jax.tree.map(np.testing.assert_array_equal, first, again)
  assert not (first.targets == other.targets).any()
  seeded = drawn(dataclasses.replace(config, seed=1), 3)
  assert not (first.targets == seeded.targets).any()
  # The same examples, whatever the size of a batch.
  wide = drawn(made({'batch_size': '16'}), 1)
  np.testing.assert_array_equal(
    np.concatenate([drawn(config, 2).targets, drawn(config, 3).targets]),
    wide.targets,
  )


def test_scale_is_of_the_examples_that_are_evaluated() -> None:
  plain, scaled = made({}), made({'task.scale': '2'})
  jax.tree.map(np.testing.assert_array_equal, drawn(plain, 0), drawn(scaled, 0))
  ids_B = jnp.arange(40)
  one, two = (
    config.task.evaluation_batch({}, ids_B, 5).inputs.vectors_BTI
    for config in (plain, scaled)
  )
  np.testing.assert_allclose(two, 2 * np.asarray(one), rtol=1e-5, atol=1e-6)


def paper() -> tuple[np.ndarray, np.ndarray]:
  """Returns 100,000 examples of the published size, and their answers."""
  ids_B = jnp.arange(100_000)
  batch = jax.jit(lambda: Regression().evaluation_batch({}, ids_B, 11))()
  read_BTI = np.asarray(batch.inputs.vectors_BTI, np.float64)
  return read_BTI, np.asarray(batch.targets, np.float64)[:, -1, 0]


def test_the_best_step_of_gradient_descent_has_the_published_loss() -> None:
  read_BTI, target_B = paper()
  x_BNI, y_BN = read_BTI[:, :-1, :-1], read_BTI[:, :-1, -1]
  products_B = one_step.products(x_BNI, y_BN, read_BTI[:, -1, :-1])
  rate = one_step.best_rate(products_B, target_B)
  assert abs(rate - 0.605) < 0.01
  best = one_step.loss(rate * products_B, target_B)
  assert abs(best - GD_LOSS) < 0.002
  for other in (0.99 * rate, 1.01 * rate):
    assert one_step.loss(other * products_B, target_B) > best
  assert abs(one_step.loss(np.zeros(100_000), target_B) - 0.412) < 0.01
  for b in range(5):
    step = reference.gradient_step(
      x_BNI[b], y_BN[b], read_BTI[b, -1, :-1], rate
    )
    assert math.isclose(step, rate * products_B[b], rel_tol=1e-9)


# The construction of the paper. -----------------------------------------------


def construction(rate: float) -> dict[str, np.ndarray]:
  """Returns the parameters of EXPERIMENT that take a step of this rate."""
  config = EXPERIMENT.base
  dims = config.sizes(config.task.load().vocabulary)
  given = StartInput(config.architecture, dims, {})
  return dict(GradientStep(rate).values(given))


def test_the_construction_is_a_step_of_gradient_descent() -> None:
  config = EXPERIMENT.base
  dims = config.sizes(config.task.load().vocabulary)
  params = construction(0.6)
  assert {
    path: (what.depth, *what.shape)
    for path, what in config.architecture.parameter_table(dims).items()
  } == {path: value.shape for path, value in params.items()}
  batch = config.task.evaluation_batch({}, jnp.arange(6), 11)
  read_BTI = np.asarray(batch.inputs.vectors_BTI, np.float64)
  expected = [
    reference.gradient_step(v_TI[:-1, :-1], v_TI[:-1, -1], v_TI[-1, :-1], 0.6)
    for v_TI in read_BTI
  ]
  with jax.enable_x64(True):
    given = jax.tree.map(jnp.asarray, unflatten(params))
    inputs = ModelInputs(vectors_BTI=jnp.asarray(read_BTI))
    out = transformer.apply(config.architecture, dims, given, inputs)
  np.testing.assert_allclose(out.logits_BTV[:, -1, 0], expected, rtol=1e-9)


def test_the_figures_of_the_construction_say_that_it_is_one() -> None:
  task = Regression(held=500)
  config = dataclasses.replace(EXPERIMENT.base, task=task)
  data = task.load()
  batch = task.evaluation_batch({}, jnp.arange(500), 11)
  read_BTI = np.asarray(batch.inputs.vectors_BTI, np.float64)
  products_B = one_step.products(
    read_BTI[:, :-1, :-1], read_BTI[:, :-1, -1], read_BTI[:, -1, :-1]
  )
  target_B = np.asarray(batch.targets, np.float64)[:, -1, 0]
  rate = one_step.best_rate(products_B, target_B)
  arch, dims = config.architecture, config.sizes(data.vocabulary)

  def judged(params: Mapping[str, np.ndarray], task: Regression) -> Any:
    own = jax.tree.map(jnp.float32, unflatten(dict(params)))
    return task.final_metrics(arch, dims, own, data).figures

  for scale in (1.0, 2.0):
    found = judged(construction(rate), dataclasses.replace(task, scale=scale))
    assert math.isclose(found['loss_over_gd'], 1.0, abs_tol=1e-4)
    assert math.isclose(found['gd_cosine'], 1.0, abs_tol=1e-4)
    assert found['gd_difference'] < 1e-4
  wrong = judged(construction(-rate), task)
  assert wrong['loss_over_gd'] > 2
  assert wrong['gd_cosine'] < -0.99


# Training. --------------------------------------------------------------------


def course(config: Config, layout: str = 'shared:1') -> tuple[Any, Any]:
  """Returns the parameters of a trial at its end, and what it is judged by."""
  devices = parse_layout(layout, jax.local_devices(backend='cpu'))
  data = config.task.load()
  sig, values = signature(config, data, devices)
  state = devices.place(to_host(init_state(config, sig.dims)))
  placed = devices.place(values), devices.place({})
  state, _ = get_program(sig).chunk(state, *placed, np.int32(config.steps))
  assert int(to_host(state.diverged)) == -1
  sums = to_host(get_program(sig).evaluate(state.params, *placed))
  return flatten(to_host(state.params)), sums


def near(one: tuple[Any, Any], other: tuple[Any, Any]) -> None:
  for path, value in one[0].items():
    np.testing.assert_allclose(value, other[0][path], atol=2e-5, err_msg=path)
  np.testing.assert_allclose(one[1].loss, other[1].loss, rtol=1e-4)
  assert one[1].count == other[1].count


@pytest.fixture(scope='module')
def alone() -> tuple[Any, Any]:
  return course(made({'steps': '5', 'warmup_steps': '0'}))


@pytest.mark.parametrize(
  ('flags', 'layout'),
  [
    ({'microbatches': '4'}, 'shared:1'),
    pytest.param({}, 'shared:4', marks=pytest.mark.slow),
  ],
  ids=['microbatches', 'devices'],
)
def test_shares_of_a_batch_add_up(
  flags: dict[str, str], layout: str, alone: tuple[Any, Any]
) -> None:
  config = made({'steps': '5', 'warmup_steps': '0'} | flags)
  near(course(config, layout), alone)
  assert alone[1].count == 40
  assert alone[1].correct == 0


@pytest.mark.slow
def test_a_lane_is_as_it_is_alone(alone: tuple[Any, Any]) -> None:
  config = made({'steps': '5', 'warmup_steps': '0'})
  both = [dataclasses.replace(config, seed=seed) for seed in (0, 1)]
  layout = parse_layout('vmap:2', jax.local_devices(backend='cpu'))
  signed = [signature(one, one.task.load(), layout) for one in both]
  sig, values = signed[0][0], layout.pack([v for _, v in signed])
  states = [to_host(init_state(one, sig.dims)) for one in both]
  stops = layout.pack([np.int32(5), np.int32(5)])
  state, _ = get_program(sig).chunk(layout.pack(states), values, {}, stops)
  first, second = layout.unpack(state)
  sums, _ = layout.unpack(get_program(sig).evaluate(state.params, values, {}))
  near((flatten(first.params), sums), alone)
  assert any(
    (x != flatten(second.params)[p]).any()
    for p, x in flatten(first.params).items()
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ('read_in', 'read_out'), [('linear', 'linear'), ('identity', 'last')]
)
def test_regressions_are_learned(read_in: str, read_out: str) -> None:
  """By the answer 0 half the squared error is 3 / 12 / 2 = 0.125."""
  _, sums = course(
    made(
      {
        'read_in': read_in,
        'read_out': read_out,
        'd_model': '4',
        'num_heads': '1',
        'task.held': '1000',
        'seq_len': '9',
        'batch_size': '128',
        'normalizer': 'none',
        'scale': 'none',
        'norm': 'none',
        'feedforward': 'none',
        'position': 'none',
        'init.std': '0.5',
        'learning_rate': '0.03',
        'weight_decay': '0',
        'steps': '300',
      }
    )
  )
  assert sums.loss / sums.count < 0.075


def test_shuffled_targets_are_those_of_other_examples() -> None:
  plain = drawn(made({}), 0)
  batch = drawn(made({'shuffle_targets': 'true'}), 0)
  own_B, new_B = (np.asarray(b.targets)[:, -1, 0] for b in (plain, batch))
  assert {*new_B} <= {*own_B}
  assert not (own_B == new_B).any()
  np.testing.assert_array_equal(plain.targets[:, :-1], batch.targets[:, :-1])


# Flags. -----------------------------------------------------------------------


def test_the_objective_follows_the_task() -> None:
  config = made({})
  assert config.objective == (SquaredError(),)
  assert 'objective' not in non_default_flags(Config(), config)
  assert override(Config(), to_flags(config)) == config
  assert override(Config(), non_default_flags(Config(), config)) == config
  back = override(config, {'task': 'most_frequent', 'model': 'classifier'})
  assert back.objective == (CrossEntropy(),)
  named = override(Config(), {'objective': 'cross_entropy,z_loss'})
  with pytest.raises(FieldError, match='cross_entropy compares tokens'):
    override(named, {'task': 'regression'})
  assert trial_id(made({'objective': 'squared'}), '') == trial_id(config, '')


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    ({'objective': 'cross_entropy'}, '--objective=squared'),
    ({'objective': 'squared,z_loss'}, '--objective=squared'),
    ({'task': 'text', 'objective': 'squared'}, '--objective=cross_entropy'),
    ({'label_smoothing': '0.1'}, '--objective=squared: drop it'),
    ({'tie_embeddings': 'false'}, 'try --tie_embeddings=true'),
    ({'scale_embeddings': 'true'}, 'no effect on vectors'),
    ({'read_in': 'identity'}, 'width 4 the residual, of --d_model=8'),
    ({'task': 'text', 'read_in': 'identity'}, 'try --read_in=linear'),
    ({'task': 'text', 'read_out': 'last'}, 'try --read_out=linear'),
    ({'model': 'classifier'}, 'cannot learn --task=regression'),
    ({'model': 'encoder_decoder'}, 'cannot learn --task=regression'),
    ({'mask': 'causal,padding'}, 'needs segments, which --task=regression'),
    ({'task.dim': '0'}, 'must be at least 1'),
  ],
)
def test_what_makes_no_sense_is_refused(
  flags: dict[str, str], said: str
) -> None:
  own = TINY | flags
  if flags.get('task') == 'text':
    own = {k: v for k, v in own.items() if not k.startswith('task.')}
  with pytest.raises(FieldError) as e:
    override(Config(), own)
  assert said in str(e.value)
  assert '\n' not in str(e.value)


@dataclasses.dataclass(frozen=True)
class Wide(Regression):
  """Regression of three numbers, by any family; no flag names it."""

  families = (*Regression.families,)

  @property
  def num_outputs(self) -> int:
    return 30


def test_a_read_out_needs_as_many_coordinates() -> None:
  arch = made({'read_out': 'last'}).architecture
  with pytest.raises(FieldError, match='takes 30 coordinates of --d_model=8'):
    Config(task=Wide(), objective=(SquaredError(),), architecture=arch)


def test_a_task_of_one_token_is_refused() -> None:
  task = Regression()
  assert '--seq_len=1' in str(task.problem(task.load(), 1))
  assert task.problem(task.load(), 2) is None


# Commands. --------------------------------------------------------------------


@functools.cache
def argv() -> tuple[str, ...]:
  return (
    '--experiment=train',
    *(f'--{flag}={text}' for flag, text in TINY.items()),
    *('--steps=2', '--eval_every=1', '--warmup_steps=0'),
  )


@pytest.mark.slow
def test_a_trial_is_trained_judged_and_used(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  folder = str(tmp_path / 'out')
  assert (
    run(*argv(), '--seeds=2', '--lanes=shared:1', f'--workdir={folder}') == 0
  )
  metrics = trials(folder)[0]['metrics']
  assert 'val_accuracy' not in metrics
  assert 'perplexity' not in metrics
  assert metrics['val_loss'] > 0
  assert metrics['targets'] == 40
  assert {'loss_over_gd', 'gd_cosine', 'gd_difference'} <= metrics.keys()
  assert (tmp_path / 'out' / 'report.html').exists()
  assert 'accuracy' not in capsys.readouterr().out
  loaded = load(folder, 'base/0')
  assert loaded.vocabulary == VectorVocabulary(4, 1)
  assert loaded.vocabulary.size == PLACES
  batch = loaded.config.task.evaluation_batch({}, jnp.arange(40), 5)
  out = loaded.apply(vectors_BTI=batch.inputs.vectors_BTI)
  error_B = np.asarray(out.logits_BTV - batch.targets)[:, -1, 0]
  assert math.isclose(
    0.5 * np.mean(error_B**2), metrics['val_loss'], rel_tol=1e-4
  )
  with pytest.raises(ValueError, match='reads vectors_BTI, no tokens_BT'):
    loaded.apply(np.zeros((1, 5), int))
  with pytest.raises(ValueError, match='of width 4, not 3'):
    loaded.apply(vectors_BTI=np.zeros((1, 5, 3)))
  assert run(f'--evaluate={folder}:base/0', '--task.scale=2') == 0
  far = json.loads(capsys.readouterr().out)
  assert far['val_loss'] > 2 * metrics['val_loss']
  for words, said in (
    (('--evaluate', '--task.dim=2'), '--task.dim=2'),
    (('--evaluate', '--task=text'), 'predicts vectors'),
    (('--generate',), 'does not go on with a text'),
  ):
    first, *others = words
    assert run(f'{first}={folder}:base/0', *others) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


def test_data_of_other_widths_are_refused() -> None:
  with pytest.raises(DataError, match=r'--task\.dim=10'):
    Regression().load(VectorVocabulary(4, 1))


def test_the_metric_must_be_measured(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  words = *argv(), '--metric=val_accuracy', f'--workdir={tmp_path / "out"}'
  assert run(*words) == 2
  assert '--metric=val_accuracy' in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()
