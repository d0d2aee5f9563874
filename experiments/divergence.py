"""How many of a row's seeds diverged, against the base's: an exact test.

Fisher's exact test, two-sided, over all seeds that both ran. It asks how often
a split as lopsided as the one seen comes up when the divergences, as many as
were seen, fall on the base's seeds and the row's alike.

The sign test, over the seeds that diverged on one side, would hold whatever the
two have in common, but sees less: where the base never diverges and the row
does with a chance of 0.8, five seeds show it in 0 % of tables, ten in 97 %;
Fisher's test shows it in 74 % and 99 %. Nor does Fisher's err more often than
alpha where seeds have a cause in common: lopsided splits become rarer (at a
chance of 0.5 and ten seeds, 1.3 % of tables are called wrongly if each run
diverges by itself, 0.4 % if half of them do as their seed does; by the sign
test 0.8 % and 0.3 %). docs/statistics.md has more of it.
"""

import fractions
import functools
import math

import numpy as np
from numpy import typing as npt
from scipy import special

_MOST_SEEDS = 1000


@functools.cache
def p_values(seeds: int, total: int) -> npt.NDArray[np.float64]:
  """Returns p by how many of `total` divergences are the row's; 1 if too many.

  Whether any of them is small hangs on the total alone, which the test takes as
  given: where none is, it need not be counted among those tried (Tarone).
  """
  p = np.ones(seeds + 1)
  ways = {
    row: math.comb(seeds, row) * math.comb(seeds, total - row)
    for row in range(max(0, total - seeds), min(seeds, total) + 1)
  }
  for row, way in ways.items():
    # In whole numbers, so that a mirror image counts as just as likely.
    as_rare = sum(other for other in ways.values() if other <= way)
    p[row] = fractions.Fraction(as_rare, math.comb(2 * seeds, total))
  p.flags.writeable = False
  return p


def seeds_needed(row: int, base: int, seeds: int, level: float) -> int | None:
  """Returns from how many seeds on the same shares diverged have p <= level.

  Args:
    row: of its `seeds`, those that diverged.
    base: the same of the base.
    seeds: that both ran.
    level: what p may be at most.

  Returns:
    The fewest, more than `seeds`; None where the shares are equal, or where
    more than a thousand were needed.
  """
  if row == base:
    return None
  for n in range(seeds + 1, _MOST_SEEDS + 1):
    more = round(row * n / seeds)
    if _p_value(more, round(base * n / seeds), n) <= level:
      return n
  return None


def _p_value(row: int, base: int, seeds: int) -> float:
  """Returns a single p of `p_values`, of many seeds as fast as of few."""
  total = row + base
  rows = np.arange(max(0, total - seeds), min(seeds, total) + 1)
  ways = sum(
    special.gammaln(seeds + 1)
    - special.gammaln(lost + 1)
    - special.gammaln(seeds - lost + 1)
    for lost in (rows, total - rows)
  )
  shares = special.softmax(ways)
  # Of a mirror image rounding may have made another number.
  return float(shares[shares <= shares[rows == row] * (1 + 1e-7)].sum())
