"""Ready-made rules: within an interval, near a number, an order, a ratio.

Module `rule` has their base class, `shape` the rule on curves.
"""

import dataclasses
import math

import numpy as np

from experiments.claims.metrics import Measurements
from experiments.claims.rule import (
  CONFIDENCE,
  Claim,
  Rule,
  RuleResult,
  decide_values,
  interval_text,
  lower_bound,
  of_seeds,
  paired_differences,
  share_text,
  side,
)
from experiments.statistics.verdicts import mean_interval


@dataclasses.dataclass(frozen=True)
class Within(Rule):
  """The metric, or its difference from another row, lies in an interval.

  Attributes:
    low: smallest accepted value.
    high: largest accepted value.
    minus: row that is subtracted, paired by seed; a difference on the right
      side of 0 gives the direction.
    share: share of seeds that must pass, each decided separately; None decides
      by the mean.
    median: decide by the median over seeds, which has no interval.
  """

  low: float = -math.inf
  high: float = math.inf
  minus: str | None = None
  share: float | None = None
  median: bool = False

  @property
  def others(self) -> tuple[str, ...]:
    return () if self.minus is None else (self.minus,)

  def accepts(self, claim: Claim) -> str:
    less = '' if self.minus is None else f' more than {self.minus}'
    seeds = ' in the median' if self.median else share_text(self.share)
    return f'{interval_text(self.low, self.high)}{less}{seeds}'

  def find(self, found: Measurements, claim: Claim) -> RuleResult:
    values = found.final(claim.row, claim.metric)
    if self.minus is not None:
      values = paired_differences(values, found.final(self.minus, claim.metric))
    if self.median and values:
      middle = {0: float(np.median([*values.values()]))}
      one = decide_values(middle, self.low, self.high, None, self._side)
      return dataclasses.replace(one, seeds=len(values))
    return decide_values(values, self.low, self.high, self.share, self._side)

  @property
  def _side(self) -> float | None:
    """Returns the sign of the accepted differences, None if both signs are."""
    return side(self.low, self.high, 0.0) if self.minus is not None else None


@dataclasses.dataclass(frozen=True)
class Near(Rule):
  """The mean over seeds is within a tolerance of the stated number."""

  tolerance: float

  def accepts(self, claim: Claim) -> str:
    return f'within {self.tolerance:g} of it'

  def find(self, found: Measurements, claim: Claim) -> RuleResult:
    if claim.value is None:
      return RuleResult(None, why='no number is stated')
    values = found.final(claim.row, claim.metric)
    low, high = claim.value - self.tolerance, claim.value + self.tolerance
    return decide_values(values, low, high, None, None)


def below(
  limit: float, minus: str | None = None, share: float | None = None
) -> Within:
  """Returns the rule that a metric, or a difference, is at most a limit."""
  return Within(high=limit, minus=minus, share=share)


def above(
  limit: float, minus: str | None = None, share: float | None = None
) -> Within:
  """Returns the rule that a metric, or a difference, is at least a limit."""
  return Within(low=limit, minus=minus, share=share)


@dataclasses.dataclass(frozen=True)
class Ordering(Rule):
  """The metric rises from row to row, each time by more than a gap.

  All steps must hold, so no correction for multiple tests is needed.  A
  negative gap tolerates a fall: rows (a, b) with gap -0.015 accept a b that is
  less than 0.015 below a.

  Attributes:
    rows: in the order in which the metric rises.
    gap: smallest rise of each step.
    share: share of seeds in which all steps must hold; None decides by the
      means over seeds.
  """

  rows: tuple[str, ...]
  gap: float = 0.0
  share: float | None = None

  @property
  def others(self) -> tuple[str, ...]:
    return self.rows

  def accepts(self, claim: Claim) -> str:
    steps = ' < '.join(self.rows)
    by = f', each by more than {self.gap:g}' if self.gap else ''
    return f'{steps}{by}{share_text(self.share)}'

  def find(self, found: Measurements, claim: Claim) -> RuleResult:
    values = {row: found.final(row, claim.metric) for row in self.rows}
    pairs = list(zip(self.rows, self.rows[1:], strict=False))
    steps = [
      paired_differences(values[upper], values[lower]) for lower, upper in pairs
    ]
    if missing := [
      f'{lower} and {upper}'
      for (lower, upper), step in zip(pairs, steps, strict=True)
      if not step
    ]:
      return RuleResult(None, why=f'no seed of {missing[0]}')
    if self.share is not None:
      both = set.intersection(*({*step} for step in steps))
      good = [s for s in both if all(step[s] > self.gap for step in steps)]
      return of_seeds(len(good), len(both), self.share)
    seeds = min(len(step) for step in steps)
    columns = [list(step.values()) for step in steps]
    if lost := sum(not np.isfinite(x).all() for x in columns):
      return RuleResult(
        False, False, seeds, why=f'{lost} steps have seeds lost'
      )
    means = [float(np.mean(x)) for x in columns]
    smallest = columns[int(np.argmin(means))]
    mean, interval = mean_interval(smallest, CONFIDENCE)
    return RuleResult(
      holds=all(lower_bound(x) > self.gap for x in columns),
      direction=min(means) > min(self.gap, 0.0),
      seeds=seeds,
      measured=mean,
      interval=interval,
      why='' if len(steps) == 1 else 'measured: the smallest step',
    )


@dataclasses.dataclass(frozen=True)
class Ratio(Rule):
  """The mean ratio of the metric to that of another row lies in an interval.

  Ratios are taken per seed, for the seeds that both rows ran.  A mean on the
  right side of 1 gives the direction.

  Attributes:
    over: row in the denominator.
    low: smallest accepted ratio.
    high: largest accepted ratio.
  """

  over: str
  low: float = -math.inf
  high: float = math.inf

  @property
  def others(self) -> tuple[str, ...]:
    return (self.over,)

  def accepts(self, claim: Claim) -> str:
    return f'{interval_text(self.low, self.high)} times {self.over}'

  def find(self, found: Measurements, claim: Claim) -> RuleResult:
    upper = found.final(claim.row, claim.metric)
    lower = found.final(self.over, claim.metric)
    values = {
      seed: upper[seed] / lower[seed] if lower[seed] else math.nan
      for seed in upper
      if seed in lower
    }
    way = side(self.low, self.high, 1.0)
    return decide_values(values, self.low, self.high, None, way, 1.0)
