"""The evaluation targets of recorded trials, and metrics on a part of them.

A plan says which rows have equal targets; here the recorded counts of targets
and bytes confirm it.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence

from experiments.planning.comparable import ComparisonPlan
from train.config.targets import is_per_target
from train.core.metric import BITS_PER_BYTE, PERPLEXITY, VAL_LOSS, Metric
from train.evaluation import BYTES, LOSS, TARGETS, bits_per_byte, perplexity
from train.files.records import JsonRecord

# Largest number of bytes of a text's first token.  No model predicts it, so the
# bytes of two tokenizations may differ by as much.
_FIRST_TOKEN = 64


@dataclasses.dataclass(frozen=True)
class ComparisonLimits:
  """Limits to the comparison of rows with the base.

  Attributes:
    positions: row -> the positions at which it is compared with the base, if
      these are not all.
    incomparable: rows whose metrics are over other targets.
  """

  positions: Mapping[str, Sequence[int]] = dataclasses.field(
    default_factory=dict
  )
  incomparable: Collection[str] = ()

  def shared(
    self, trials: Mapping[str, Sequence[JsonRecord]], base: str, metric: str
  ) -> dict[str, tuple[list[JsonRecord], list[JsonRecord]]]:
    """Returns `{row: (base's trials, row's trials)}` at common positions."""
    return {
      row: (
        on_positions(trials[base], metric, at),
        on_positions(trials[row], metric, at),
      )
      for row, at in self.positions.items()
      if row in trials
    }

  def outcomes(
    self, trials: Mapping[str, Sequence[JsonRecord]], base: str, metric: str
  ) -> dict[str, dict[int, float]]:
    """Returns the metric of each row by seed; empty if it is incomparable."""
    shared = self.shared(trials, base, metric)
    return {
      row: {}
      if row in self.incomparable
      else metric_by_seed(shared.get(row, (own, own))[1], metric)
      for row, own in trials.items()
      if row != base
    }


NO_LIMITS = ComparisonLimits()


def evaluation_count(trials: Sequence[JsonRecord], name: str) -> int | None:
  """Returns the number of targets or bytes of an evaluation, or None."""
  return next((t['metrics'][name] for t in _with_count(trials, name)), None)


def bytes_of(
  trials: Sequence[JsonRecord], tokens: Callable[[JsonRecord], int]
) -> float | None:
  """Returns about how many bytes a number of tokens stands for, or None."""
  for trial in _with_count(trials, BYTES):
    found = trial['metrics']
    return tokens(trial) * found[BYTES] / found[TARGETS]
  return None


def _with_count(trials: Sequence[JsonRecord], name: str) -> list[JsonRecord]:
  """Returns the successful trials that recorded a count."""
  return [t for t in trials if t['status'] == 'ok' and t['metrics'].get(name)]


def on_positions(
  trials: Sequence[JsonRecord], metric: str, positions: Sequence[int]
) -> list[JsonRecord]:
  """Returns the records with a metric over some positions only."""
  return [
    {
      **trial,
      'metrics': trial['metrics'] | _metrics_at(trial, metric, positions),
    }
    if trial['status'] == 'ok'
    else trial
    for trial in trials
  ]


def _metrics_at(
  trial: JsonRecord, metric: str, positions: Sequence[int]
) -> dict[str, float | None]:
  """Returns a metric over some positions, and the counts of its targets."""
  sums = trial.get('by_position')
  if not sums:
    return {metric: None}
  loss, counts, sizes = (
    [sums[name][t] for t in positions] for name in (LOSS, TARGETS, BYTES)
  )
  count, size = round(sum(counts)), round(sum(sizes))
  if None in loss or not count:
    return {metric: None, TARGETS: count}
  nats = sum(loss)
  figures = {
    VAL_LOSS.name: nats / count,
    PERPLEXITY.name: perplexity(nats / count),
    BITS_PER_BYTE.name: bits_per_byte(nats, size) if size else None,
  }
  return {metric: figures[metric], TARGETS: count, BYTES: size}


def target_mismatches(
  found: ComparisonPlan, base: str, trials: Mapping[str, Sequence[JsonRecord]]
) -> dict[str, str]:
  """Returns `{row: why}` of rows that recorded other targets than the base.

  Args:
    found: how the plan compares the rows.
    base: the row that the others are compared with.
    trials: the records of each row.
  """
  out = {}
  for row, own in trials.items():
    theirs = trials[base]
    if at := found.positions.get(row):
      if not all(_known_by_position(part) for part in (theirs, own)):
        out[row] = (
          'was trained before losses were kept by position: --workdir=NEW'
        )
        continue
      theirs, own = (
        on_positions(part, found.metric.name, at) for part in (theirs, own)
      )
    if why := _target_mismatch(found.metric, theirs, own):
      out[row] = why
  return out


def _known_by_position(trials: Sequence[JsonRecord]) -> bool:
  return all(t.get('by_position') for t in trials if t['status'] == 'ok')


def _target_mismatch(
  metric: Metric, base: Sequence[JsonRecord], row: Sequence[JsonRecord]
) -> str:
  """Returns how the targets of a row and the base differ in number, or ''."""
  if not is_per_target(metric):
    return ''
  name = BYTES if metric == BITS_PER_BYTE else TARGETS
  ours, theirs = (evaluation_count(trials, name) for trials in (row, base))
  slack = _FIRST_TOKEN if name == BYTES else 0
  if ours is None or theirs is None or abs(ours - theirs) <= slack:
    return ''
  return f'was judged on {ours:,} {name}, the base on {theirs:,}'


def metric_by_seed(
  trials: Sequence[JsonRecord], metric: str
) -> dict[int, float]:
  """Returns the metric by seed, NaN if training diverged."""
  lost = {
    trial['seed']: math.nan
    for trial in trials
    if trial['status'] == 'diverged'
    or (trial['status'] == 'ok' and metric in trial['metrics'])
  }
  return lost | finite_values(trials, metric)


def finite_values(
  trials: Sequence[JsonRecord], metric: str
) -> dict[int, float]:
  """Returns the finite metrics of the successful trials, by seed."""
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
