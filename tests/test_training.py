"""The training step, its program and the loop, on tiny shapes.

One *course* is a trial without files: its program run in chunks.  Courses that
share a signature share a compiled program, here as in a table.
"""

import dataclasses
import functools
import json
import math
import pathlib
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import alone
from compilations import Compilations
from experiments.command import Command
from experiments.experiment import BASE, Experiment, Row
from experiments.plan import make_plan
from experiments.rows import Requests
from model import transformer
from model.field import FieldError, hints, split, variants
from model.parameter import Kind
from tolerance import assert_close, tolerance
from train import corpus, loop, loss
from train import program as programs
from train.config import Config
from train.delimited import Csv, Delimited, Tsv
from train.documents import document
from train.files import digest, read_lines
from train.optimizer import flat, tree
from train.parallel import Shared, to_host
from train.schema import leaves, override
from train.sentences import Sentences
from train.splits import Each, Tail
from train.step import Metrics, State, batch_of, evaluate, init_state, update
from train.table import Jsonl, Lines, Rows
from train.task import Data, Task, special_ids
from train.tasks.text import Text
from train.trial import Options, Result, Trial
from train.vocabulary import Characters
from train.windows import Windows

STEPS = 8
TINY = {
  'seq_len': '16',
  'batch_size': '8',
  'd_model': '16',
  'num_heads': '2',
  'steps': '40',
  'eval_every': '5',
  'warmup_steps': '2',
  'learning_rate': '0.01',
}
# Every traced number that the default optimiser and model read, all of them on,
# and a rule of freezing.  A clip of 0.1 is below every gradient norm here.
EVERYTHING = TINY | {
  'label_smoothing': '0.1',
  'scale': 'constant',
  'scale.value': '0.3',
  'dropout_embedding': '0.1',
  'dropout_attention': '0.2',
  'dropout_residual': '0.1',
  'feedforward.dropout': '0.3',
  'clip': '0.1',
  'freeze': '^position/|attention/out$',
}
FROZEN = {'position/table', 'blocks/attention/out'}
# Longest sum behind a loss: batch x length, each over a vocabulary.
TERMS = 8 * 16 * 24
LETTERS = ''.join(map(chr, range(97, 121)))


def config(flags: Mapping[str, str]) -> Config:
  made = override(Config(), flags)
  assert isinstance(made, Config)
  return made


@functools.cache
def data() -> Data:
  """25 validation windows of 16 tokens: not a multiple of the batch of 8."""
  draws = np.random.default_rng(0).integers(0, 24, 4100)
  # Every third token repeats the one before, so that there is much to learn.
  draws[2::3] = draws[1::3][: draws[2::3].size]
  vocabulary = Characters(LETTERS)
  ids = draws.astype(np.uint8)
  cut = 3690
  arrays = {'train': ids[:cut], 'validation': ids[cut:]}
  return Data(arrays, vocabulary, 'digest', 'draws')


@dataclasses.dataclass(frozen=True)
class Given(Tsv):
  """Rows of one to five letters, and how many there are as the label."""

  def part(self, part: str, columns: Sequence[str]) -> Rows:
    rng = np.random.default_rng(len(part))
    sizes = rng.integers(1, 6, 40 if part == 'train' else 12)
    sizes[:5] = range(1, 6)
    texts = [' '.join(rng.choice(list(LETTERS), size)) for size in sizes]
    labels = [str(size) for size in sizes]
    found = [labels if name == 'label' else texts for name in columns]
    return Rows(part, tuple(found))


@functools.cache
def data_of(task: Task) -> Data:
  """Returns data for any task, in 24 symbols beside special ones."""
  if isinstance(task, Sentences):
    return dataclasses.replace(task, data=Given(train='given')).load()
  found = data()
  if not isinstance(task, Windows):
    return task.load()
  vocabulary = Characters(LETTERS, specials=task.wanted)
  arrays = {**found.arrays, **special_ids(vocabulary)}
  return dataclasses.replace(found, arrays=arrays, vocabulary=vocabulary)


def cpus(count: int) -> Shared:
  return Shared(tuple(jax.local_devices(backend='cpu')[:count]))


@pytest.fixture(scope='session')
def accelerator() -> Shared:
  if jax.default_backend() == 'cpu':
    pytest.skip('JAX finds no accelerator')
  return Shared(tuple(jax.local_devices()))


class Course(NamedTuple):
  """Figures of each step, and the state after the last."""

  metrics: Metrics
  state: State


def course(
  made: Config,
  devices: Shared | None = None,
  stops: Sequence[int] = (STEPS,),
  params: Any = None,
  fresh: bool = False,
) -> Course:
  """Returns what a trial does when its chunks end at `stops`.

  Args:
    made: the trial.
    devices: what shares a batch; none is one CPU.
    stops: ascending steps at which chunks end.
    params: initial values; none draws them.
    fresh: compile anew, though another course has compiled this program.
  """
  devices = devices or cpus(1)
  sig, values = programs.signature(made, data_of(made.task), devices)
  make = programs.program.__wrapped__ if fresh else programs.program
  chunk = make(sig).chunk
  placed = devices.place(values), devices.place(dict(data_of(made.task).arrays))
  state = devices.place(to_host(init_state(made, sig.dims, params)))
  parts, first = [], 0
  for stop in stops:
    state, metrics = chunk(state, *placed, np.int32(stop))
    parts.append([x[: stop - first] for x in to_host(metrics)])
    first = stop
  figures = map(np.concatenate, zip(*parts, strict=True))
  return Course(Metrics(*figures), to_host(state))


def evaluation(
  made: Config, params: Any, devices: Shared | None = None
) -> loss.Sums:
  devices = devices or cpus(1)
  sig, values = programs.signature(made, data_of(made.task), devices)
  sums = programs.program(sig).evaluate(
    devices.place(params),
    devices.place(values),
    devices.place(dict(data_of(made.task).arrays)),
  )
  return to_host(sums)


