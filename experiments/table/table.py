"""Computes an ablation table from trial records: differences and verdicts."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.claims.published import ClaimVerdict
from experiments.statistics import power
from experiments.statistics.verdicts import (
  Comparison,
  Interval,
  Verdict,
  compare,
  mean_interval,
)
from experiments.table.extent import (
  NO_LIMITS,
  ComparisonLimits,
  bytes_of,
  evaluation_count,
  finite_values,
  metric_by_seed,
)
from experiments.table.row_notes import difference_notes, seed_notes
from train.core.metric import COMMON, LAYER, PERPLEXITY, VAL_LOSS, Metric
from train.evaluation import BYTES, TARGETS
from train.files.records import JsonRecord

# Metrics of every trial, which a table shows only if verdicts compare them.
_COMMON = {
  *('best_step', 'diverged_at', TARGETS, BYTES, PERPLEXITY.name),
  *(figure.name for figure in COMMON),
}


@dataclasses.dataclass(frozen=True)
class RowSummary:
  """One row of the table, over its seeds.

  Statistics without a description are those of `statistics.Comparison`, and
  None for the base.

  Attributes:
    row: its name.
    label: its name as shown; the base's has its values of the varied fields.
    is_base: whether it is the base.
    seeds: number of successful seeds.
    diverged: number of seeds that diverged.
    failed: number of seeds that failed.
    mean: mean of the metric over the successful seeds.
    interval: confidence interval of the mean.
    difference: mean of row - base, paired by seed.
    compared: number of seeds that ran in both row and base.
    seeds_needed: number of seeds that detect a difference of the margin.
    parameters: number of parameters.
    flops_per_token: training FLOPs per token.
    seconds: mean time of a trial.
    targets: number of evaluation targets.
    bytes: bytes of text that the targets stand for.
    context_bytes: about how many bytes the context has.
    trained_bytes: about how many bytes it was trained on.
    tuned: values that the row chose by --tune, by flag.
    figures: means of other metrics to show: those of the task, such as BLEU,
      and the loss if another metric is compared.
    values: metric by seed.
    note: remarks on its seeds.
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
class AblationTable:
  """An ablation table: rows compared with one base by one metric.

  Attributes:
    metric: name of the metric.
    lower_is_better: direction of the metric.
    base: name of the base.
    alpha: level of the verdicts over all rows; each interval on its own has
      confidence 1 - alpha.
    margin: margin of equivalence, as a share of the base's mean.
    absolute_margin: the same in the unit of the metric; None if the base has no
      mean.
    rows: the rows, with the base.
    before: sentences on what changed after an earlier verdict had been shown.
    selected: sentences on what --tune and --halving selected.
    published: verdicts on the published values of the experiment.
    controls: verdicts on the controls, which are not among `rows`.
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
  published: tuple[ClaimVerdict, ...] = ()
  controls: tuple[ClaimVerdict, ...] = ()

  @property
  def confidence(self) -> float:
    return 1 - self.alpha

  @property
  def diverged(self) -> bool:
    """Whether a seed diverged in any comparison."""
    return any(row.p_diverged is not None for row in self.rows)

  @property
  def figures(self) -> list[str]:
    """The names of the other metrics that any row shows."""
    return sorted({name for row in self.rows for name in row.figures})


def make_table(
  records: Sequence[JsonRecord],
  rows: Sequence[str],
  base: str,
  metric: Metric = VAL_LOSS,
  margin: float = 0.01,
  alpha: float = 0.05,
  withheld: Mapping[str, str] | None = None,
  limits: ComparisonLimits = NO_LIMITS,
) -> AblationTable:
  """Returns the table of trial records.

  Args:
    records: records of the verdict's trials.  Optional keys: 'parameters';
      'flops_per_token'; 'tuned', the chosen values by flag; 'warnings', lines
      on the configuration; 'shown', common metrics that the table shows too;
      'mark', a remark on a trial from other code.
    rows: names of the rows, in the order of the table.
    base: the row that the others are compared with.
    metric: the metric that is compared.
    margin: largest difference that counts as equivalent, as a share of the
      base's mean.
    alpha: level of the verdicts over all rows (see `statistics`).
    withheld: row -> why it gets no verdict.
    limits: limits to the comparison with the base.
  """
  if base not in rows:
    raise ValueError(f'base={base!r} is not one of the rows {list(rows)}')
  trials = _by_row(records, rows)
  name = metric.name
  absolute = _absolute_margin(margin, finite_values(trials[base], name))
  shared = limits.shared(trials, base, name)
  comparisons = compare(
    metric_by_seed(trials[base], name),
    limits.outcomes(trials, base, name),
    absolute or 0.0,
    alpha,
    metric.lower_is_better,
    withheld,
    {row: metric_by_seed(theirs, name) for row, (theirs, _) in shared.items()},
  )
  needed = _seeds_needed(comparisons, absolute, alpha)
  out = tuple(
    _summarise_row(
      row, own, name, alpha, comparisons.get(row), needed.get(row), shared
    )
    for row, own in trials.items()
  )
  better = metric.lower_is_better
  return AblationTable(name, better, base, alpha, margin, absolute, out)


def _absolute_margin(margin: float, base: Mapping[int, float]) -> float | None:
  """Returns the margin in the unit of the metric."""
  return margin * abs(float(np.mean([*base.values()]))) if base else None


def _by_row(
  records: Sequence[JsonRecord], rows: Sequence[str]
) -> dict[str, list[JsonRecord]]:
  """Returns the records of each row, sorted by seed, the last one of each."""
  # The ledger is append-only: the record of a rerun follows that of a failure.
  last = {(record['row'], record['seed']): record for record in records}
  return {
    row: [last[key] for key in sorted(k for k in last if k[0] == row)]
    for row in rows
  }


def _summarise_row(
  row: str,
  trials: Sequence[JsonRecord],
  metric: str,
  alpha: float,
  compared: Comparison | None,
  seeds_needed: int | None,
  shared: Mapping[str, tuple[list[JsonRecord], list[JsonRecord]]],
) -> RowSummary:
  """Returns the summary of one row; the base has no comparison."""
  ok = [t for t in trials if t['status'] == 'ok']
  values = finite_values(trials, metric)
  mean, interval = mean_interval([*values.values()], 1 - alpha)
  notes = _notes(trials, values, metric)
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
    parameters=_latest(trials, 'parameters'),
    flops_per_token=_latest(trials, 'flops_per_token'),
    seconds=_seconds(ok),
    targets=evaluation_count(trials, TARGETS),
    bytes=evaluation_count(trials, BYTES),
    context_bytes=bytes_of(trials, lambda t: int(t['config']['seq_len'])),
    trained_bytes=bytes_of(trials, lambda t: t['tokens']),
    tuned=_latest(trials, 'tuned') or {},
    figures=_figures(ok, metric),
    values=values,
    note='; '.join(notes),
  )


def _notes(
  trials: Sequence[JsonRecord], values: Mapping[int, float], metric: str
) -> list[str]:
  """Returns remarks on the seeds of a row, and the warnings of its trials."""
  return seed_notes(trials, values, metric) + (
    _latest(trials, 'warnings') or []
  )


def _seconds(trials: Sequence[JsonRecord]) -> float | None:
  """Returns the mean time of a trial."""
  found = [trial['clock']['seconds'] for trial in trials]
  return float(np.mean(found)) if found else None


def _seeds_needed(
  comparisons: Mapping[str, Comparison], margin: float | None, alpha: float
) -> dict[str, int]:
  """Returns the number of seeds that detect the margin, by row."""
  return {
    row: power.seeds_needed(compared.sd, margin, alpha=alpha / len(comparisons))
    for row, compared in comparisons.items()
    if margin and compared.smallest_effect is not None and compared.sd
  }


def _figures(trials: Sequence[JsonRecord], metric: str) -> dict[str, float]:
  """Returns the means of the other metrics that the table shows."""
  names = {name for trial in trials for name in trial['metrics']}
  shown = {VAL_LOSS.name, *(_latest(trials, 'shown') or ())}
  names -= (_COMMON - shown) | {metric}
  # Metrics of single layers are for rules and charts, not for columns.
  names = {name for name in names if LAYER not in name}
  found = {name: finite_values(trials, name).values() for name in sorted(names)}
  return {name: float(np.mean([*v])) for name, v in found.items() if v}


def _latest(trials: Sequence[JsonRecord], name: str) -> Any:
  """Returns an entry of the last record that has it, else None."""
  return next((t[name] for t in reversed(trials) if name in t), None)
