"""Axes of the report's charts: from data to SVG units, with round ticks."""

import dataclasses
import math

import numpy as np
from numpy import typing as npt

Array = npt.NDArray[np.floating]


@dataclasses.dataclass(frozen=True)
class Tick:
  """A tick: its position in SVG units, and its label."""

  at: float
  label: str


@dataclasses.dataclass(frozen=True)
class Scale:
  """An axis: maps [low, high] in data units to [start, stop] in SVG units."""

  low: float
  high: float
  start: float
  stop: float
  log: bool = False

  def __call__(self, values: Array) -> Array:
    """Maps values to SVG units; those far outside the axis are clipped."""
    low, high = self.low, self.high
    if self.log:
      values = np.log(np.maximum(values, 1e-300))
      low, high = math.log(low), math.log(high)
    fraction = np.clip((values - low) / (high - low), -9, 9)
    return self.start + (self.stop - self.start) * fraction

  def ticks(self, count: int) -> tuple[Tick, ...]:
    """Returns about `count` ticks at round values."""
    values = _round_values(self.low, self.high, count, self.log)
    places = self(np.array(values))
    return tuple(
      Tick(round(float(at), 1), _label(value))
      for at, value in zip(places, values, strict=True)
    )

  def at(self, value: float) -> float:
    """Maps one value to SVG units."""
    return round(float(self(np.array([value]))[0]), 1)


def _label(value: float) -> str:
  """Formats a number as a short label, such as 20k or 0.05."""
  if abs(value) >= 1e6:
    return f'{value / 1e6:g}M'
  return f'{value / 1e3:g}k' if abs(value) >= 1e4 else f'{value:g}'


def _round_values(
  low: float, high: float, count: int, log: bool
) -> list[float]:
  """Returns about `count` round values from low to high."""
  if log:
    powers = range(
      math.floor(math.log10(low)), math.floor(math.log10(high)) + 1
    )
    for factors in ((1, 2, 3, 5), (1, 2, 5), (1, 3), (1,)):
      values = [f * 10.0**power for power in powers for f in factors]
      values = [value for value in values if low <= value <= high]
      if len(values) <= count + 2:
        break
    return values
  rough = (high - low) / count
  unit = 10.0 ** math.floor(math.log10(rough))
  step = next(f * unit for f in (1, 2, 2.5, 5, 10) if f * unit >= rough)
  first, last = math.ceil(low / step), math.floor(high / step)
  return [float(f'{i * step:.6g}') for i in range(first, last + 1)]