def assert_same_bits(a: Any, b: Any) -> None:
  left, right = jax.tree.leaves(a), jax.tree.leaves(b)
  assert len(left) == len(right) > 0
  for x, y in zip(left, right, strict=True):
    assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def assert_same_course(a: Course, b: Course) -> None:
  """Equal within rounding; the gradient norm by itself.

  A gradient that is 8 times too big changes neither the loss of step 0 nor,
  under clipping and Adam, much of what follows.
  """
  assert_close(a.metrics.grad_norm, b.metrics.grad_norm, TERMS)
  assert_close(a.metrics.loss, b.metrics.loss, TERMS)
  np.testing.assert_array_equal(
    a.metrics.learning_rate, b.metrics.learning_rate
  )
  assert int(a.state.step) == int(b.state.step)
  for path, param in flat(a.state.params).items():
    # What Adam divides by may be small: relative to the largest parameter.
    assert_close(param, flat(b.state.params)[path], TERMS, scale=1.0)


# Shared and micro-batches. ---------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
  'flags',
  [
    pytest.param(TINY, id='plain'),
    pytest.param(EVERYTHING, id='all', marks=pytest.mark.slow),
  ],
)
def test_eight_devices_equal_one(flags: dict[str, str]) -> None:
  one, eight = course(config(flags)), course(config(flags), cpus(8))
  assert_same_course(eight, one)
  if 'clip' in flags:
    assert one.metrics.grad_norm.min() > float(flags['clip'])
  assert one.metrics.loss[-1] < one.metrics.loss[0]


@pytest.mark.slow
def test_micro_batches_equal_the_full_batch() -> None:
  parts = course(config(EVERYTHING | {'microbatches': '4'}))
  assert_same_course(parts, course(config(EVERYTHING)))


@pytest.mark.slow
def test_micro_batches_on_devices_equal_the_full_batch() -> None:
  parts = course(config(EVERYTHING | {'microbatches': '2'}), cpus(4))
  assert_same_course(parts, course(config(EVERYTHING)))


@pytest.mark.slow
def test_dropout_is_on_in_training() -> None:
  # Else the courses above would agree for the wrong reason.
  rates = [k for k in EVERYTHING if 'dropout' in k]
  changed = EVERYTHING | dict.fromkeys(rates, '0.5')
  a, b = course(config(EVERYTHING)), course(config(changed))
  assert not np.isclose(a.metrics.loss[0], b.metrics.loss[0], rtol=1e-3)


@pytest.mark.slow
def test_replicas_agree() -> None:
  devices = cpus(8)
  sig, values = programs.signature(config(EVERYTHING), data(), devices)
  state, _ = programs.program(sig).chunk(
    devices.place(to_host(init_state(config(EVERYTHING), sig.dims))),
    devices.place(values),
    devices.place(dict(data().arrays)),
    np.int32(STEPS),
  )
  # pmap trusts out_axes=None: it returns what device 0 holds.
  for leaf in jax.tree.leaves(state):
    copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
    assert len(copies) == 8
    for copy in copies[1:]:
      assert_same_bits(copy, copies[0])


# Compilation. -----------------------------------------------------------------


def _calls(
  make: Callable[[], programs.Program], devices: Shared, seed: int
) -> int:
  """Calls a program with chunks of five lengths; returns the last step."""
  made = config(TINY | {'seed': str(seed), 'learning_rate': f'0.0{seed + 1}'})
  sig, values = programs.signature(made, data(), devices)
  state = devices.place(to_host(init_state(made, sig.dims)))
  placed = devices.place(values), devices.place(dict(data().arrays))
  chunk = make().chunk
  for stop in (0, 1, 2, 5, 5, 12):
    state, metrics = chunk(state, *placed, np.int32(stop))
    to_host(metrics)
  return int(to_host(state.step))


@pytest.mark.slow
@pytest.mark.parametrize('count', [1, 8])
def test_one_compilation_for_all_chunks_and_numbers(
  count: int, compiled: Compilations
) -> None:
  devices = cpus(count)
  sig, _ = programs.signature(config(TINY), data(), devices)
  # A program of its own: another test may have compiled the shared one.
  own = programs.program.__wrapped__(sig)
  init_state(config(TINY), sig.dims)  # compiles what draws the parameters
  compiled.listener.reset_mock()
  assert _calls(lambda: own, devices, seed=0) == 12
  assert len(compiled.names) == 1, compiled.names
  assert _calls(lambda: own, devices, seed=1) == 12
  assert len(compiled.names) == 1, compiled.names


def test_numbers_share_a_program() -> None:
  base, _ = programs.signature(config(EVERYTHING), data(), cpus(1))
  others = {
    path: effect.other
    for path, effect in EFFECTS.items()
    if path in split(config(EVERYTHING))[1]
  }
  assert {'seed', 'learning_rate', 'dropout_attention', 'clip'} <= set(others)
  for path, other in others.items():
    sig, values = programs.signature(
      config(EVERYTHING | {path: other}), data(), cpus(1)
    )
    assert sig == base, path
    assert programs.program(sig) is programs.program(base)
    assert values[path].dtype in (np.int32, np.float32)


# Bits. ------------------------------------------------------------------------


def test_chunk_length_does_not_change_a_bit() -> None:
  whole = course(config(TINY))
  assert_same_bits(course(config(TINY), stops=range(1, STEPS + 1)), whole)
  assert_same_bits(course(config(TINY), stops=(3, 3, 7, STEPS)), whole)


def test_same_seed_same_bits() -> None:
  first = course(config(EVERYTHING))
  assert_same_bits(course(config(EVERYTHING), fresh=True), first)
  other = course(config(EVERYTHING | {'seed': '1'}))
  assert digest(other.state.params) != digest(first.state.params)
  assert other.metrics.loss[0] != first.metrics.loss[0]


# On an accelerator: ABLAX_TEST_PLATFORM=cuda,cpu pytest -m gpu. ---------------


@pytest.mark.gpu
@pytest.mark.parametrize('flags', [TINY, EVERYTHING], ids=['plain', 'all'])
def test_accelerators_equal_a_cpu(
  flags: dict[str, str], accelerator: Shared
) -> None:
  found = course(config(flags | {'batch_size': '16'}), accelerator)
  # Products on an accelerator may round to 11 bits (TF32).
  known = course(config(flags | {'batch_size': '16'}))
  near = tolerance(jnp.float16, 16)
  np.testing.assert_allclose(found.metrics.loss, known.metrics.loss, near)
  np.testing.assert_allclose(
    found.metrics.grad_norm, known.metrics.grad_norm, 8 * near
  )


