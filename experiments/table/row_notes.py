"""The notes on a row below its table."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.messages import formats
from experiments.statistics.decision import ROUNDING
from experiments.statistics.verdicts import Comparison
from experiments.table.extent import evaluation_count, finite_values
from train.core.metric import VAL_LOSS
from train.evaluation import TARGETS
from train.files.records import JsonRecord

_TRAIN_LOSS = 'train_loss'
_MIN_LOSS = math.log(2) * (1 - ROUNDING)  # nats of a guess between two classes


def difference_notes(
  compared: Comparison | None,
  seeds: int,
  shared: Sequence[Sequence[JsonRecord]] | None,
  metric: str,
) -> list[str]:
  """Returns notes on a difference that does not cover all seeds or targets.

  Args:
    compared: comparison with the base; None for the base itself.
    seeds: number of the row's successful seeds.
    shared: trials of the base and of the row over their common positions; None
      if these are all.
    metric: the metric that is compared.
  """
  notes = []
  if compared and 0 < compared.pairs < seeds:
    notes.append(f'difference over the {compared.pairs} seeds of both')
  if shared is not None:
    notes.append(_compared_on(shared, metric))
  return notes


def _compared_on(shared: Sequence[Sequence[JsonRecord]], metric: str) -> str:
  """Returns the note on the common targets of a row and the base.

  Args:
    shared: trials of the base and of the row over their common positions.
    metric: the metric that is compared.
  """
  base, row = (
    formats.format_number(_mean(trials, metric)) for trials in shared
  )
  count = formats.format_count(evaluation_count(shared[1], TARGETS))
  return (
    f'difference over the {count} targets that both predict: base {base}, '
    f'here {row}'
  )


def _mean(trials: Sequence[JsonRecord], metric: str) -> float | None:
  found = list(finite_values(trials, metric).values())
  return float(np.mean(found)) if found else None


def seed_notes(
  trials: Sequence[JsonRecord], values: Mapping[int, float], metric: str
) -> list[str]:
  """Returns notes on failed, diverged and otherwise suspect seeds.

  A mean over the successful seeds alone would hide them.
  """
  failed, diverged, unmeasured, dead = [], [], [], []
  marked: dict[str, list[str]] = {}
  for trial in trials:
    seed = f'seed {trial["seed"]}'
    if mark := trial.get('mark'):
      marked.setdefault(mark, []).append(seed)
    if trial['status'] == 'failed':
      error = trial.get('error', 'no message')
      failed.append(f'{seed}: {" ".join(error.split())}')
    elif trial['status'] == 'diverged':
      step = trial['metrics'].get('diverged_at')
      at = '' if step is None else f' at step {step}'
      diverged.append(seed + at)
    elif trial['seed'] not in values:
      unmeasured.append(seed)
    if trial['status'] == 'ok' and _ignores_input(trial['metrics']):
      dead.append(seed)
  if not trials:
    return ['no trial']
  return [
    f'{len(group)} {what}: {", ".join(group)}'
    for what, group in (
      ('failed', failed),
      ('diverged', diverged),
      (f'without a finite {metric}', unmeasured),
      ('with the same output for every input', dead),
      *marked.items(),
    )
    if group
  ]


def _ignores_input(metrics: JsonRecord) -> bool:
  """Returns whether the model outputs the same distribution for any input.

  Then the losses of the last training batch and of validation are equal to the
  last digit, which otherwise never happens with different texts.  A cause that
  is not divergence: weights so large that a norm turns them into zeros.
  """
  train, held = metrics.get(_TRAIN_LOSS), metrics.get(VAL_LOSS.name)
  if train is None or held is None or held < _MIN_LOSS:
    return False
  return abs(train - held) <= ROUNDING * abs(held)
