"""The rule on the shape of a curve: successive phases, as a plateau and a drop.

A curve is a metric over training steps, over layers or over positions.
"""

import abc
import dataclasses
import math
from collections.abc import Iterator, Sequence

from experiments.claims.metrics import CurveAxis, Measurements
from experiments.claims.rule import (
  Claim,
  Rule,
  RuleResult,
  interval_text,
  of_seeds,
  share_text,
)

CurvePoint = tuple[float, float]  # (step, layer or position; metric)


class Phase(abc.ABC):
  """One part of a curve's shape."""

  @abc.abstractmethod
  def says(self) -> str:
    """Returns the phase in words."""

  @abc.abstractmethod
  def ends(self, points: Sequence[CurvePoint], start: int) -> Iterator[int]:
    """Yields each index at which the phase can end if it begins at `start`."""


@dataclasses.dataclass(frozen=True)
class Level(Phase):
  """At some point the metric lies in an interval.

  Attributes:
    low: smallest accepted value.
    high: largest accepted value.
    after: first step (layer, position) that counts.
    before: last step (layer, position) that counts.
    always: the metric must lie there at every point from `after` to `before`.
  """

  low: float = -math.inf
  high: float = math.inf
  after: float = -math.inf
  before: float = math.inf
  always: bool = False

  def says(self) -> str:
    always = ' always' if self.always else ''
    where = _range_text(self.after, self.before)
    return interval_text(self.low, self.high) + always + where

  def ends(self, points: Sequence[CurvePoint], start: int) -> Iterator[int]:
    here = [n for n, (x, _) in enumerate(points) if self._counts_at(x)]
    good = {n for n in here if self.low <= points[n][1] <= self.high}
    if self.always:
      here = [n for n in here if n >= start]
      if here and good.issuperset(here):
        yield here[-1]
      return
    yield from (n for n in here if n >= start and n in good)

  def _counts_at(self, x: float) -> bool:
    return self.after <= x <= self.before


@dataclasses.dataclass(frozen=True)
class Drop(Phase):
  """The metric falls from its value at the end of the previous phase.

  Attributes:
    by: smallest fall; a negative number asks for a rise.
    within: largest number of steps (layers, positions) that it may take.
  """

  by: float
  within: float = math.inf

  def says(self) -> str:
    way = f'falls by {self.by:g}' if self.by > 0 else f'rises by {-self.by:g}'
    return way + (f' within {self.within:g}' if self.within < math.inf else '')

  def ends(self, points: Sequence[CurvePoint], start: int) -> Iterator[int]:
    if start >= len(points):
      return
    x, y = points[start]
    for n in range(start + 1, len(points)):
      fall = y - points[n][1]
      far = fall >= self.by if self.by > 0 else fall <= self.by
      if points[n][0] - x <= self.within and far:
        yield n


@dataclasses.dataclass(frozen=True)
class CurveShape(Rule):
  """The curve of a seed passes through all phases, one after the other.

  A phase begins at any point at which the previous one can end.

  Attributes:
    phases: in order.
    along: the axis of the curve.
    share: share of seeds whose curve must pass.
  """

  phases: tuple[Phase, ...]
  along: CurveAxis = 'step'
  share: float = 1.0

  @property
  def axes(self) -> frozenset[CurveAxis]:
    return frozenset((self.along,))

  def accepts(self, claim: Claim) -> str:
    seen = ', then '.join(phase.says() for phase in self.phases)
    return f'over {self.along}s: {seen}{share_text(self.share)}'

  def find(self, found: Measurements, claim: Claim) -> RuleResult:
    series = found.along(self.along, claim.row, claim.metric)
    good = sum(_passes(points, 0, self.phases) for points in series.values())
    return of_seeds(good, len(series), self.share)


def _passes(
  points: Sequence[CurvePoint], start: int, phases: Sequence[Phase]
) -> bool:
  """Returns whether the points from `start` on pass through the phases."""
  if not phases:
    return True
  first, *rest = phases
  return any(_passes(points, end, rest) for end in first.ends(points, start))


def _range_text(after: float, before: float) -> str:
  """Returns the range of steps, layers or positions, in words."""
  if after == -math.inf and before == math.inf:
    return ''
  if after == before:
    return f' at {after:g}'
  if after == -math.inf:
    return f' by {before:g}'
  return f' from {after:g}' + (f' to {before:g}' if before < math.inf else '')