@pytest.mark.gpu
def test_accelerator_chunk_length_and_seed_keep_every_bit(
  accelerator: Shared,
) -> None:
  devices = Shared(accelerator.devices[:1])
  whole = course(config(EVERYTHING), devices)
  steps = range(1, STEPS + 1)
  assert_same_bits(course(config(EVERYTHING), devices, stops=steps), whole)
  assert_same_bits(course(config(EVERYTHING), devices, fresh=True), whole)


@pytest.mark.gpu
def test_accelerator_compiles_once(
  accelerator: Shared, compiled: Compilations
) -> None:
  sig, _ = programs.signature(config(TINY), data(), accelerator)
  own = programs.program.__wrapped__(sig)
  init_state(config(TINY), sig.dims)
  compiled.listener.reset_mock()
  for seed in (0, 1):
    assert _calls(lambda: own, accelerator, seed) == 12
  assert len(compiled.names) == 1, compiled.names


@pytest.mark.gpu
def test_bfloat16_trains_like_float32(accelerator: Shared) -> None:
  devices = Shared(accelerator.devices[:1])
  assert_bfloat16_is_near(devices)


@pytest.mark.slow
def test_bfloat16_trains_like_float32_on_a_cpu() -> None:
  assert_bfloat16_is_near(cpus(1))


def assert_bfloat16_is_near(devices: Shared) -> None:
  full = course(config(TINY), devices, stops=(40,))
  half = course(config(TINY | {'dtype': 'bfloat16'}), devices, stops=(40,))
  assert {x.dtype.name for x in jax.tree.leaves(half.state.params)} == {
    'float32'
  }
  near = tolerance(jnp.bfloat16, 16)
  np.testing.assert_allclose(half.metrics.loss, full.metrics.loss, near)
  assert not np.array_equal(half.metrics.loss, full.metrics.loss)
  assert full.metrics.loss[-1] < (1 - near) * full.metrics.loss[0]


# Loss. ------------------------------------------------------------------------


def _smoothed(
  logits_V: np.ndarray, target: int, label_smoothing: float
) -> float:
  """Returns -sum_v q(v) log p(v) in float64, by loops."""
  size = len(logits_V)
  total = math.fsum(math.exp(x - logits_V.max()) for x in logits_V)
  out = 0.0
  for v in range(size):
    log_p = logits_V[v] - logits_V.max() - math.log(total)
    q = (1 - label_smoothing) * (v == target) + label_smoothing / size
    out -= q * log_p
  return out


@pytest.mark.parametrize('rate', [0.0, 0.1, 1.0])
@pytest.mark.parametrize('traced', [False, True])
def test_cross_entropy_equals_loops(rate: float, traced: bool) -> None:
  draws = np.random.default_rng(0)
  logits_BTV = 3 * draws.normal(size=(2, 3, 5)).astype(np.float32)
  targets_BT = draws.integers(0, 5, (2, 3))
  weights_BT = np.array([[1.0, 0.0, 0.5], [1.0, 1.0, 0.0]], np.float32)
  want = want_correct = 0.0
  for b in range(2):
    for t in range(3):
      target = int(targets_BT[b, t])
      own = _smoothed(logits_BTV[b, t].astype(np.float64), target, rate)
      want += weights_BT[b, t] * own
      hit = int(logits_BTV[b, t].argmax()) == target
      want_correct += weights_BT[b, t] * hit
  smoothing: Any = jnp.float32(rate) if traced else rate
  sums = loss.cross_entropy(
    jnp.asarray(logits_BTV),
    jnp.asarray(targets_BT),
    jnp.asarray(weights_BT),
    smoothing,
  )
  assert_close(sums.loss, want, 2 * 3 * 5)
  assert float(sums.correct) == want_correct
  assert float(sums.count) == 3.5


@pytest.mark.slow
def test_label_smoothing_trains_but_does_not_evaluate() -> None:
  params = course(config(EVERYTHING)).state.params
  smooth = config(EVERYTHING | {'label_smoothing': '0.9'})
  assert_same_bits(
    evaluation(smooth, params), evaluation(config(EVERYTHING), params)
  )
  a, b = course(smooth, stops=(1,)), course(config(EVERYTHING), stops=(1,))
  assert a.metrics.loss[0] != b.metrics.loss[0]


# The update. ------------------------------------------------------------------


def _table(made: Config) -> Mapping[str, Any]:
  return made.architecture.parameter_table(made.dims(24))


def _moves(
  made: Config, params: Any, grads: Sequence[Any]
) -> list[dict[str, np.ndarray]]:
  """Returns the parameters after each update, by path."""
  transform = made.optimization.transform(_table(made), jnp.int32(made.steps))

  @jax.jit
  def move(params: Any, state: Any, grad: Any) -> Any:
    updates, state = transform.update(grad, state, params)
    return optax.apply_updates(params, updates), state

  state, out = transform.init(params), []
  for grad in grads:
    params, state = move(params, state, grad)
    out.append(flat(to_host(params)))
  return out


def _params(made: Config, seed: int, size: float = 1.0) -> Any:
  """Returns random values for every parameter, as a tree."""
  draws = np.random.default_rng(seed)
  return tree(
    {
      path: jnp.asarray(size * draws.normal(size=what.shape), jnp.float32)
      for path, what in _table(made).items()
    }
  )


@pytest.mark.slow
@pytest.mark.parametrize('decay', ['matrices', 'all'])
def test_decay_by_rule_at_zero_gradient(decay: str) -> None:
  made = config(
    TINY
    | {
      'use_bias': 'true',
      'decay': decay,
      'weight_decay': '0.5',
      'warmup_steps': '0',
      'freeze': '^position/',
    }
  )
  params = _params(made, 0)
  zeros = jax.tree.map(jnp.zeros_like, params)
  (moved,) = _moves(made, params, [zeros])
  plain = {Kind.SCALE, Kind.BIAS}
  kept = set()
  for path, what in _table(made).items():
    before = np.asarray(flat(params)[path])
    if path.startswith('position/') or (
      decay == 'matrices' and not what.is_matrix
    ):
      np.testing.assert_array_equal(moved[path], before)
      kept.add(path)
    else:
      assert_close(moved[path], before * (1 - 0.01 * 0.5), 1)
  assert 'embedding/token' not in kept
  biases = {p for p, what in _table(made).items() if what.init in plain}
  assert len(biases) > 4
  assert kept == {'position/table'} | (
    biases if decay == 'matrices' else set[str]()
  )


