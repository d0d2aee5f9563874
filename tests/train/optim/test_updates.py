"""The loss, the update and the learning rate, against their formulas."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.courses import (
  EVERYTHING,
  FROZEN,
  STEPS,
  TINY,
  assert_same_bits,
  config,
  course,
  evaluation,
  moves_of,
  random_params,
  smoothed_cross_entropy,
  table_of,
)
from model.core.field import FieldError, field_types, variants
from model.core.parameter import ParamRole
from spec.tolerance import assert_close
from train.config.config import Config
from train.core.trees import flatten
from train.devices.parallel import to_host
from train.optim import objective
from train.optim.objective import CrossEntropy
from train.programs.state import init_state

# Loss. ------------------------------------------------------------------------


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
      own = smoothed_cross_entropy(
        logits_BTV[b, t].astype(np.float64), target, rate
      )
      want += weights_BT[b, t] * own
      hit = int(logits_BTV[b, t].argmax()) == target
      want_correct += weights_BT[b, t] * hit
  smoothing: Any = jnp.float32(rate) if traced else rate
  sums = objective.training_sums(
    (CrossEntropy(),),
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
  params = random_params(made, 0)
  zeros = jax.tree.map(jnp.zeros_like, params)
  (moved,) = moves_of(made, params, [zeros])
  plain = {ParamRole.SCALE, ParamRole.BIAS}
  kept = set()
  for path, what in table_of(made).items():
    before = np.asarray(flatten(params)[path])
    if path.startswith('position/') or (
      decay == 'matrices' and not what.is_matrix
    ):
      np.testing.assert_array_equal(moved[path], before)
      kept.add(path)
    else:
      assert_close(moved[path], before * (1 - 0.01 * 0.5), 1)
  assert 'embedding/token' not in kept
  biases = {p for p, what in table_of(made).items() if what.role in plain}
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
  params, grads = random_params(made, 0), random_params(made, 1)
  norm = math.sqrt(sum(float((g**2).sum()) for g in flatten(grads).values()))
  factor = 1.0 if clip is None else min(1.0, clip / norm)
  assert norm > 0.7
  (moved,) = moves_of(made, params, [grads])
  for path, param in flatten(params).items():
    step = 0.01 * factor * np.asarray(flatten(grads)[path])
    assert_close(moved[path], np.asarray(param) - step, 5000, scale=4.0)
    assert (moved[path] == np.asarray(param)).all() == (clip == 1e-30)


@pytest.mark.slow
def test_clip_bounds_the_step_of_the_program() -> None:
  one = course(config(EVERYTHING), stops=(1,))
  bigger = course(config(EVERYTHING | {'clip': '1e6'}), stops=(1,))
  # The norm reported is that before clipping.
  assert one.metrics.grad_norm[0] == bigger.metrics.grad_norm[0] > 0.1


def _adamw(made: Config, params: Any, grads: Sequence[Any]) -> dict[str, Any]:
  """Returns Loshchilov & Hutter 2019, algorithm 2, in float64."""
  out = {p: np.asarray(x, np.float64) for p, x in flatten(params).items()}
  mean = dict.fromkeys(out, 0.0)
  square = dict.fromkeys(out, 0.0)
  for n, grad in enumerate(grads, 1):
    rate = _rate_by_hand(made, n - 1)
    for path, what in table_of(made).items():
      g = np.asarray(flatten(grad)[path], np.float64)
      mean[path] = 0.8 * mean[path] + 0.2 * g
      square[path] = 0.95 * square[path] + 0.05 * g**2
      root = np.sqrt(square[path] / (1 - 0.95**n)) + 1e-3
      step = mean[path] / (1 - 0.8**n) / root
      if what.role not in (ParamRole.SCALE, ParamRole.BIAS):
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
  params, grads = (
    random_params(made, 0),
    [random_params(made, n) for n in (1, 2, 3)],
  )
  moved = moves_of(made, params, grads)[-1]
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
  params, grads = (
    random_params(made, 0),
    [random_params(made, n) for n in (1, 2, 3)],
  )
  moved = moves_of(made, params, grads)[-1]
  for path, param in flatten(params).items():
    want, speed = np.asarray(param, np.float64), 0.0
    for n, grad in enumerate(grads):
      speed = 0.5 * speed + np.asarray(flatten(grad)[path], np.float64)
      want = want - _rate_by_hand(made, n) * speed
    assert_close(moved[path], want, 4, scale=4.0)


def test_freeze_keeps_what_it_names_and_nothing_else() -> None:
  made = config(EVERYTHING)
  start = flatten(to_host(init_state(made, made.dims(24)).params))
  end = flatten(course(made).state.params)
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
  'tag', variants(field_types(type(Config().optimization))['schedule'])
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
