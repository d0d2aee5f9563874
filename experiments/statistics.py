"""Rows against a base, paired by seed: verdicts that hold for a whole table.

First whether a row is better or worse, by two tests: the paired t test over
the seeds that ended in both, and Fisher's exact test of how many diverged
(`divergence`). A row's p is twice the smaller of the two, Holm-corrected over
the rows. It is not doubled where so few divergences, or so many, could not
reach alpha however they fell (Tarone): a table in which nothing diverged is
judged by the t test alone. Nor where no seed ended in both, for then the
divergences are all there is to judge by.

Then, of a row not called so, equivalence: TOST within +-margin, Holm-corrected
as well, so that the chance of any wrong 'equivalent' in the table is at most
alpha, as is that of any wrong 'better' or 'worse'; of either, 2 alpha.
(Uncorrected, of six rows that are just as far off as the margin one would pass
as equivalent in up to 26 % of the tables.) Every row counts in the correction,
with p = 1 where it has no test: one that fails makes the others no easier to
call.

A seed that diverged on one side only ranks behind every number, so that no row
with one is equivalent. Where the two tests point in opposite ways the row is
undecided. A difference points where its own p is at most alpha. Divergences
point as soon as one side has more, since few seeds could never show by a test
which one breaks; and nobody is better for the seeds of both who lost as many
seeds that the other kept.

Differences without spread have no t test (t is infinite). If all are 0, the
row computed what the base did: equivalent. If all are the same other number,
the metric is coarse or ignores the seed, and p = 0 would be called from two
seeds; a sign test says what n equal signs are worth: 2^(1-n), and 2^-n for
equivalence.

The t test trusts the noise to be nearly normal. Of noise with two modes, of
which a seed falls into either, k pairs differ by the modes alone, all the same
way, with a chance of 2 * 4^-k: 12.5 % of 2 pairs, 0.2 % of 5. Two to four
seeds have to trust the noise to have one mode, and the table says so; of five
and more, those whose divergences leave fewer than five pairs have a p no less
than that chance (docs/statistics.md has the measured shares of wrong calls).

Few seeds see little. Between 3 seeds the paired t test, held at 5 % over six
rows (Holm's first level is 0.05 / 6), calls only a measured difference of 6.3
standard deviations of the differences, and finds a true one of 8.0 with power
0.8; 5 seeds come down to 2.2 and 2.8.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import special

from experiments import power, reasons
from experiments.decision import Decision, Verdict, decide, modes_floor


@dataclasses.dataclass(frozen=True)
class Interval:
  """A confidence interval, both ends included."""

  low: float
  high: float

  def half(self) -> float:
    """Returns half the width: all there is to say of a Student-t interval."""
    return (self.high - self.low) / 2


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A row against the base, over the `seeds` that both ran.

  `interval` is of this row alone, at 1 - alpha; `p_paired` is the two-sided
  paired t test over the `pairs` that ended in both, `p_diverged` the test of
  how many did not, `p` of the two; `p_tost` the larger of the two one-sided
  tests of equivalence; `smallest_effect` is the true difference that this many
  seeds call, in its direction, with power 0.8 when the other rows call nothing,
  with the measured standard deviation `sd` of the differences taken for the
  true one.
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
  """Returns the comparison of each row with the base, as the module says.

  Args:
    base: metric by seed; one that is not finite is a seed that diverged.
    rows: the same of each row; seeds that the base lacks are left out.
    margin: the largest difference that counts as none; 0 calls none equivalent.
    alpha: chance of a wrong call of one kind among all rows.
    lower_is_better: of the metric.
    withheld: row -> why it gets no verdict, whatever its numbers say.
    bases: row -> what the base has in its place, where that is not `base`.
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
    one = _read(decision, i, alpha)
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
  """Returns the mean and its Student-t interval: none with fewer than two."""
  if not values:
    return None, None
  mean = float(np.mean(values))
  if len(values) < 2:
    return mean, None
  half = _half(float(np.std(values, ddof=1)), len(values), confidence)
  return mean, Interval(mean - half, mean + half)


def _half(sd: float, n: int, confidence: float) -> float:
  """Returns half the width of the Student-t interval of a mean."""
  quantile = special.stdtrit(n - 1, (1 + confidence) / 2)
  return float(quantile * sd / math.sqrt(n))


def _outcomes(values: Mapping[int, float], seeds: Sequence[int]) -> list[float]:
  """Returns the metric by seed: infinite if it diverged, NaN if not run."""
  return [
    (values[seed] if math.isfinite(values[seed]) else math.inf)
    if seed in values
    else math.nan
    for seed in seeds
  ]


def _read(decision: Decision, row: int, alpha: float) -> Comparison:
  """Returns a row of the decision, without its reason."""
  paired = decision.paired
  pairs = int(paired.pairs[row])
  mean, sd = (_known(x[row]) for x in (paired.difference, paired.sd))
  half = None if sd is None else _half(sd, pairs, 1 - alpha)
  # What calls a row, when Holm begins.
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
    p_paired=_known(decision.p_paired[row]),
    p_diverged=_known(decision.p_diverged[row]),
    p=_known(decision.p[row]),
    p_holm=_known(decision.p_holm[row]),
    p_tost=_known(decision.p_tost[row]),
    p_tost_holm=_known(decision.p_tost_holm[row]),
    smallest_effect=(
      None
      if sd is None or paired.constant[row] or floored
      else sd * power.smallest_effect(pairs, level)
    ),
    verdict=verdict,
    reason='',
  )


def _known(value: np.float64) -> float | None:
  return None if np.isnan(value) else float(value)
