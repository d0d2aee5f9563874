"""Base of the rules on published values: pure functions of a table's metrics.

The rule is stated before a run.  A rule on one row compares the mean over
seeds, as publications do; its 95 % Student-t interval is reported beside it.  A
rule that says that rows differ pairs the difference by seed; with two seeds or
more its one-sided 95 % bound must exceed the gap, so that a difference which
noise can explain counts as a direction at most.  With `share` each seed is
decided separately, and that share of them must pass.  A seed that diverged
passes no rule.  Modules `rules` and `shape` have ready-made rules.
"""

import abc
import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy

from experiments.claims.metrics import CurveAxis, Measurements
from experiments.statistics.verdicts import Interval, mean_interval

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True)
class RuleResult:
  """The result of a rule.

  Attributes:
    holds: whether the rule holds; None if what it reads was not measured.
    direction: whether at least the direction of the claim holds.
    seeds: number of seeds that were compared.
    measured: the mean that was compared, if the rule compares a mean.
    interval: confidence interval of that mean.
    why: remark for the reader; '' if there is none.
  """

  holds: bool | None
  direction: bool = False
  seeds: int = 0
  measured: float | None = None
  interval: Interval | None = None
  why: str = ''


@dataclasses.dataclass(frozen=True)
class Claim:
  """The row and metric that a rule decides on, and the number, if stated."""

  row: str
  metric: str
  value: float | None


class Rule(abc.ABC):
  """Base class of rules; subclass it as a frozen dataclass to write one."""

  @property
  def others(self) -> tuple[str, ...]:
    """Returns the rows that it reads in addition to the row of the claim."""
    return ()

  @property
  def axes(self) -> frozenset[CurveAxis]:
    """Returns the axes along which it reads metrics; none: final ones only."""
    return frozenset()

  @abc.abstractmethod
  def accepts(self, claim: Claim) -> str:
    """Returns the rule in words."""

  @abc.abstractmethod
  def find(self, found: Measurements, claim: Claim) -> RuleResult:
    """Applies the rule to the metrics of a table."""


# Helpers of rules. ------------------------------------------------------------


def decide_values(
  values: Mapping[int, float],
  low: float,
  high: float,
  share: float | None,
  way: float | None,
  neutral: float = 0.0,
) -> RuleResult:
  """Decides whether values lie in the closed interval [low, high].

  Args:
    values: by seed; NaN where there is no number.
    low: lower end.
    high: upper end.
    share: the share of seeds whose value must lie there; None: their mean must.
    way: 1 if values above `neutral` have the direction of the claim, -1 if
      values below do; None if the claim has no direction.
    neutral: the value that means no difference.
  """
  numbers = list(values.values())
  if not numbers:
    return RuleResult(None, why='no seed has the figure')
  if share is not None:
    good = sum(low <= x <= high for x in numbers)
    return of_seeds(good, len(numbers), share)
  if lost := sum(not math.isfinite(x) for x in numbers):
    why = f'{lost} of {len(numbers)} seeds without a number'
    return RuleResult(False, False, len(numbers), why=why)
  mean, interval = mean_interval(numbers, CONFIDENCE)
  assert mean is not None
  why = ''
  if low <= mean <= high and interval is not None:
    outside = interval.low < low or interval.high > high
    why = 'the interval reaches beyond what is accepted' if outside else ''
  right = way is not None and way * (mean - neutral) > 0
  return RuleResult(
    low <= mean <= high, right, len(numbers), mean, interval, why
  )


def of_seeds(good: int, seeds: int, share: float) -> RuleResult:
  """Decides by how many seeds pass; more than half gives the direction."""
  if not seeds:
    return RuleResult(None, why='no seed has the figure')
  # As a count, so that 4 of 5 reaches a share of 0.8 despite rounding.
  needed = math.ceil(share * seeds - 1e-9)
  return RuleResult(
    good >= needed, 2 * good > seeds, seeds, why=f'{good} of {seeds} seeds pass'
  )


def paired_differences(
  values: Mapping[int, float], less: Mapping[int, float]
) -> dict[int, float]:
  """Returns the differences by seed, for the seeds that both have."""
  return {s: x - less[s] for s, x in values.items() if s in less}


def lower_bound(values: Sequence[float]) -> float:
  """Returns the one-sided lower 95 % bound of a mean; of one value, itself."""
  mean, n = float(np.mean(values)), len(values)
  if n < 2:
    return mean
  error = float(np.std(values, ddof=1)) / math.sqrt(n)
  return mean - float(scipy.special.stdtrit(n - 1, CONFIDENCE)) * error


def side(low: float, high: float, neutral: float) -> float | None:
  """Returns 1 if an interval lies above a number, -1 if below, else None."""
  if low >= neutral:
    return 1.0
  return -1.0 if high <= neutral else None


def interval_text(low: float, high: float) -> str:
  """Returns an interval in words, without an end that is infinite."""
  if low == -math.inf:
    return f'at most {high:g}'
  return f'at least {low:g}' if high == math.inf else f'{low:g} to {high:g}'


def share_text(share: float | None) -> str:
  """Returns the share of seeds that must pass, in words."""
  if share is None:
    return ''
  return ' in every seed' if share == 1 else f' in {100 * share:g} % of seeds'
