"""Evaluation, and what the loop writes and returns."""

import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

from helpers.courses import (
  EVERYTHING,
  TERMS,
  TINY,
  config,
  course,
  cpus,
  data,
  evaluation,
  run_tiny,
  smoothed_cross_entropy,
  windows_seen,
)
from model import transformer
from model.core.inputs import ModelInputs
from spec.tolerance import assert_close
from train.files.durable import digest, read_intact_lines
from train.trial import Result

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
        made.architecture, made.dims(24), params, ModelInputs(tokens_BT)
      ).logits_BTV
    )
  )
  # The last window ends with the text; the others have its first 7 targets.
  for start, known in [*((n, 0) for n in range(0, 400, 16)), (393, 7)]:
    window = ids[start : start + 17].astype(np.int32)
    logits_TV = np.asarray(forward(params, window[None, :-1]))[0]
    for t in range(known, 16):
      target = int(window[t + 1])
      want += smoothed_cross_entropy(
        logits_TV[t].astype(np.float64), target, 0.0
      )
      correct += int(logits_TV[t].argmax()) == target
      count += 1
  assert count == 409
  for devices in (cpus(1), cpus(8)):
    sums = evaluation(made, params, devices)
    assert_close(sums.loss, want, TERMS)
    assert (float(sums.correct), float(sums.count)) == (correct, count)


@pytest.mark.slow
@pytest.mark.parametrize('wanted', [1, 2, 7, 8, 9, 16, 25, 26, 27, 1000])
def test_evaluation_examples_spread_evenly(
  wanted: int, monkeypatch: pytest.MonkeyPatch
) -> None:
  made = config(TINY | {'eval_examples': str(wanted)})
  seen, count = windows_seen(monkeypatch, made, cpus(1))
  # The last window shares 7 targets with the one before.
  assert count == 16 * len(seen) - 7 * (25 in seen)
  assert len(set(seen)) == len(seen) == min(wanted, 26)
  assert seen[0] == 0
  gaps = np.diff([*seen, 26])
  assert gaps.max() - gaps.min() <= 1


def test_evaluation_reads_each_window_once_on_eight_devices(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  seen, count = windows_seen(monkeypatch, config(TINY), cpus(8))
  assert (seen, count) == (list(range(26)), 409.0)


# The loop. --------------------------------------------------------------------


def _metrics(folder: pathlib.Path) -> list[dict[str, Any]]:
  return read_intact_lines(folder / 'runs' / 'tiny' / 'metrics.jsonl')


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
  told = {
    name for name, own in task.measured().items() if own.at_every_evaluation
  }
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
  again = run_tiny(tmp_path, TINY | {'steps': '11'})
  assert again.digest == finished[1].digest
  assert again.metrics == finished[1].metrics
  assert _metrics(tmp_path) == _metrics(finished[0])


def test_loop_tells_where_a_trial_diverged(tmp_path: pathlib.Path) -> None:
  flags = TINY | {'learning_rate': '1e25'}
  result = run_tiny(tmp_path, flags)
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
  assert run_tiny(tmp_path, flags).digest == result.digest
