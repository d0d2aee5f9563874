"""The exact power of the paired t test: what a number of seeds can detect."""

import bisect
import functools
import math

import scipy

POWER = 0.8
_MOST_SEEDS = 10**7


def seeds_needed(
  sd: float, effect: float, power: float = POWER, alpha: float = 0.05
) -> int:
  """Returns the number of paired seeds that detect a true `effect`.

  Args:
    sd: standard deviation of the paired differences.
    effect: true difference, of either sign but not 0.
    power: chance that the two-sided test calls it in the right direction.
    alpha: level of the test; the first step of Holm has alpha / rows.
  """
  if not effect or sd < 0:
    raise ValueError(f'no number of seeds finds effect={effect} at sd={sd}')
  if sd == 0:
    return 2
  size = abs(effect) / sd
  high = 2
  while high < _MOST_SEEDS and _power(size, high, alpha) < power:
    high *= 2
  seeds = range(2, high)
  return seeds.start + bisect.bisect_left(
    seeds, power, key=lambda n: _power(size, n, alpha)
  )


@functools.cache
def smallest_effect(n: int, level: float, power: float = POWER) -> float:
  """Returns the smallest effect that n seeds detect, in standard deviations."""
  high = 1.0
  while _power(high, n, level) < power:
    high *= 2
  found = scipy.optimize.brentq(
    lambda size: _power(size, n, level) - power, 0, high
  )
  assert isinstance(found, float)
  return found


def _power(size: float, n: int, level: float) -> float:
  """Returns the chance to detect an effect of `size` standard deviations.

  Only the tail with the sign of the effect counts: a call in the wrong
  direction does not detect it.
  """
  critical = scipy.special.stdtrit(n - 1, 1 - level / 2)
  # P(t' > c; shift) = P(t' < -c; -shift), without the loss of 1 - cdf.
  return float(scipy.special.nctdtr(n - 1, -size * math.sqrt(n), -critical))
