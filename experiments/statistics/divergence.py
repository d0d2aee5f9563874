"""Exact test of whether a row diverges more often, or less, than the base.

Fisher's exact test, two-sided, over all seeds that both ran: given the total
number of divergences, how often would a split between base and row be at least
as uneven as the observed one, if both were equally likely to diverge?

The sign test, over the seeds that diverged in one of the two only, is valid
whatever base and row share by seed, but has less power.  If the base never
diverges and the row does with a chance of 0.8, it finds this in 0 % of tables
with five seeds and 97 % with ten; Fisher's test in 74 % and 99 %.  And Fisher's
test stays below alpha if base and row share causes by seed, because uneven
splits become rarer: at a chance of 0.5 and ten seeds, 1.3 % of tables are
called wrongly if all runs are independent, 0.4 % if half of them diverge as
their seed does (sign test: 0.8 % and 0.3 %).  See docs/statistics.md.
"""

import fractions
import functools
import math

import numpy as np
import scipy
from numpy import typing as npt

_MOST_SEEDS = 1000


@functools.cache
def p_values(seeds: int, total: int) -> npt.NDArray[np.float64]:
  """Returns p for each number of the `total` divergences that are the row's.

  An impossible number has p = 1.  The smallest p depends on the total only,
  which the test conditions on: if it exceeds the level, the test need not be
  counted in a correction for multiple tests (Tarone).
  """
  p = np.ones(seeds + 1)
  ways = {
    row: math.comb(seeds, row) * math.comb(seeds, total - row)
    for row in range(max(0, total - seeds), min(seeds, total) + 1)
  }
  for row, way in ways.items():
    # In integers, so that a split and its mirror image are equally likely.
    as_rare = sum(other for other in ways.values() if other <= way)
    p[row] = fractions.Fraction(as_rare, math.comb(2 * seeds, total))
  p.flags.writeable = False
  return p


def seeds_needed(row: int, base: int, seeds: int, level: float) -> int | None:
  """Returns the number of seeds at which the same shares reach p <= level.

  Args:
    row: number of the row's seeds that diverged.
    base: number of the base's seeds that diverged.
    seeds: number of seeds that both ran.
    level: largest p.

  Returns:
    The smallest number above `seeds`; None if the shares are equal, or if more
    than a thousand seeds would be needed.
  """
  if row == base:
    return None
  for n in range(seeds + 1, _MOST_SEEDS + 1):
    more = round(row * n / seeds)
    if _p_value(more, round(base * n / seeds), n) <= level:
      return n
  return None


def _p_value(row: int, base: int, seeds: int) -> float:
  """Returns one entry of `p_values`, in floating point: fast for many seeds."""
  total = row + base
  rows = np.arange(max(0, total - seeds), min(seeds, total) + 1)
  ways = sum(
    scipy.special.gammaln(seeds + 1)
    - scipy.special.gammaln(lost + 1)
    - scipy.special.gammaln(seeds - lost + 1)
    for lost in (rows, total - rows)
  )
  shares = scipy.special.softmax(ways)
  # The factor includes the mirror image, whose share may differ by rounding.
  return float(shares[shares <= shares[rows == row] * (1 + 1e-7)].sum())
