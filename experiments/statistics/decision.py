"""Calls rows better, worse or equivalent, in arrays of many tables at once.

Module `verdicts` explains the rule.  Simulations decide thousands of tables
with the same code that decides a real one.
"""

import dataclasses
from typing import Literal

import numpy as np
import scipy
from numpy import typing as npt

from experiments.statistics import divergence

# With at least this many seeds, the test allows for noise with two modes.
TWO_MODES = 5
# Metrics are float32 sums: a smaller relative difference is rounding.
ROUNDING = 8 * float(np.finfo(np.float32).eps)
Verdict = Literal['better', 'worse', 'equivalent', 'undecided']
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class PairedSeeds:
  """The seeds that a row and the base both ran, as arrays [table, row].

  Attributes:
    seeds: number of seeds that both ran.
    pairs: number of these that diverged in neither.
    row_diverged: number of seeds that diverged in the row.
    base_diverged: number of seeds that diverged in the base.
    one_sided: number of seeds that diverged in exactly one of the two.
    difference: mean of row - base over the pairs; NaN without pairs.
    sd: standard deviation of row - base; NaN with fewer than two pairs.
    constant: whether all differences are equal up to rounding.
    same: whether all differences are 0 up to rounding.
  """

  seeds: Ints
  pairs: Ints
  row_diverged: Ints
  base_diverged: Ints
  one_sided: Ints
  difference: Floats
  sd: Floats
  constant: Bools
  same: Bools


@dataclasses.dataclass(frozen=True)
class Decision:
  """Test results and calls, as arrays [table, row]; p is NaN without a test.

  Attributes:
    paired: the data of the tests.
    p_paired: two-sided paired t test.
    p_diverged: exact test of the number of divergences.
    p: both together: the smaller one times `tests`.
    p_holm: `p` after Holm's correction over rows.
    p_tost: test of equivalence.
    p_tost_holm: `p_tost` after Holm's correction over rows.
    tests: number of tests that `p` is corrected for: 1 or 2.
    mean_way: side of the mean difference: 1 worse, -1 better, 0 equal.
    opposed: whether the row is not called because its tests point in opposite
      directions.
    called: 1 worse, -1 better, 0 neither.
    within: whether the difference is within the margin of equivalence.
  """

  paired: PairedSeeds
  p_paired: Floats
  p_diverged: Floats
  p: Floats
  p_holm: Floats
  p_tost: Floats
  p_tost_holm: Floats
  tests: Ints
  mean_way: Ints
  opposed: Bools
  called: Ints
  within: Bools


def decide(
  base: Floats,
  rows: Floats,
  margin: float,
  alpha: float,
  lower_is_better: bool = True,
) -> Decision:
  """Decides the rows of each table.

  Args:
    base: metric of the base [table, seed], or [table, row, seed] if it differs
      by row; infinite if the seed diverged, NaN if it did not run.
    rows: metric of the rows [table, row, seed], likewise.
    margin: largest difference that counts as equivalent; 0: no row can be.
    alpha: chance of any wrong call of one kind among the rows of a table.
    lower_is_better: direction of the metric.
  """
  paired = _pair(base, rows)
  p_paired, p_tost = _paired_tests(paired, margin)
  p_diverged, counts = _diverged_test(paired, alpha)
  two = counts & ~np.isnan(p_paired)
  # Without any pair there is only the test of divergence.
  tests = np.where(counts & (paired.pairs > 0), 2, 1)
  smaller = np.where(
    two, np.fmin(p_paired, p_diverged), _fill_nan(p_paired, p_diverged)
  )
  p = np.fmin(tests * smaller, 1.0)
  p[np.isnan(smaller)] = np.nan
  p_holm, p_tost_holm = holm(p), holm(p_tost)
  up = 1 if lower_is_better else -1
  mean_way = up * np.sign(np.nan_to_num(paired.difference)).astype(np.int64)
  lost_way = np.sign(paired.row_diverged - paired.base_diverged)
  agree = np.where(lost_way, mean_way * lost_way >= 0, paired.one_sided == 0)
  found, points = p_holm <= alpha, p_paired <= alpha
  opposed = found & points & ~agree
  way = np.where(points, mean_way, lost_way)
  return Decision(
    paired=paired,
    p_paired=p_paired,
    p_diverged=p_diverged,
    p=p,
    p_holm=p_holm,
    p_tost=p_tost,
    p_tost_holm=p_tost_holm,
    tests=tests,
    mean_way=mean_way,
    opposed=opposed,
    called=np.where(found & ~opposed, way, 0),
    within=(p_tost_holm <= alpha) & (paired.one_sided == 0),
  )