@pytest.mark.slow
@pytest.mark.parametrize('clip', [None, 1e-30, 0.7, 1e6])
def test_clip_scales_by_the_global_norm(clip: float | None) -> None:
  made = config(
    TINY
    | {
      'optimizer': 'sgd',
      'optimizer.momentum': '0',
      'weight_decay': '0',
      'warmup_steps': '0',
      'clip': 'none' if clip is None else str(clip),
    }
  )
  params, grads = _params(made, 0), _params(made, 1)
  norm = math.sqrt(sum(float((g**2).sum()) for g in flat(grads).values()))
  factor = 1.0 if clip is None else min(1.0, clip / norm)
  assert norm > 0.7
  (moved,) = _moves(made, params, [grads])
  for path, param in flat(params).items():
    step = 0.01 * factor * np.asarray(flat(grads)[path])
    assert_close(moved[path], np.asarray(param) - step, 5000, scale=4.0)
    assert (moved[path] == np.asarray(param)).all() == (clip == 1e-30)


def test_clip_bounds_the_step_of_the_program() -> None:
  one = course(config(EVERYTHING), stops=(1,))
  bigger = course(config(EVERYTHING | {'clip': '1e6'}), stops=(1,))
  # The norm reported is that before clipping.
  assert one.metrics.grad_norm[0] == bigger.metrics.grad_norm[0] > 0.1


def _adamw(made: Config, params: Any, grads: Sequence[Any]) -> dict[str, Any]:
  """Returns Loshchilov & Hutter 2019, algorithm 2, in float64."""
  out = {p: np.asarray(x, np.float64) for p, x in flat(params).items()}
  mean = dict.fromkeys(out, 0.0)
  square = dict.fromkeys(out, 0.0)
  for n, grad in enumerate(grads, 1):
    rate = _rate_by_hand(made, n - 1)
    for path, what in _table(made).items():
      g = np.asarray(flat(grad)[path], np.float64)
      mean[path] = 0.8 * mean[path] + 0.2 * g
      square[path] = 0.95 * square[path] + 0.05 * g**2
      root = np.sqrt(square[path] / (1 - 0.95**n)) + 1e-3
      step = mean[path] / (1 - 0.8**n) / root
      if what.init not in (Kind.SCALE, Kind.BIAS):
        step = step + 0.1 * out[path]
      out[path] = out[path] - rate * step
  return out


def test_adamw_equals_its_paper() -> None:
  made = config(
    TINY
    | {
      'clip': 'none',
      'optimizer.b1': '0.8',
      'optimizer.b2': '0.95',
      'optimizer.eps': '1e-3',
    }
  )
  params, grads = _params(made, 0), [_params(made, n) for n in (1, 2, 3)]
  moved = _moves(made, params, grads)[-1]
  for path, want in _adamw(made, params, grads).items():
    assert_close(moved[path], want, 4, scale=4.0)


def test_sgd_accumulates_momentum() -> None:
  made = config(
    TINY
    | {
      'clip': 'none',
      'weight_decay': '0',
      'optimizer': 'sgd',
      'optimizer.momentum': '0.5',
    }
  )
  params, grads = _params(made, 0), [_params(made, n) for n in (1, 2, 3)]
  moved = _moves(made, params, grads)[-1]
  for path, param in flat(params).items():
    want, speed = np.asarray(param, np.float64), 0.0
    for n, grad in enumerate(grads):
      speed = 0.5 * speed + np.asarray(flat(grad)[path], np.float64)
      want = want - _rate_by_hand(made, n) * speed
    assert_close(moved[path], want, 4, scale=4.0)


def test_freeze_keeps_what_it_names_and_nothing_else() -> None:
  made = config(EVERYTHING)
  start = flat(to_host(init_state(made, made.dims(24)).params))
  end = flat(course(made).state.params)
  for path, param in start.items():
    assert np.array_equal(param, end[path]) == (path in FROZEN), path
  with pytest.raises(FieldError, match='--freeze=embeding: matches no param'):
    config(TINY | {'freeze': 'embeding'})


# Schedules. -------------------------------------------------------------------


def _rate_by_hand(made: Config, step: int) -> float:
  """Returns the learning rate of a step from the formulas, in float64."""
  rules, total = made.optimization, made.steps
  warmup = rules.warmup_steps
  warm = min(1.0, (step + 1) / (warmup + 1))
  match rules.schedule.tag:
    case 'cosine':
      done = min(max((step - warmup) / max(total - warmup, 1), 0.0), 1.0)
      final = dict(vars(rules.schedule))['final']
      shape = final + (1 - final) * (1 + math.cos(math.pi * done)) / 2
    case 'constant':
      shape = 1.0
    case 'inverse_sqrt':
      shape = math.sqrt(max(warmup, 1) / max(step, warmup, 1))
    case tag:
      raise AssertionError(f'--schedule={tag} has no formula here')
  return rules.learning_rate * warm * shape


@pytest.mark.parametrize('warmup', [0, 1, 10])
@pytest.mark.parametrize(
  'tag', variants(hints(type(Config().optimization))['schedule'])
)
def test_schedule_equals_its_formula(tag: str, warmup: int) -> None:
  made = config(
    TINY
    | {'schedule': tag, 'warmup_steps': str(warmup)}
    | ({'schedule.final': '0.2'} if tag == 'cosine' else {})
  )
  total = made.steps
  steps = (0, 1, warmup - 1, warmup, warmup + 1, 25, total - 1, total, 99)
  for step in steps:
    if step >= 0:
      got = made.optimization.rate(jnp.int32(step), jnp.int32(total))
      want = _rate_by_hand(made, step)
      # A cosine near its end loses what 1 + cos cancels: relative to the peak.
      assert_close(got, want, 1, factor=16, scale=0.01)
  peak = made.optimization.rate(jnp.int32(warmup), jnp.int32(total))
  assert float(peak) == pytest.approx(0.01)
  if tag == 'cosine':
    end = made.optimization.rate(jnp.int32(total), jnp.int32(total))
    assert float(end) == pytest.approx(0.2 * 0.01)


def test_program_follows_the_schedule() -> None:
  made = config(TINY)
  want = [_rate_by_hand(made, step) for step in range(STEPS)]
  assert_close(course(made).metrics.learning_rate, np.array(want), 1, factor=16)


# Losses that are not finite. --------------------------------------------------


