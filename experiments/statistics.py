"""Rows against a base, paired by seed: verdicts that hold for a whole table.

First the difference: the paired t test, Holm-corrected over the rows, calls
better or worse. Then, of a row not called so, equivalence: TOST within
+-margin, Holm-corrected as well, so that the chance of any wrong 'equivalent'
in the table is at most alpha, as is that of any wrong 'better' or 'worse'; of
either, 2 alpha. (Uncorrected, of six rows that are just as far off as the
margin one would pass as equivalent in up to 26 % of the tables.) Every row
counts in the correction, with p = 1 where it has no test: one that fails makes
the others no easier to call.

A seed that diverged on one side only is not dropped in silence: it ranks
behind every number. If it is the row's, the row is not called better or
equivalent; if the base's, not worse or equivalent. A row left without a pair
is called worse when at least two of its seeds diverged where the base did not,
and none the other way round; better in the reverse case. That is a rule, not a
test: were divergence the same coin toss for both, n seeds would show it with a
chance of at most 4^-n.

Differences without spread have no t test (t is infinite). If all are 0, the
row computed what the base did: equivalent. If all are the same other number,
the metric is coarse or ignores the seed, and p = 0 would be called from two
seeds; a sign test says what n equal signs are worth: 2^(1-n), and 2^-n for
equivalence.

Few seeds see little. Between 3 seeds the paired t test, held at 5 % over six
rows (Holm's first level is 0.05 / 6), calls only a measured difference of 6.3
standard deviations of the differences, and finds a true one of 8.0 with power
0.8; 5 seeds come down to 2.2 and 2.8.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from scipy import special

from experiments import power

Verdict = Literal['better', 'worse', 'equivalent', 'undecided']
# Metrics are sums in float32: what differs by less is the same number.
_ROUNDING = 8 * float(np.finfo(np.float32).eps)


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
  """A row against the base.

  `interval` is of this row alone, at 1 - alpha; `p` is the two-sided paired t
  test, `p_tost` the larger of the two one-sided tests of equivalence;
  `smallest_effect` is the true difference that this many seeds call, in its
  direction, with power 0.8 when the other rows call nothing, with the measured
  standard deviation `sd` of the differences taken for the true one.
  """

  pairs: int
  difference: float | None
  interval: Interval | None
  sd: float | None
  p: float | None
  p_holm: float | None
  p_tost: float | None
  p_tost_holm: float | None
  smallest_effect: float | None
  verdict: Verdict
  reason: str


@dataclasses.dataclass(frozen=True)
class _Pairs:
  """The seeds of both: where both ended well, or just one of them did."""

  differences: Sequence[float]
  rounding: float
  only_row_diverged: int
  only_base_diverged: int

  @functools.cached_property
  def mean(self) -> float:
    return sum(self.differences) / len(self.differences)

  @functools.cached_property
  def sd(self) -> float:
    return float(np.std(self.differences, ddof=1))

  @property
  def constant(self) -> bool:
    """Whether the differences are one number, up to rounding."""
    return max(self.differences) - min(self.differences) <= self.rounding


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
  own = bases or {}
  pairs = {n: _pair(own.get(n, base), row) for n, row in rows.items()}
  tests = {
    name: _test(p, margin) if len(p.differences) > 1 else None
    for name, p in pairs.items()
  }
  holm = _holm([test[0] if test else 1.0 for test in tests.values()])
  holm_tost = _holm([test[1] if test else 1.0 for test in tests.values()])
  found = {}
  for i, (name, test) in enumerate(tests.items()):
    one = _measure(pairs[name], alpha, alpha / len(rows))
    if test:
      p, p_tost = test
      one = dataclasses.replace(
        one, p=p, p_holm=holm[i], p_tost=p_tost, p_tost_holm=holm_tost[i]
      )
    verdict, reason = _judge(one, pairs[name], alpha, lower_is_better)
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
  quantile = special.stdtrit(len(values) - 1, (1 + confidence) / 2)
  half = float(quantile * np.std(values, ddof=1) / math.sqrt(len(values)))
  return mean, Interval(mean - half, mean + half)


def _pair(base: Mapping[int, float], row: Mapping[int, float]) -> _Pairs:
  """Returns what the seeds of both say."""
  ended = [
    (base[seed], row[seed], math.isfinite(base[seed]), math.isfinite(row[seed]))
    for seed in sorted(base.keys() & row.keys())
  ]
  both = [(x, y) for x, y, base_ok, row_ok in ended if base_ok and row_ok]
  largest = max((abs(value) for pair in both for value in pair), default=0.0)
  return _Pairs(
    [y - x for x, y in both],
    _ROUNDING * largest,
    sum(base_ok and not row_ok for _, _, base_ok, row_ok in ended),
    sum(row_ok and not base_ok for _, _, base_ok, row_ok in ended),
  )


def _test(pairs: _Pairs, margin: float) -> tuple[float, float]:
  """Returns p of no difference and of one of at least the margin."""
  n = len(pairs.differences)
  size = abs(pairs.mean)
  if pairs.constant:
    if size <= pairs.rounding:
      return 1.0, 0.0 if margin > 0 else 1.0
    return 2.0 ** (1 - n), 2.0**-n if size < margin else 1.0
  error = pairs.sd / math.sqrt(n)
  return (
    2 * float(special.stdtr(n - 1, -size / error)),
    float(special.stdtr(n - 1, (size - margin) / error)),
  )


def _holm(p: Sequence[float]) -> list[float]:
  """Returns the p values of Holm's step-down procedure."""
  if not p:
    return []
  # Here, as it loads pandas: a second that --help need not wait.
  from statsmodels.stats import multitest

  corrected = multitest.multipletests(p, method='holm')[1]
  assert corrected is not None
  return corrected.tolist()


