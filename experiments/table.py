"""Trial records -> an ablation table: paired differences and verdicts."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import power
from experiments.statistics import (
  Comparison,
  Interval,
  Verdict,
  compare,
  mean_interval,
)
from train.figure import COMMON, VAL_LOSS, Figure

Record = Mapping[str, Any]

# What every trial has, and no table shows unless verdicts compare it.
_COMMON = {'best_step', 'diverged_at', *(figure.name for figure in COMMON)}


@dataclasses.dataclass(frozen=True)
class RowSummary:
  """One row over its seeds; `difference` is row - base, paired by seed.

  The tests and `smallest_effect` are those of `statistics.Comparison`;
  `seeds_needed` is how many find a difference as large as the margin, with
  the same power; `tuned` is what the row chose for itself, by flag; `figures`
  are means of what the task measures besides, such as BLEU, and of the loss
  where that is not what is compared.
  """

  row: str
  is_base: bool
  seeds: int
  diverged: int
  failed: int
  mean: float | None
  interval: Interval | None
  difference: float | None
  difference_interval: Interval | None
  difference_sd: float | None
  p: float | None
  p_holm: float | None
  p_tost: float | None
  p_tost_holm: float | None
  smallest_effect: float | None
  seeds_needed: int | None
  verdict: Verdict | None
  reason: str
  parameters: int | None
  flops_per_token: float | None
  seconds: float | None
  tuned: Mapping[str, Any]
  figures: Mapping[str, float]
  values: Mapping[int, float]
  note: str


@dataclasses.dataclass(frozen=True)
class Table:
  """The rows of an ablation, measured by one metric against one base.

  `margin` is a share of the base's mean, `absolute_margin` in the unit of the
  metric (None where the base has no mean); `alpha` is the level of the verdicts
  over all rows, and 1 - alpha the confidence of each interval on its own.
  """

  metric: str
  lower_is_better: bool
  base: str
  alpha: float
  margin: float
  absolute_margin: float | None
  rows: tuple[RowSummary, ...]

  @property
  def confidence(self) -> float:
    return 1 - self.alpha

  @property
  def figures(self) -> list[str]:
    """Returns what the task of any row measures besides the metric."""
    return sorted({name for row in self.rows for name in row.figures})


def summarise(
  records: Sequence[Record],
  rows: Sequence[str],
  base: str,
  metric: Figure = VAL_LOSS,
  margin: float = 0.01,
  alpha: float = 0.05,
  withheld: Mapping[str, str] | None = None,
) -> Table:
  """Returns the table of `rows`, in their order, from a trial ledger.

  Args:
    records: of the verdict's seeds; they may have 'parameters',
      'flops_per_token', 'tuned': what the row chose for itself, by flag, and
      'shown': which common figures the table has besides.
    rows: their names.
    base: the row that the others are compared with.
    metric: of theirs, the one that is compared.
    margin: the difference that counts as none, as a share of the base's mean.
    alpha: level of the verdicts over all rows (see `statistics`).
    withheld: row -> why it gets no verdict.
  """
  if base not in rows:
    raise ValueError(f'base={base!r} is not one of the rows {list(rows)}')
  trials = _by_row(records, rows)
  name = metric.name
  absolute = _absolute(margin, _values(trials[base], name))
  comparisons = compare(
    _outcomes(trials[base], name),
    {row: _outcomes(trials[row], name) for row in rows if row != base},
    absolute or 0.0,
    alpha,
    metric.lower_is_better,
    withheld,
  )
  needed = _seeds_needed(comparisons, absolute, alpha)
  return Table(
    name,
    metric.lower_is_better,
    base,
    alpha,
    margin,
    absolute,
    tuple(
      _summarise_row(
        row, trials[row], name, alpha, comparisons.get(row), needed.get(row)
      )
      for row in rows
    ),
  )


def _absolute(margin: float, base: Mapping[int, float]) -> float | None:
  """Returns the margin in the unit of the metric."""
  return margin * abs(float(np.mean([*base.values()]))) if base else None


def _by_row(
  records: Sequence[Record], rows: Sequence[str]
) -> dict[str, list[Record]]:
  """Returns the last record of each seed of each row, by seed."""
  # The ledger is append-only: what a rerun appended replaces what failed.
  last = {(record['row'], record['seed']): record for record in records}
  return {
    row: [last[key] for key in sorted(k for k in last if k[0] == row)]
    for row in rows
  }


def _summarise_row(
  row: str,
  trials: Sequence[Record],
  metric: str,
  alpha: float,
  compared: Comparison | None,
  seeds_needed: int | None,
) -> RowSummary:
  """Returns the summary of one row; the base has no comparison."""
  ok = [trial for trial in trials if trial['status'] == 'ok']
  values = _values(trials, metric)
  mean, interval = mean_interval(list(values.values()), 1 - alpha)
  notes = _notes(trials, values, metric)
  if compared and 0 < compared.pairs < len(values):
    notes.append(f'difference over the {compared.pairs} seeds of both')
  return RowSummary(
    row=row,
    is_base=compared is None,
    seeds=len(values),
    diverged=sum(t['status'] == 'diverged' for t in trials),
    failed=sum(t['status'] == 'failed' for t in trials),
    mean=mean,
    interval=interval,
    difference=compared and compared.difference,
    difference_interval=compared and compared.interval,
    difference_sd=compared and compared.sd,
    p=compared and compared.p,
    p_holm=compared and compared.p_holm,
    p_tost=compared and compared.p_tost,
    p_tost_holm=compared and compared.p_tost_holm,
    smallest_effect=compared and compared.smallest_effect,
    seeds_needed=seeds_needed,
    verdict=compared and compared.verdict,
    reason=compared.reason if compared else '',
    parameters=_last(trials, 'parameters'),
    flops_per_token=_last(trials, 'flops_per_token'),
    seconds=(
      float(np.mean([t['clock']['seconds'] for t in ok])) if ok else None
    ),
    tuned=_last(trials, 'tuned') or {},
    figures=_figures(ok, metric),
    values=values,
    note='; '.join(notes),
  )


def _seeds_needed(
  comparisons: Mapping[str, Comparison], margin: float | None, alpha: float
) -> dict[str, int]:
  """Returns how many seeds find the margin, of rows whose spread is known."""
  return {
    row: power.seeds_needed(compared.sd, margin, alpha=alpha / len(comparisons))
    for row, compared in comparisons.items()
    if margin and compared.smallest_effect is not None and compared.sd
  }


def _figures(trials: Sequence[Record], metric: str) -> dict[str, float]:
  """Returns the mean of each figure to show besides the metric."""
  names = {name for trial in trials for name in trial['metrics']}
  shown = {VAL_LOSS.name, *(_last(trials, 'shown') or ())}
  names -= (_COMMON - shown) | {metric}
  found = {name: _values(trials, name).values() for name in sorted(names)}
  return {name: float(np.mean([*v])) for name, v in found.items() if v}


def _last(trials: Sequence[Record], name: str) -> Any:
  """Returns what the last trial that says it says, else None."""
  return next((t[name] for t in reversed(trials) if name in t), None)


def _outcomes(trials: Sequence[Record], metric: str) -> dict[int, float]:
  """Returns the metric by seed, NaN where the training diverged."""
  lost = {
    trial['seed']: math.nan
    for trial in trials
    if trial['status'] == 'diverged'
    or (trial['status'] == 'ok' and metric in trial['metrics'])
  }
  return lost | _values(trials, metric)


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
      step = trial['metrics'].get('diverged_at')
      at = '' if step is None else f' at step {step}'
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