@pytest.mark.slow
def test_not_finite_stops_the_trial_where_it_was() -> None:
  made = config(TINY | {'learning_rate': '1e25'})
  end = course(made, stops=(3, STEPS))
  loss_X, norm_X = end.metrics.loss, end.metrics.grad_norm
  finite_X = np.isfinite(loss_X) & np.isfinite(norm_X)
  at = int(np.argmin(finite_X))
  assert 0 < at < STEPS
  assert finite_X[:at].all()
  assert int(end.state.diverged) == at
  assert int(end.state.step) == STEPS
  before = course(made, stops=(at,))
  assert int(before.state.diverged) == -1
  assert_same_bits(end.state.params, before.state.params)
  assert_same_bits(end.state.opt_state, before.state.opt_state)


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_not_finite_from_the_start_changes_nothing(bad: float) -> None:
  made = config(TINY)
  params = to_host(init_state(made, made.dims(24)).params)
  table = params['position']['table'].copy()
  table[3, 5] = bad
  params = params | {'position': {'table': table}}
  end = course(made, params=params)
  assert int(end.state.diverged) == 0
  assert_same_bits(end.state.params, params)


def test_a_gradient_alone_that_is_not_finite_stops_it_too() -> None:
  made = config(TINY)
  params = to_host(init_state(made, made.dims(24)).params)
  # Logits of 1e19 give a loss of 1e19, and squares of gradients overflow.
  params = params | {'norm_final': {'scale': np.full(16, 1e20, np.float32)}}
  end = course(made, params=params)
  assert np.isfinite(end.metrics.loss[0])
  assert not np.isfinite(end.metrics.grad_norm[0])
  assert int(end.state.diverged) == 0
  assert_same_bits(end.state.params, params)


# Evaluation. ------------------------------------------------------------------


@pytest.mark.slow
def test_evaluation_equals_a_loop_over_windows() -> None:
  made = config(EVERYTHING)
  params = course(made).state.params
  ids = data().arrays['validation']
  assert ids.size == 410
  want = correct = count = 0.0
  forward = jax.jit(
    lambda params, tokens_BT: (
      transformer.apply(
        made.architecture, made.dims(24), params, tokens_BT
      ).logits_BTV
    )
  )
  # The last window ends with the text; the others have its first 7 targets.
  for start, known in [*((n, 0) for n in range(0, 400, 16)), (393, 7)]:
    window = ids[start : start + 17].astype(np.int32)
    logits_TV = np.asarray(forward(params, window[None, :-1]))[0]
    for t in range(known, 16):
      target = int(window[t + 1])
      want += _smoothed(logits_TV[t].astype(np.float64), target, 0.0)
      correct += int(logits_TV[t].argmax()) == target
      count += 1
  assert count == 409
  for devices in (cpus(1), cpus(8)):
    sums = evaluation(made, params, devices)
    assert_close(sums.loss, want, TERMS)
    assert (float(sums.correct), float(sums.count)) == (correct, count)


def _windows_seen(
  monkeypatch: pytest.MonkeyPatch, made: Config, devices: Shared
) -> tuple[list[int], float]:
  """Returns the windows that an evaluation reads, sorted, and its tokens."""
  seen: list[int] = []

  def record(ids_B: np.ndarray, weights_BT: np.ndarray) -> None:
    for number, weights_T in zip(ids_B, weights_BT, strict=True):
      assert 0 <= number < 26
      if weights_T.any():
        seen.append(int(number))

  def counted(
    made: Config, dims: object, params: object, batch: Any, arrays: object
  ) -> loss.Sums:
    del made, dims, params, arrays
    jax.debug.callback(record, batch.ids_B, batch.weights_BT)
    return loss.Sums(jnp.float32(0), jnp.float32(0), batch.weights_BT.sum())

  monkeypatch.setattr(programs, 'evaluate', counted)
  sig, values = programs.signature(made, data(), devices)
  sums = programs.program.__wrapped__(sig).evaluate(
    devices.place({}),
    devices.place(values),
    devices.place(dict(data().arrays)),
  )
  count = float(to_host(sums.count))
  jax.effects_barrier()
  return sorted(seen), count


