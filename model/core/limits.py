"""Upper bounds of flags, each with its reason."""

from typing import NamedTuple


class Limit(NamedTuple):
  """The largest allowed value of a number, and the reason."""

  most: float
  why: str


# A larger value is a typing error, or would crash much later.
SHARE = Limit(1.0, 'it is a share of a whole')
DROPOUT_RATE = Limit(0.99, 'something must be left')
DECAY = Limit(0.999999, 'with 1 a running mean never moves')
EPSILON = Limit(1.0, 'a larger one hides what it is added to')
REAL = Limit(1e30, 'the program computes in float32, which ends at 3.4e38')
COUNT = Limit(2**31 - 1, 'the program counts in int32')
WIDTH = Limit(2**24, 'no memory holds an axis so long')
DEPTH = Limit(2**14, 'no memory holds so many blocks')
BATCH = Limit(2**24, 'no memory holds so large a batch')
SYMBOLS = Limit(2**20, 'training a tokenizer reserves memory for all symbols')
PLANNED = Limit(10_000, 'every trial is planned and checked before one runs')
LENGTH_EXPONENT = Limit(10.0, 'lengths to this power must fit in float32')
BEAM = Limit(2**10, 'each hypothesis has a cache of its own')