def _measure(pairs: _Pairs, alpha: float, level: float) -> Comparison:
  """Returns the comparison before its tests; `level` is Holm's first."""
  n = len(pairs.differences)
  mean, interval = mean_interval(pairs.differences, 1 - alpha)
  sd = pairs.sd if n > 1 else None
  return Comparison(
    pairs=n,
    difference=mean,
    interval=interval,
    sd=sd,
    p=None,
    p_holm=None,
    p_tost=None,
    p_tost_holm=None,
    smallest_effect=(
      None
      if sd is None or pairs.constant
      else sd * power.smallest_effect(n, level)
    ),
    verdict='undecided',
    reason='',
  )


def _judge(
  one: Comparison, pairs: _Pairs, alpha: float, lower_is_better: bool
) -> tuple[Verdict, str]:
  """Returns the verdict and what a reader of it has to know."""
  row, base = pairs.only_row_diverged, pairs.only_base_diverged
  if one.difference is None or one.p_holm is None or one.p_tost_holm is None:
    if not one.pairs and row > 1 and not base:
      return 'worse', f'{row} seeds diverged, with the base none of them'
    if not one.pairs and base > 1 and not row:
      return 'better', f'{base} seeds diverged with the base, here none of them'
    return 'undecided', f'{one.pairs or "no"} paired seed'
  verdict: Verdict = 'undecided'
  equivalent = one.p_tost_holm <= alpha
  if one.p_holm <= alpha:
    better = (one.difference < 0) == lower_is_better
    verdict = 'better' if better else 'worse'
  elif equivalent:
    verdict = 'equivalent'
  if row and verdict in ('better', 'equivalent'):
    return 'undecided', _withdrawn(verdict, row, 'here, not with the base')
  if base and verdict in ('worse', 'equivalent'):
    return 'undecided', _withdrawn(verdict, base, 'with the base, not here')
  reasons = []
  if pairs.constant:
    same = abs(one.difference) <= pairs.rounding
    reasons.append(
      'the same numbers as the base'
      if same
      else 'the same difference in every seed, so a sign test'
    )
  if equivalent and verdict in ('better', 'worse'):
    reasons.append('yet within the margin')
  return verdict, '; '.join(reasons)


def _withdrawn(verdict: Verdict, seeds: int, where: str) -> str:
  plural = 's' * (seeds > 1)
  return f'not called {verdict}: {seeds} seed{plural} diverged {where}'