@pytest.mark.slow
@pytest.mark.parametrize('wanted', [1, 2, 7, 8, 9, 16, 25, 26, 27, 1000])
def test_evaluation_examples_spread_evenly(
  wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
  made = config(TINY | {'eval_examples': str(wanted)})
  seen, count = _windows_seen(monkeypatch, made, cpus(1))
  # The last window shares 7 targets with the one before.
  assert count == 16 * len(seen) - 7 * (25 in seen)
  assert len(set(seen)) == len(seen) == min(wanted, 26)
  assert seen[0] == 0
  gaps = np.diff([*seen, 26])
  assert gaps.max() - gaps.min() <= 1


def test_evaluation_reads_each_window_once_on_eight_devices(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  seen, count = _windows_seen(monkeypatch, config(TINY), cpus(8))
  assert (seen, count) == (list(range(26)), 409.0)


# The loop. --------------------------------------------------------------------


def _run(folder: pathlib.Path, flags: Mapping[str, str]) -> Result:
  trial = Trial('tiny', config(flags), folder / 'runs' / 'tiny', data())
  return alone.run(trial, Options(log_every=3), cpus(1))


@pytest.fixture(scope='module')
def finished(
  tmp_path_factory: pytest.TempPathFactory,
) -> tuple[pathlib.Path, Result]:
  folder = tmp_path_factory.mktemp('loop')
  (folder / 'text.txt').write_text(LETTERS * 20)
  return folder, _run(folder, TINY | {'steps': '11'})


def _metrics(folder: pathlib.Path) -> list[dict[str, Any]]:
  return read_lines(folder / 'runs' / 'tiny' / 'metrics.jsonl')


@pytest.mark.slow
def test_metrics_lines_are_those_of_the_steps(
  finished: tuple[pathlib.Path, Result],
) -> None:
  folder, result = finished
  lines = _metrics(folder)
  trained = [line for line in lines if 'loss' in line]
  evaluated = [line for line in lines if 'val_loss' in line]
  assert len(trained) + len(evaluated) == len(lines)
  assert [line['step'] for line in trained] == [3, 6, 9]
  assert [line['step'] for line in evaluated] == [5, 10, 11]
  known = course(config(TINY | {'steps': '11'}), stops=(11,))
  for line in trained:
    for name, values in known.metrics._asdict().items():
      assert line[name] == float(values[line['step'] - 1])
  assert result.metrics['train_loss'] == float(known.metrics.loss[-1])
  assert result.metrics['val_loss'] == evaluated[-1]['val_loss']
  best = min(evaluated, key=lambda line: line['val_loss'])
  assert result.metrics['best_val_loss'] == best['val_loss']
  assert result.metrics['best_step'] == best['step']
  task = type(config(TINY).task)
  # The ids of this data stand for no text, so that they have no bytes.
  own = {*task.measured(), 'best_step', 'targets'} - {'bits_per_byte'}
  assert set(result.metrics) == own
  told = {name for name, own in task.measured().items() if own.on_the_way}
  assert told - {'bits_per_byte'} == set(evaluated[0]) - {'step'}


@pytest.mark.slow
def test_result_is_that_of_the_steps(
  finished: tuple[pathlib.Path, Result],
) -> None:
  _, result = finished
  known = course(config(TINY | {'steps': '11'}), stops=(11,))
  assert (result.status, result.steps) == ('ok', 11)
  assert result.tokens == 11 * 8 * 16
  assert result.digest == digest(known.state.params)
  sums = evaluation(config(TINY), known.state.params)
  assert result.metrics['val_loss'] == float(sums.loss / sums.count)
  assert result.metrics['val_accuracy'] == float(sums.correct / sums.count)
  sizes = [p.size for p in jax.tree.leaves(known.state.params)]
  assert result.parameters == sum(sizes)


def test_loop_twice_gives_the_same_numbers(
  finished: tuple[pathlib.Path, Result], tmp_path: pathlib.Path
) -> None:
  again = _run(tmp_path, TINY | {'steps': '11'})
  assert again.digest == finished[1].digest
  assert again.metrics == finished[1].metrics
  assert _metrics(tmp_path) == _metrics(finished[0])


def test_loop_tells_where_a_trial_diverged(tmp_path: pathlib.Path) -> None:
  flags = TINY | {'learning_rate': '1e25'}
  result = _run(tmp_path, flags)
  at = result.metrics['diverged_at']
  assert isinstance(at, int)
  assert 0 < at < 8
  assert (result.status, result.steps) == ('diverged', at)
  assert result.digest == digest(
    course(config(flags), stops=(at,)).state.params
  )
  last = _metrics(tmp_path)[-1]
  assert last['step'] == at + 1
  assert last['loss'] is None or last['grad_norm'] is None
  assert result.metrics['train_loss'] == last['loss']
  # JSON without NaN, and again: a trial that diverged is at its end.
  json.dumps(result._asdict(), allow_nan=False)
  assert _run(tmp_path, flags).digest == result.digest


# Every flag has an effect. ----------------------------------------------------


class Place(NamedTuple):
  """Where an effect is looked for."""

  finished: pathlib.Path  # a workdir with the trial 'tiny'
  empty: pathlib.Path
  monkeypatch: pytest.MonkeyPatch


@dataclasses.dataclass(frozen=True)
class Effect:
  """Another value of a flag, where it applies, and what then changes.

  Attributes:
    other: a value that differs from that in the base; {finished} is a workdir.
    base: flags under which it applies; the choice that owns it goes first.
    seen: what changes; none is the program or, where two values share one,
      what it computes.
  """

  other: str
  base: Mapping[str, str] = dataclasses.field(default_factory=dict)
  seen: Callable[[Config, Place], object] | None = None


def _data_digest(made: Config, place: Place) -> object:
  place.monkeypatch.setattr(corpus, 'shakespeare', lambda: TO_BE)
  return made.task.load().digest


def _held(made: Config, place: Place) -> object:
  """Returns what is judged: of a text, or of rows that are made up."""
  task = made.task
  if not isinstance(task, Sentences):
    return task.load().arrays['validation'].tobytes()
  if isinstance(task.split, Each):  # rows have no end
    task = dataclasses.replace(task, split=Tail())
  path = place.empty / 'rows.tsv'
  path.write_text(''.join(f'{"go " * n}on\t{"xy"[n % 2]}\n' for n in range(40)))
  data = dataclasses.replace(task, data=Tsv(train=str(path))).load()
  return repr(data.held)


def _table_digest(made: Config, place: Place) -> object:
  """Returns the digest of a table whose texts are what it was asked for."""
  table, columns = made.task.data, ('text',)
  if isinstance(made.task, Sentences):
    columns = made.task.columns
  for name in {'train', 'name'} & set(hints(type(table))):
    if vars(table)[name] is None:
      table = dataclasses.replace(table, **{name: 'given'})

  def four(*names: object) -> list[dict[str, str]]:
    first = ' '.join(map(str, [table.tag, *names]))
    return [
      dict.fromkeys([*columns, 'other'], x) | {columns[0]: f'{first} {n}'}
      for n, x in enumerate('xyxy')
    ]

  def read_file(path: pathlib.Path) -> str:
    if isinstance(table, Jsonl):
      return '\n'.join(map(json.dumps, four(path)))
    if isinstance(table, Lines):
      return ''.join(f'{path} {n}\n' for n in range(4))
    assert isinstance(table, Delimited)
    names = [*columns, *(['other'] if table.keys else [])]
    rows = [names, *[[f'"{row[c]}"' for c in names] for row in four(path)]]
    return '\n'.join(('\t,'[isinstance(table, Csv)]).join(row) for row in rows)

  class Found(list[Any]):
    features = types.MappingProxyType({})

  def builder(name: str, data_dir: str | None) -> object:
    return types.SimpleNamespace(
      info=Found,
      download_and_prepare=lambda file_format: file_format,
      as_data_source=lambda split: Found(four(name, data_dir, split)),
    )

  def load_dataset(name: str, config: str | None, split: str) -> Found:
    return Found(four(name, config, split))

  for module in ('table', 'delimited'):
    place.monkeypatch.setattr(f'train.{module}.read_file', read_file)
  place.monkeypatch.setattr(
    'train.multi30k.fetch', lambda remote: f'{remote.name}\n' * 3
  )
  hugging = types.SimpleNamespace(load_dataset=load_dataset, ClassLabel=int)
  features = types.SimpleNamespace(ClassLabel=int)
  tfds = types.SimpleNamespace(builder=builder, features=features)
  place.monkeypatch.setitem(sys.modules, 'datasets', hugging)
  place.monkeypatch.setitem(sys.modules, 'tensorflow_datasets', tfds)
  return dataclasses.replace(made.task, data=table).load().digest


def _vocabulary(made: Config, place: Place) -> object:
  del place
  task = made.task
  if isinstance(task, Sentences):
    task = dataclasses.replace(task, data=Given(train='given'))
  return task.load().vocabulary


def _judged(made: Config, place: Place) -> object:
  """Returns what the search is given, and what was written.

  Of texts in which a word is in two pieces.
  """
  asked = []

  def best(*arguments: Any) -> np.ndarray:
    asked.append(arguments[2])  # the rules
    return np.full((len(arguments[5].tokens_BS), 3), arguments[2].end)

  place.monkeypatch.setattr('train.translate._best', best)
  found = data_of(made.task)
  held = tuple([f'{text} x@@ y' for text in texts] for texts in found.held)
  found = dataclasses.replace(found, held=held)
  dims = made.sizes(found.vocabulary)
  judged = made.task.judge(made.architecture, dims, {}, found)
  return asked, judged.lines


def _evaluation_steps(made: Config, place: Place) -> object:
  """Returns when the loop evaluates; the program has no part in it."""
  sig, _ = programs.signature(config(TINY), data(), cpus(1))
  with place.monkeypatch.context() as patch:
    patch.setattr(loop, 'program', lambda _: programs.program(sig))
    folder = place.empty / str(made.eval_every)
    alone.run(Trial('tiny', made, folder, data()), Options(), cpus(1))
  lines = read_lines(folder / 'metrics.jsonl')
  return [line['step'] for line in lines if 'val_loss' in line]


def _evaluation_examples(made: Config, place: Place) -> object:
  return _windows_seen(place.monkeypatch, made, cpus(1))


def _initial(made: Config, place: Place) -> object:
  """Returns the program that draws the initial parameters."""
  del place
  return jax.jit(lambda: init_state(made, made.dims(24))).lower().as_text()


def _start(made: Config, place: Place) -> object:
  """Returns the parameters that the plan of a command begins with."""
  text = Text(path=str(place.finished / 'text.txt'))
  made = dataclasses.replace(made, task=text)
  experiment = Experiment(
    'x', 'x', 'x', 'x', 'own', 'x', made, (Row(BASE, {}),), 1, {}
  )
  command = Command(workdir=str(place.empty))
  plan = make_plan(experiment, made, command, Options(), Requests())
  (planned,) = plan.trials
  start = planned.trial.initial
  return digest(init_state(made, made.dims(24), start).params)


def _moved(made: Config, place: Place) -> object:
  del place
  params, grads = _params(made, 0), [_params(made, n) for n in (1, 2)]
  return digest(tree(_moves(made, params, grads)[-1]))


def _evaluated(made: Config, place: Place) -> object:
  """Returns the parameters that are evaluated; those trained are the same."""
  del place
  return digest(course(made, stops=(7,)).state.evaluated)


TO_BE = corpus.Corpus('x', [document('x', 'to be')])
EFFECTS = {
  'task': Effect('mlm'),
  'task.path': Effect('{finished}/text.txt', seen=_data_digest),
  'task.corpus': Effect('shakespeare', seen=_data_digest),
  'task.split': Effect('each', seen=_held),
  'task.split.seed': Effect('1', seen=_held),
  'task.split.path': Effect(
    '{finished}/text.txt', {'task.split.path': __file__}, _held
  ),
  'task.data': Effect('tsv', {'task.data': 'jsonl'}, _table_digest),
  'task.data.suffixes': Effect('b,a', seen=_table_digest),
  'task.data.source': Effect('de', seen=_table_digest),
  'task.data.held': Effect('test', seen=_table_digest),
  'task.data.train': Effect('other', seen=_table_digest),
  'task.data.validation': Effect('other', seen=_table_digest),
  'task.data.header': Effect(
    'true', {'task.data.header': 'false'}, _table_digest
  ),
  'task.data.quotes': Effect('false', seen=_table_digest),
  'task.data.keys': Effect('other', seen=_table_digest),
  'task.data.name': Effect('other', seen=_table_digest),
  'task.data.config': Effect('other', seen=_table_digest),
  'task.data.data_dir': Effect('other', seen=_table_digest),
  'task.tokenizer': Effect('byte', {'task.tokenizer': 'char'}, _vocabulary),
  'task.tokenizer.vocab_size': Effect('1000', seen=_vocabulary),
  'task.tokenizer.min_count': Effect('9', seen=_vocabulary),
  'task.tokenizer.lowercase': Effect(
    'true', {'task.tokenizer.lowercase': 'false'}, _vocabulary
  ),
  'task.beam': Effect('2', seen=_judged),
  'task.buckets': Effect('3', {'task.buckets': '2'}),
  'task.ends': Effect('true'),
  'task.reserve_mask': Effect('true'),
  'task.judged': Effect('2', seen=_judged),
  'task.length_penalty': Effect('0.2', {'task.beam': '2'}, seen=_judged),
  'task.pretokenized': Effect('true', seen=_judged),
  'task.symbols': Effect('7'),
  'task.rate': Effect('0.5'),
  'task.masked': Effect('0.5'),
  'task.random': Effect('0.2'),
  'seq_len': Effect('8'),
  'batch_size': Effect('4'),
  'microbatches': Effect('2'),
  'steps': Effect('20'),
  'label_smoothing': Effect('0.2'),
  'seed': Effect('3'),
  'eval_every': Effect('2', {'steps': '4'}, _evaluation_steps),
  'eval_examples': Effect('3', seen=_evaluation_examples),
  'init_from': Effect('{finished}:tiny', seen=_start),
  'model': Effect('encoder', {'task': 'mlm', 'model': 'decoder'}),
  'model.pooling': Effect('cls'),
  'model.encoder_layers': Effect('3'),
  'model.self_attention': Effect('false'),
  'model.cross_attention': Effect('false'),
  'num_layers': Effect('3'),
  'd_model': Effect('32'),
  'num_heads': Effect('4'),
  'head_dim': Effect('4'),
  'num_kv_heads': Effect('1'),
  'projections': Effect('raw'),
  'projections.kind': Effect('mlp'),
  'projections.latent': Effect('3'),
  'projections.rope_dim': Effect('0'),
  'projections.query_latent': Effect('3'),
  'qk_norm': Effect('rms'),
  'qk_norm.eps': Effect('0.1'),
  'qk_norm.start': Effect('3'),
  'score': Effect('additive'),
  'score.places': Effect('both'),
  'score.std': Effect('2'),
  'scale': Effect('none'),
  'scale.value': Effect('0.7'),
  'scale.learned': Effect('true'),
  'logit_cap': Effect('0.5', {'logit_cap': '0.1'}),
  'normalizer': Effect('none'),
  'normalizer.k': Effect('3', {'normalizer.k': '2'}),
  'mask': Effect('causal,exclude_self'),
  'mask.window': Effect('3', {'mask': 'causal,window', 'mask.window': '5'}),
  'mask.prefix': Effect('3'),
  'position': Effect('rope'),
  'position.theta': Effect('100'),
  'position.buckets': Effect('8'),
  'position.max_distance': Effect('40'),
  'position.bidirectional': Effect('true'),
  'output': Effect('gate,value_residual'),
  'backend': Effect('chunked'),
  'backend.chunk': Effect('3'),
  'norm': Effect('rmsnorm'),
  'norm.eps': Effect('0.1'),
  'residual': Effect('post'),
  'feedforward': Effect('none'),
  'feedforward.activation': Effect('relu'),
  'feedforward.width': Effect('24'),
  'feedforward.dropout': Effect('0.7'),
  'scale_embeddings': Effect('true'),
  'tie_embeddings': Effect('false'),
  'use_bias': Effect('true'),
  'init': Effect('xavier', seen=_initial),
  'init.std': Effect('0.1', seen=_initial),
  'init.gain': Effect('0.5', seen=_initial),
  'dropout_embedding': Effect('0.6'),
  'dropout_attention': Effect('0.6'),
  'dropout_residual': Effect('0.6'),
  'dtype': Effect('bfloat16'),
  'remat': Effect('true'),
  'scan_layers': Effect('false'),
  'learning_rate': Effect('0.02'),
  'warmup_steps': Effect('4'),
  'schedule': Effect('constant'),
  'schedule.final': Effect('0.7'),
  'optimizer': Effect('sgd'),
  'optimizer.b1': Effect('0.5'),
  'optimizer.b2': Effect('0.5'),
  'optimizer.eps': Effect('0.1'),
  'optimizer.momentum': Effect('0.5', seen=_moved),
  'weight_decay': Effect('0.5'),
  'decay': Effect('all'),
  'clip': Effect('0.05'),
  'freeze': Effect('^embedding/'),
  'average': Effect('ema'),
  'average.decay': Effect('0.5', seen=_evaluated),
  'average.count': Effect('5', {'steps': '7', 'eval_every': '1'}, _evaluated),
}


def test_every_flag_has_an_entry() -> None:
  assert set(EFFECTS) == set(leaves(Config)), 'EFFECTS must list every flag'


@functools.cache
def _lowered(made: Config) -> tuple[str, str]:
  """Returns the table of parameters, and the step and evaluation as text."""
  found = data_of(made.task)
  dims = made.sizes(found.vocabulary)
  table = made.architecture.parameter_table(dims)
  shapes = {
    path: jax.ShapeDtypeStruct(
      (depth, *what.shape) if depth else what.shape, jnp.float32
    )
    for path, what in table.items()
    for depth in [made.architecture.depth(path)]
  }

  def whole(params: Any, arrays: Mapping[str, jax.Array]) -> Any:
    state = init_state(made, dims, params)
    bucket = made.task.num_buckets - 1
    batch = batch_of(made, arrays, state.step, bucket)
    new, metrics = update(made, dims, state, batch, None)
    held = made.task.evaluation_batch(arrays, jnp.arange(2), made.seq_len)
    return new, metrics, evaluate(made, dims, new.params, held, arrays)

  text = jax.jit(whole).lower(tree(shapes), dict(found.arrays)).as_text()
  return str(table), text


# What else a choice needs.
NEEDED: Mapping[str, Mapping[str, str]] = {
  'task=mlm': {'model': 'encoder'},
  'task=translation': {'model': 'encoder_decoder'},
  'task=classification': {'model': 'classifier'},
  'task=most_frequent': {'model': 'classifier'},
  'task.data=multi30k': {'task': 'translation', 'model': 'encoder_decoder'},
  'task.data=multi30k_bpe': {'task': 'translation', 'model': 'encoder_decoder'},
  'task.data=multi30k_languages': {
    'task': 'classification',
    'model': 'classifier',
  },
  'task.data=lines': {'task': 'translation', 'model': 'encoder_decoder'},
  'model=encoder': {'task': 'mlm'},
  'model=encoder_decoder': {'task': 'translation'},
  'model=classifier': {'task': 'classification'},
}


OWNED = [
  (flag, owner)
  for flag, leaf in leaves(Config).items()
  for owner in leaf.owners
]


@pytest.mark.slow
@pytest.mark.parametrize(
  ('flag', 'owner'), OWNED, ids=[f'{f} {o}'.strip() for f, o in OWNED]
)
def test_flag_has_an_effect(
  flag: str,
  owner: str,
  finished: tuple[pathlib.Path, Result],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  effect, leaf = EFFECTS[flag], leaves(Config)[flag]
  if list(variants(leaf.hint)) == [effect.other]:
    return  # a choice of one
  meta, _ = leaf.owners[owner]
  choice, _, tag = owner.partition('=')
  base = EVERYTHING if meta.traced else TINY
  base = base | dict(NEEDED.get(owner, {}))
  base = base | ({choice: tag} if owner else {}) | dict(effect.base)
  other = effect.other.format(finished=finished[0])
  one, two = config(base), config(base | {flag: other})
  assert one != two, 'the entry gives the value of the base'
  if effect.seen is not None:
    place = Place(finished[0], tmp_path, monkeypatch)
    assert effect.seen(one, place) != effect.seen(two, place)
  elif split(one)[0] != split(two)[0]:
    assert _lowered(one) != _lowered(two)
  else:
    a, b = course(one), course(two)
    assert digest(a.state.params) != digest(b.state.params)


def test_what_has_no_effect_is_seen_to_have_none() -> None:
  # Else the test above could pass on the address of a function.
  text = _lowered(config(TINY))
  assert _lowered(config(TINY | {'eval_every': '7'})) == text
