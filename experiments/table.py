"""Trial records -> an ablation table: paired differences with intervals."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Interval:
  """A confidence interval, both ends included."""

  low: float
  high: float

  def half(self) -> float:
    """Returns half the width: all there is to say of a Student-t interval."""
    return (self.high - self.low) / 2


@dataclasses.dataclass(frozen=True)
class RowSummary:
  """One row over its seeds; `difference` is row - base, paired by seed."""

  row: str
  is_base: bool
  seeds: int
  diverged: int
  failed: int
  mean: float | None
  interval: Interval | None
  difference: float | None
  difference_interval: Interval | None
  parameters: int | None
  seconds: float | None
  values: Mapping[int, float]
  note: str


@dataclasses.dataclass(frozen=True)
class Table:
  """The rows of an ablation, measured by one metric against one base."""

  metric: str
  lower_is_better: bool
  base: str
  confidence: float
  rows: tuple[RowSummary, ...]


def summarise(
  records: Sequence[Record],
  rows: Sequence[str],
  base: str,
  metric: str = 'val_loss',
  lower_is_better: bool = True,
  confidence: float = 0.95,
) -> Table:
  """Returns the table of `rows`, in their order, from a trial ledger."""
  if base not in rows:
    raise ValueError(f'base={base!r} is not one of the rows {list(rows)}')
  # The ledger is append-only: what a rerun appended replaces what failed.
  last = {(record['row'], record['seed']): record for record in records}
  trials = {
    row: [last[key] for key in sorted(k for k in last if k[0] == row)]
    for row in rows
  }
  base_values = _values(trials[base], metric)
  return Table(
    metric,
    lower_is_better,
    base,
    confidence,
    tuple(
      _summarise_row(
        row,
        trials[row],
        None if row == base else base_values,
        metric,
        confidence,
      )
      for row in rows
    ),
  )


def _summarise_row(
  row: str,
  trials: Sequence[Record],
  base_values: Mapping[int, float] | None,
  metric: str,
  confidence: float,
) -> RowSummary:
  """Returns the summary of one row; the base has no `base_values`."""
  ok = [trial for trial in trials if trial['status'] == 'ok']
  values = _values(trials, metric)
  paired = (
    {}
    if base_values is None
    else {
      seed: value - base_values[seed]
      for seed, value in values.items()
      if seed in base_values
    }
  )
  mean, interval = _student_t(list(values.values()), confidence)
  difference, difference_interval = _student_t(
    list(paired.values()), confidence
  )
  counted = [t['parameters'] for t in trials if 'parameters' in t]
  notes = _notes(trials, values, metric)
  if base_values is not None and 0 < len(paired) < len(values):
    seeds = ', '.join(map(str, paired))
    notes.append(f'difference over the seeds of both: {seeds}')
  elif base_values is not None and values and not paired:
    notes.append('no difference: no seed in common with the base')
  return RowSummary(
    row=row,
    is_base=base_values is None,
    seeds=len(values),
    diverged=sum(t['status'] == 'diverged' for t in trials),
    failed=sum(t['status'] == 'failed' for t in trials),
    mean=mean,
    interval=interval,
    difference=difference,
    difference_interval=difference_interval,
    parameters=counted[-1] if counted else None,
    seconds=(
      float(np.mean([t['clock']['seconds'] for t in ok])) if ok else None
    ),
    values=values,
    note='; '.join(notes),
  )


def _values(trials: Sequence[Record], metric: str) -> dict[int, float]:
  """Returns the metric of the trials that ended well, by seed."""
  found = {
    trial['seed']: trial['metrics'][metric]
    for trial in trials
    if trial['status'] == 'ok' and metric in trial['metrics']
  }
  return {
    seed: float(value)
    for seed, value in found.items()
    if value is not None and math.isfinite(value)
  }


def _student_t(
  values: Sequence[float], confidence: float
) -> tuple[float | None, Interval | None]:
  """Returns the mean and its interval: none with fewer than two values."""
  if not values:
    return None, None
  mean = float(np.mean(values))
  if len(values) < 2:
    return mean, None
  quantile = special.stdtrit(len(values) - 1, (1 + confidence) / 2)
  half = float(quantile * np.std(values, ddof=1) / math.sqrt(len(values)))
  return mean, Interval(mean - half, mean + half)


def _notes(
  trials: Sequence[Record], values: Mapping[int, float], metric: str
) -> list[str]:
  """Returns what a mean over the seeds that ended well would hide."""
  failed, diverged, unmeasured = [], [], []
  for trial in trials:
    seed = f'seed {trial["seed"]}'
    if trial['status'] == 'failed':
      error = trial.get('error', 'no message')
      failed.append(f'{seed}: {" ".join(error.split())}')
    elif trial['status'] == 'diverged':
      at = f' at step {trial["diverged_at"]}' if 'diverged_at' in trial else ''
      diverged.append(seed + at)
    elif trial['seed'] not in values:
      unmeasured.append(seed)
  if not trials:
    return ['no trial']
  return [
    f'{len(group)} {what}: {", ".join(group)}'
    for what, group in (
      ('failed', failed),
      ('diverged', diverged),
      (f'without a finite {metric}', unmeasured),
    )
    if group
  ]