def holm(p: Floats) -> Floats:
  """Returns p values adjusted by Holm's step-down procedure over the last axis.

  A NaN counts as p = 1 in the correction, and stays NaN.
  """
  known = np.where(np.isnan(p), 1.0, p)
  order = np.argsort(known, axis=-1, kind='stable')
  steps = np.arange(p.shape[-1], 0, -1) * np.take_along_axis(known, order, -1)
  found = np.empty_like(known)
  np.put_along_axis(found, order, np.maximum.accumulate(steps, axis=-1), -1)
  return np.where(np.isnan(p), np.nan, np.fmin(found, 1.0))


def _pair(base: Floats, rows: Floats) -> PairedSeeds:
  """Pairs the base and the rows by seed."""
  if base.ndim < rows.ndim:
    base = base[..., None, :]
  ran = ~(np.isnan(base) | np.isnan(rows))
  lost, base_lost = ran & np.isinf(rows), ran & np.isinf(base)
  both = ran & ~lost & ~base_lost
  x, y = (np.where(both, values, 0.0) for values in (base, rows))
  difference = y - x
  pairs = both.sum(-1)
  with np.errstate(all='ignore'):
    mean = difference.sum(-1) / pairs
    square = np.where(both, difference - mean[..., None], 0.0) ** 2
    sd = np.sqrt(square.sum(-1) / np.where(pairs > 1, pairs - 1, np.nan))
  rounding = ROUNDING * np.fmax(np.abs(x), np.abs(y)).max(-1, initial=0.0)
  low = np.where(both, difference, np.inf).min(-1, initial=np.inf)
  high = np.where(both, difference, -np.inf).max(-1, initial=-np.inf)
  constant = high - low <= rounding
  return PairedSeeds(
    seeds=ran.sum(-1),
    pairs=pairs,
    row_diverged=lost.sum(-1),
    base_diverged=base_lost.sum(-1),
    one_sided=(lost ^ base_lost).sum(-1),
    difference=mean,
    sd=sd,
    constant=constant & (pairs > 0),
    same=constant & (np.abs(mean) <= rounding),
  )


def _paired_tests(paired: PairedSeeds, margin: float) -> tuple[Floats, Floats]:
  """Returns p of the t test and of TOST (difference at least the margin)."""
  n, size = paired.pairs, np.abs(paired.difference)
  freedom = np.fmax(n - 1, 1)
  with np.errstate(all='ignore'):
    error = paired.sd / np.sqrt(n)
    p = 2 * scipy.special.stdtr(freedom, -size / error)
    p_tost = scipy.special.stdtr(freedom, (size - margin) / error)
  # Without spread t is infinite: a sign test of n equal signs replaces it.
  p = np.where(paired.constant, 2.0 ** (1 - n), p)
  p_tost = np.where(
    paired.constant, np.where(size < margin, 2.0**-n, 1.0), p_tost
  )
  few = (paired.seeds >= TWO_MODES) & (n < TWO_MODES)
  p = np.where(few, np.fmax(p, modes_floor(n)), p)
  p_tost = np.where(few, np.fmax(p_tost, modes_floor(n) / 2), p_tost)
  p = np.where(paired.same, 1.0, p)
  p_tost = np.where(paired.same, 0.0 if margin > 0 else 1.0, p_tost)
  none = n < 2
  return np.where(none, np.nan, p), np.where(none, np.nan, p_tost)


def modes_floor(pairs: Ints) -> Floats:
  """Returns the chance that all pairs differ only by two modes of the noise.

  If each run falls into one of two equally likely modes, a pair differs by the
  modes with chance 1/4 in either direction.  If all pairs do so in the same
  direction, the t test sees almost no spread and takes this for certainty.
  """
  return 2 * np.exp2(-2.0 * pairs)


def _diverged_test(paired: PairedSeeds, alpha: float) -> tuple[Floats, Bools]:
  """Returns p of the divergences, and whether it can reach alpha at all."""
  p = np.full(paired.pairs.shape, np.nan)
  counts = np.zeros(p.shape, bool)
  total = paired.row_diverged + paired.base_diverged
  for seeds in np.unique(paired.seeds).tolist():
    of = paired.seeds == seeds
    for lost in np.unique(total[of & (total > 0)]).tolist():
      at = of & (total == lost)
      possible = divergence.p_values(seeds, lost)
      p[at] = possible[paired.row_diverged[at]]
      counts[at] = possible.min() <= alpha
  return p, counts


def _fill_nan(p: Floats, other: Floats) -> Floats:
  """Returns p, with `other` in place of NaN."""
  return np.where(np.isnan(p), other, p)
