"""What is said of a row below its table."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from experiments import formats
from experiments.decision import ROUNDING
from experiments.extent import Record, extent, finite_values
from experiments.statistics import Comparison
from train.evaluation import TARGETS
from train.figure import VAL_LOSS

_TRAIN_LOSS = 'train_loss'
_LEAST = math.log(2) * (1 - ROUNDING)  # nats of a guess between two


def difference_notes(
  compared: Comparison | None,
  seeds: int,
  shared: Sequence[Sequence[Record]] | None,
  metric: str,
) -> list[str]:
  """Returns of what a difference is, where it is not of all there is.

  Args:
    compared: with the base; None for the base.
    seeds: that ended well.
    shared: see `_compared_on`; None where both predict at all targets.
    metric: that is compared.
  """
  notes = []
  if compared and 0 < compared.pairs < seeds:
    notes.append(f'difference over the {compared.pairs} seeds of both')
  if shared is not None:
    notes.append(_compared_on(shared, metric))
  return notes


def _compared_on(shared: Sequence[Sequence[Record]], metric: str) -> str:
  """Returns at which targets a row and the base are compared.

  Args:
    shared: trials of the base and of the row, judged at those of both.
    metric: that is compared.
  """
  base, row = (formats.number(_mean(trials, metric)) for trials in shared)
  count = formats.count(extent(shared[1], TARGETS))
  return (
    f'difference over the {count} targets that both predict: base {base}, '
    f'here {row}'
  )


def _mean(trials: Sequence[Record], metric: str) -> float | None:
  found = list(finite_values(trials, metric).values())
  return float(np.mean(found)) if found else None


def befallen(
  trials: Sequence[Record], values: Mapping[int, float], metric: str
) -> list[str]:
  """Returns what a mean over the seeds that ended well would hide."""
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
    if trial['status'] == 'ok' and _guesses(trial['metrics']):
      dead.append(seed)
  if not trials:
    return ['no trial']
  return [
    f'{len(group)} {what}: {", ".join(group)}'
    for what, group in (
      ('failed', failed),
      ('diverged', diverged),
      (f'without a finite {metric}', unmeasured),
      ('whose outputs are all alike, whatever is read', dead),
      *marked.items(),
    )
    if group
  ]


def _guesses(metrics: Record) -> bool:
  """Returns whether the last batch and the validation part have one loss.

  Of different texts they are never the same to the last digit, unless every
  output is as likely as any other: weights so large that a norm made zeros of
  them, say, which is no divergence.
  """
  train, held = metrics.get(_TRAIN_LOSS), metrics.get(VAL_LOSS.name)
  if train is None or held is None or held < _LEAST:
    return False
  return abs(train - held) <= ROUNDING * abs(held)
