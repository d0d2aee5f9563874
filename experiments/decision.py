"""Which rows of a table are called, as arrays: many tables as easily as one.

The rule, and why, is in `statistics`; simulations decide a thousand tables by
the same lines that decide yours.
"""

import dataclasses
from typing import Literal

import numpy as np
from numpy import typing as npt
from scipy import special

from experiments import divergence

# From so many seeds on, noise of two modes is allowed for.
TWO_MODES = 5
# Metrics are sums in float32: what differs by less is the same number.
ROUNDING = 8 * float(np.finfo(np.float32).eps)
Verdict = Literal['better', 'worse', 'equivalent', 'undecided']
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True)
class Paired:
  """The seeds that a row and the base both ran, by table and row.

  `difference` and `sd` are of the `pairs` that ended in both, NaN where these
  are too few; `one_sided` counts seeds that diverged in just one of the two.
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
  """The tests, NaN where there is none, and what is called, by table and row.

  1 is worse and -1 better: `mean_way` is the side that a difference is on,
  and `called` what the row is called. `tests` is by how much p was
  multiplied; `opposed` a row not called because its two tests point in opposite
  ways; `within` one whose difference lies within the margin.
  """

  paired: Paired
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
  """Returns what is called in each table.

  Args:
    base: metric by table, row if each has its own, and seed: infinite if it
      diverged, NaN if not run.
    rows: the same by table, row and seed.
    margin: the largest difference that counts as none; 0 calls none equivalent.
    alpha: chance of a wrong call of one kind among all rows of a table.
    lower_is_better: of the metric.
  """
  paired = _pair(base, rows)
  p_paired, p_tost = _paired_tests(paired, margin)
  p_diverged, counts = _diverged_test(paired, alpha)
  two = counts & ~np.isnan(p_paired)
  # Where no seed is left to pair, there is but one test.
  tests = np.where(counts & (paired.pairs > 0), 2, 1)
  smaller = np.where(
    two, np.fmin(p_paired, p_diverged), _first(p_paired, p_diverged)
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
  """Returns the p values of Holm's step-down procedure over the last axis.

  A row without a test counts as p = 1 and stays without.
  """
  known = np.where(np.isnan(p), 1.0, p)
  order = np.argsort(known, axis=-1, kind='stable')
  steps = np.arange(p.shape[-1], 0, -1) * np.take_along_axis(known, order, -1)
  found = np.empty_like(known)
  np.put_along_axis(found, order, np.maximum.accumulate(steps, axis=-1), -1)
  return np.where(np.isnan(p), np.nan, np.fmin(found, 1.0))


def _pair(base: Floats, rows: Floats) -> Paired:
  """Returns what the seeds of both say."""
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
  return Paired(
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


def _paired_tests(paired: Paired, margin: float) -> tuple[Floats, Floats]:
  """Returns p of no difference and of one of at least the margin."""
  n, size = paired.pairs, np.abs(paired.difference)
  freedom = np.fmax(n - 1, 1)
  with np.errstate(all='ignore'):
    error = paired.sd / np.sqrt(n)
    p = 2 * special.stdtr(freedom, -size / error)
    p_tost = special.stdtr(freedom, (size - margin) / error)
  # No spread: a sign test says what so many equal signs are worth.
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
  """Returns the chance that all pairs differ by two modes, the same way.

  Of noise with two modes that are equally likely a pair differs so with chance
  1/4 each way; the t test takes such pairs, all alike, for certainty.
  """
  return 2 * np.exp2(-2.0 * pairs)


def _diverged_test(paired: Paired, alpha: float) -> tuple[Floats, Bools]:
  """Returns p of as many divergences, and whether it counts as a test."""
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


def _first(p: Floats, other: Floats) -> Floats:
  """Returns p, or the other where it is NaN."""
  return np.where(np.isnan(p), other, p)
