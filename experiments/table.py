"""Trial records -> an ablation table: paired differences and verdicts."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments import power
from experiments.extent import (
  EVERYTHING,
  Limits,
  Record,
  bytes_of,
  extent,
  finite_values,
  outcomes_of,
)
from experiments.row_notes import befallen, difference_notes
from experiments.statistics import (
  Comparison,
  Interval,
  Verdict,
  compare,
  mean_interval,
)
from train.evaluation import BYTES, TARGETS
from train.figure import COMMON, PERPLEXITY, VAL_LOSS, Figure

# What every trial has, and no table shows unless verdicts compare it.
_COMMON = {
  *('best_step', 'diverged_at', TARGETS, BYTES, PERPLEXITY.name),
  *(figure.name for figure in COMMON),
}


@dataclasses.dataclass(frozen=True)
class RowSummary:
  """One row over its seeds; `difference` is row - base, paired by seed.

  `label` is its name as it is shown: of the base, with what the others vary.
  `compared` is how many seeds ran in both; the tests and `smallest_effect` are
  those of `statistics.Comparison`;
  `seeds_needed` is how many find a difference as large as the margin, with
  the same power; `tuned` is what the row chose for itself, by flag; `figures`
  are means of what the task measures besides, such as BLEU, and of the loss
  where that is not what is compared.  `targets` are those that figures are of,
  and `bytes` what these stand for; at as many bytes a token, `context_bytes`
  are those of the context, `trained_bytes` of what was trained on.
  """

  row: str
  label: str
  is_base: bool
  seeds: int
  diverged: int
  failed: int
  mean: float | None
  interval: Interval | None
  difference: float | None
  difference_interval: Interval | None
  difference_sd: float | None
  compared: int | None
  p_paired: float | None
  p_diverged: float | None
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
  targets: int | None
  bytes: int | None
  context_bytes: float | None
  trained_bytes: float | None
  tuned: Mapping[str, Any]
  figures: Mapping[str, float]
  values: Mapping[int, float]
  note: str


@dataclasses.dataclass(frozen=True)
class Table:
  """The rows of an ablation, measured by one metric against one base.

  `margin` is a share of the base's mean, `absolute_margin` in the unit of the
  metric (None where the base has no mean); `alpha` is the level of the verdicts
  over all rows, and 1 - alpha the confidence of each interval on its own;
  `before` says what was added after a verdict had been shown, `selected` what
  --tune and --halving chose, and on which seeds.
  """

  metric: str
  lower_is_better: bool
  base: str
  alpha: float
  margin: float
  absolute_margin: float | None
  rows: tuple[RowSummary, ...]
  before: tuple[str, ...] = ()
  selected: tuple[str, ...] = ()

  @property
  def confidence(self) -> float:
    return 1 - self.alpha

  @property
  def diverged(self) -> bool:
    """Whether any seed did that a verdict is about."""
    return any(row.p_diverged is not None for row in self.rows)

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
  limits: Limits = EVERYTHING,
) -> Table:
  """Returns the table of `rows`, in their order, from a trial ledger.

  Args:
    records: of the verdict's seeds; they may have 'parameters',
      'flops_per_token', 'tuned': what the row chose for itself, by flag,
      'warnings': lines on its configuration, 'shown': which common figures the
      table has besides, and 'mark': a word on what sets the trial apart.
    rows: their names.
    base: the row that the others are compared with.
    metric: of theirs, the one that is compared.
    margin: the difference that counts as none, a share of the base's mean.
    alpha: level of the verdicts over all rows (see `statistics`).
    withheld: row -> why it gets no verdict.
    limits: to what rows can be compared with the base.
  """
  if base not in rows:
    raise ValueError(f'base={base!r} is not one of the rows {list(rows)}')
  trials = _by_row(records, rows)
  name = metric.name
  absolute = _absolute(margin, finite_values(trials[base], name))
  shared = limits.shared(trials, base, name)
  comparisons = compare(
    outcomes_of(trials[base], name),
    limits.outcomes(trials, base, name),
    absolute or 0.0,
    alpha,
    metric.lower_is_better,
    withheld,
    {row: outcomes_of(theirs, name) for row, (theirs, _) in shared.items()},
  )
  needed = _seeds_needed(comparisons, absolute, alpha)
  out = tuple(
    _summarise_row(
      row, own, name, alpha, comparisons.get(row), needed.get(row), shared
    )
    for row, own in trials.items()
  )
  better = metric.lower_is_better
  return Table(name, better, base, alpha, margin, absolute, out)


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
  shared: Mapping[str, tuple[list[Record], list[Record]]],
) -> RowSummary:
  """Returns the summary of one row; the base has no comparison."""
  ok = [trial for trial in trials if trial['status'] == 'ok']
  values = finite_values(trials, metric)
  mean, interval = mean_interval(list(values.values()), 1 - alpha)
  notes = befallen(trials, values, metric) + (_last(trials, 'warnings') or [])
  notes += difference_notes(compared, len(values), shared.get(row), metric)
  return RowSummary(
    row=row,
    label=row,
    is_base=compared is None,
    seeds=len(values),
    diverged=sum(t['status'] == 'diverged' for t in trials),
    failed=sum(t['status'] == 'failed' for t in trials),
    mean=mean,
    interval=interval,
    difference=compared and compared.difference,
    difference_interval=compared and compared.interval,
    difference_sd=compared and compared.sd,
    compared=compared and compared.seeds,
    p_paired=compared and compared.p_paired,
    p_diverged=compared and compared.p_diverged,
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
    seconds=_seconds(ok),
    targets=extent(trials, TARGETS),
    bytes=extent(trials, BYTES),
    context_bytes=bytes_of(trials, lambda t: int(t['config']['seq_len'])),
    trained_bytes=bytes_of(trials, lambda t: t['tokens']),
    tuned=_last(trials, 'tuned') or {},
    figures=_figures(ok, metric),
    values=values,
    note='; '.join(notes),
  )


def _seconds(trials: Sequence[Record]) -> float | None:
  """Returns the mean time of a trial."""
  found = [trial['clock']['seconds'] for trial in trials]
  return float(np.mean(found)) if found else None


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
  found = {name: finite_values(trials, name).values() for name in sorted(names)}
  return {name: float(np.mean([*v])) for name, v in found.items() if v}


def _last(trials: Sequence[Record], name: str) -> Any:
  """Returns what the last trial that says it says, else None."""
  return next((t[name] for t in reversed(trials) if name in t), None)
