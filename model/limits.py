"""Upper bounds of numbers, each with the reason why there is one."""

from typing import NamedTuple


class Limit(NamedTuple):
  """The largest value of a number, and why there is one."""

  most: float
  why: str


# Above them a flag is a slip of the hand, or ends in a crash far from here.
SHARE = Limit(1.0, 'it is a share of a whole')
DROPPED = Limit(0.99, 'something must be left')
DECAY = Limit(0.999999, 'with 1 a running mean never moves')
EPSILON = Limit(1.0, 'a larger one hides what it is added to')
REAL = Limit(1e30, 'the program computes in float32, which ends at 3.4e38')
COUNT = Limit(2**31 - 1, 'the program counts in int32')
WIDTH = Limit(2**24, 'no memory holds an axis so long')
DEPTH = Limit(2**14, 'no memory holds so many blocks')
BATCH = Limit(2**24, 'no memory holds so large a batch')
SYMBOLS = Limit(2**20, 'what learns it reserves memory for all symbols')
PLANNED = Limit(10_000, 'every trial is planned and checked before one runs')
POWER = Limit(10.0, 'lengths to this power must fit in float32')
BEAM = Limit(2**10, 'each hypothesis has a cache of its own')
