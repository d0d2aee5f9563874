"""Positions: of an embedding, of a query or key, or of a logit."""

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from spec.reference.arithmetic import Params, Vector

# Position: of an embedding, a query or key, or a logit of head n of N. --------


def same_embedding(variant: Any, params: Params, x_D: Vector, t: int) -> Vector:
  """The embedding as it is."""
  return x_D


def same_head(variant: Any, x_H: Vector, t: int) -> Vector:
  """The query or key as it is."""
  return x_H


def no_bias(
  variant: Any, params: Params, n: int, num_heads: int, t: int, s: int
) -> float:
  """Nothing."""
  return 0.0


class PositionReference(NamedTuple):
  """Of an embedding, of a query or key, and of a logit."""

  embed: Callable[[Any, Params, Vector, int], Vector] = same_embedding
  rotate: Callable[[Any, Vector, int], Vector] = same_head
  bias: Callable[[Any, Params, int, int, int, int], float] = no_bias


def sinusoidal(variant: Any, params: Params, x_D: Vector, t: int) -> Vector:
  """Vaswani et al. 2017, section 3.5: sines on even units, cosines on odd."""
  width, out_D = len(x_D), []
  for j in range(width):
    angle = t / variant.theta ** (2 * (j // 2) / width)
    wave = math.sin(angle) if j % 2 == 0 else math.cos(angle)
    out_D.append(x_D[j] + wave)
  return np.array(out_D)


def learned(variant: Any, params: Params, x_D: Vector, t: int) -> Vector:
  """One trained vector for each position."""
  return np.array([x_D[j] + params['table'][t, j] for j in range(len(x_D))])


def rope(variant: Any, x_H: Vector, t: int) -> Vector:
  """Su et al. 2021, equation 15, with the pair i made of i and i + H/2."""
  width = len(x_H)
  half, out_H = width // 2, np.zeros(width)
  for i in range(half):
    angle = t * variant.theta ** (-2 * i / width)
    turned = complex(x_H[i], x_H[i + half]) * complex(
      math.cos(angle), math.sin(angle)
    )
    out_H[i], out_H[i + half] = turned.real, turned.imag
  return out_H


def alibi(
  variant: Any, params: Params, n: int, num_heads: int, t: int, s: int
) -> float:
  """Press et al. 2022, section 3: slopes 2^(-8/N), 2^(-16/N), ...

  For N that are no power of two as in the authors' `get_slopes`: first the
  slopes of the power of two below, then the 1st, 3rd, ... of the one above.
  """
  below = 1
  while 2 * below <= num_heads:
    below *= 2
  if n < below:
    slope = 2 ** (-8 * (n + 1) / below)
  else:
    slope = 2 ** (-8 * (2 * (n - below) + 1) / (2 * below))
  return -slope * abs(t - s)


def t5_far(distance: int, exact: int, growing: int, largest: int) -> int:
  """Returns the bucket of a far distance, in fractions.

  exact + floor(growing log(distance / exact) / log(largest / exact)), at most
  the last: the floor is the largest j whose power is not beyond the distance.
  """
  power = Fraction(distance, exact) ** growing
  reached = [
    j for j in range(growing) if Fraction(largest, exact) ** j <= power
  ]
  return exact + max(reached)


def t5(
  variant: Any, params: Params, n: int, num_heads: int, t: int, s: int
) -> float:
  """Raffel et al. 2020: `_relative_position_bucket` of the authors' code."""
  buckets, ahead, first = variant.buckets, s - t, 0
  if variant.bidirectional:
    buckets //= 2
    if ahead > 0:
      first = buckets
    distance = abs(ahead)
  else:
    distance = max(0, -ahead)
  exact = buckets // 2
  if distance < exact:
    bucket = distance
  else:
    bucket = t5_far(distance, exact, buckets - exact, variant.max_distance)
  return params['bias'][first + bucket, n]


POSITIONS: dict[str, Any] = {
  'none': PositionReference(),
  'sinusoidal': PositionReference(embed=sinusoidal),
  'learned': PositionReference(embed=learned),
  'rope': PositionReference(rotate=rope),
  'alibi': PositionReference(bias=alibi),
  't5': PositionReference(bias=t5),
}
