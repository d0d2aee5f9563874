"""Compares rows with a base, paired by seed: verdicts that hold per table.

Better or worse.  Two tests: the paired t test over the seeds that finished in
both row and base, and Fisher's exact test of the number of divergences (module
`divergence`).  A row's p is twice the smaller one, Holm-corrected over the
rows.  It is not doubled if the divergences are too few, or too many, to reach
alpha in any split (Tarone): a table without divergence is decided by the t test
alone.  Nor is it doubled if no seed finished in both, because then there is
only the test of divergence.

Equivalent.  A row that is neither better nor worse is tested by TOST within
+-margin, Holm-corrected too.  So the chance of any wrong 'equivalent' in the
table is at most alpha, as is that of any wrong 'better' or 'worse'; of either,
2 alpha.  (Without correction, if six rows differ by exactly the margin, one of
them would be called equivalent in up to 26 % of tables.)  Every row counts in
the correction, with p = 1 if it has no test, so that a failed row does not make
the others easier to call.

Divergence.  A seed that diverged in one of the two only ranks below every
number, so a row with such a seed is never equivalent.  If the two tests point
in opposite directions, the row is undecided.  The difference points somewhere
if its own p is at most alpha.  Divergences point as soon as one of the two has
more, since few seeds could never prove it; and if both lost equally many seeds,
but different ones, the row is not called better or worse by the mean.

No spread.  If all differences are equal, t is infinite.  If they are 0, the row
computed the same as the base: equivalent.  If they are another number, the
metric is coarse or ignores the seed, and two seeds would give p = 0; a sign
test of n equal signs is used instead: p = 2^(1-n), and 2^-n for equivalence.

Two modes.  The t test assumes noise that is nearly normal.  If the noise has
two modes, and each run falls into either, k pairs differ by the modes alone,
all in one direction, with a chance of 2 * 4^-k: 12.5 % for 2 pairs, 0.2 % for
5.  Verdicts over two to four seeds must assume a single mode, and the table
says so; with five or more seeds, if divergence leaves fewer than five pairs, p
is at least that chance (docs/statistics.md has the measured error rates).

Power.  Few seeds detect little.  With 3 seeds and six rows at 5 % (Holm's first
level is 0.05 / 6), the paired t test calls only a measured difference of 6.3
standard deviations of the differences, and detects a true one of 8.0 with power
0.8; with 5 seeds the numbers are 2.2 and 2.8.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
import scipy

from experiments.statistics import power, reasons
from experiments.statistics.decision import (
  Decision,
  Verdict,
  decide,
  modes_floor,
)


@dataclasses.dataclass(frozen=True)
class Interval:
  """A closed confidence interval."""

  low: float
  high: float

  def half(self) -> float:
    """Returns half the width; a Student-t interval is mean +- half."""
    return (self.high - self.low) / 2


@dataclasses.dataclass(frozen=True)
class Comparison:
  """The comparison of a row with the base.

  Attributes:
    seeds: number of seeds that both ran.
    pairs: number of these that diverged in neither.
    difference: mean of row - base over the pairs.
    interval: confidence interval of the difference at 1 - alpha, uncorrected.
    sd: standard deviation of row - base over the pairs.
    p_paired: two-sided paired t test.
    p_diverged: exact test of the number of divergences.
    p: of both tests together.
    p_holm: `p` after Holm's correction.
    p_tost: the larger of the two one-sided tests of equivalence.
    p_tost_holm: `p_tost` after Holm's correction.
    smallest_effect: the true difference that this many seeds detect with power
      0.8 if no other row is called, taking `sd` for the true value.
    verdict: the decision.
    reason: remarks on the verdict; '' if there are none.
  """

  seeds: int
  pairs: int
  difference: float | None
  interval: Interval | None
  sd: float | None
  p_paired: float | None
  p_diverged: float | None
  p: float | None
  p_holm: float | None
  p_tost: float | None
  p_tost_holm: float | None
  smallest_effect: float | None
  verdict: Verdict
  reason: str


def compare(
  base: Mapping[int, float],
  rows: Mapping[str, Mapping[int, float]],
  margin: float,
  alpha: float = 0.05,
  lower_is_better: bool = True,
  withheld: Mapping[str, str] | None = None,
  bases: Mapping[str, Mapping[int, float]] | None = None,
) -> dict[str, Comparison]:
  """Compares each row with the base, as the module docstring explains.

  Args:
    base: metric by seed; a value that is not finite means divergence.
    rows: the same for each row; seeds that the base lacks are ignored.
    margin: largest difference that counts as equivalent; 0: no row can be.
    alpha: chance of any wrong call of one kind among all rows.
    lower_is_better: direction of the metric.
    withheld: row -> why it gets no verdict, whatever its numbers.
    bases: row -> metric of the base by seed for this row, if not `base`.
  """
  seeds, own = sorted(base), bases or {}
  shape = len(rows), len(seeds)
  decision = decide(
    np.reshape([_outcomes(own.get(n, base), seeds) for n in rows], shape),
    np.reshape([_outcomes(row, seeds) for row in rows.values()], shape),
    margin,
    alpha,
    lower_is_better,
  )
  found = {}
  for i, name in enumerate(rows):
    one = _comparison(decision, i, alpha)
    verdict, reason = (
      one.verdict,
      reasons.reason(decision, i, one.verdict, alpha),
    )
    if withheld and name in withheld:
      verdict, reason = 'undecided', withheld[name]
    found[name] = dataclasses.replace(one, verdict=verdict, reason=reason)
  return found


def mean_interval(
  values: Sequence[float], confidence: float
) -> tuple[float | None, Interval | None]:
  """Returns the mean and its Student-t interval, each None with too few values.

  A mean needs one value, an interval two.
  """
  if not values:
    return None, None
  mean = float(np.mean(values))
  if len(values) < 2:
    return mean, None
  half = _half(float(np.std(values, ddof=1)), len(values), confidence)
  return mean, Interval(mean - half, mean + half)


def _half(sd: float, n: int, confidence: float) -> float:
  """Returns half the width of the Student-t interval of a mean."""
  quantile = scipy.special.stdtrit(n - 1, (1 + confidence) / 2)
  return float(quantile * sd / math.sqrt(n))


def _outcomes(values: Mapping[int, float], seeds: Sequence[int]) -> list[float]:
  """Returns the metric by seed: infinite if it diverged, NaN if not run."""
  return [
    (values[seed] if math.isfinite(values[seed]) else math.inf)
    if seed in values
    else math.nan
    for seed in seeds
  ]


def _comparison(decision: Decision, row: int, alpha: float) -> Comparison:
  """Returns the comparison of one row, without its reason."""
  paired = decision.paired
  pairs = int(paired.pairs[row])
  mean, sd = (_or_none(x[row]) for x in (paired.difference, paired.sd))
  half = None if sd is None else _half(sd, pairs, 1 - alpha)
  # The level of the first step of Holm's procedure.
  level = alpha / len(decision.p) / int(decision.tests[row])
  floored = (
    reasons.few_pairs(decision, row) and modes_floor(paired.pairs)[row] > level
  )
  verdict: Verdict = 'undecided'
  if decision.called[row]:
    verdict = 'worse' if decision.called[row] > 0 else 'better'
  elif decision.within[row] and not decision.opposed[row]:
    verdict = 'equivalent'
  return Comparison(
    seeds=int(paired.seeds[row]),
    pairs=pairs,
    difference=mean,
    interval=(
      None
      if mean is None or half is None
      else Interval(mean - half, mean + half)
    ),
    sd=sd,
    p_paired=_or_none(decision.p_paired[row]),
    p_diverged=_or_none(decision.p_diverged[row]),
    p=_or_none(decision.p[row]),
    p_holm=_or_none(decision.p_holm[row]),
    p_tost=_or_none(decision.p_tost[row]),
    p_tost_holm=_or_none(decision.p_tost_holm[row]),
    smallest_effect=(
      None
      if sd is None or paired.constant[row] or floored
      else sd * power.smallest_effect(pairs, level)
    ),
    verdict=verdict,
    reason='',
  )


def _or_none(value: np.float64) -> float | None:
  return None if np.isnan(value) else float(value)
