"""The geometry of a forest plot: each row's difference from the base."""

import dataclasses
from collections.abc import Mapping

from experiments.report import axes
from experiments.table import table as tables


@dataclasses.dataclass(frozen=True)
class Strip:
  """A difference and its interval; a cut end is drawn as an arrow."""

  at: float
  low: float | None
  high: float | None
  cut_low: bool
  cut_high: bool


@dataclasses.dataclass(frozen=True)
class Forest:
  """The differences of all rows on one axis, in SVG units.

  Attributes:
    width: of the plot.
    zero: position of no difference.
    margin: both ends of the margin of equivalence.
    ticks: ticks of the axis.
    strips: row -> difference.
  """

  width: float
  zero: float
  margin: tuple[float, float]
  ticks: tuple[axes.Tick, ...]
  strips: Mapping[str, Strip]


def forest(table: tables.AblationTable, width: float = 140) -> Forest | None:
  """Returns the forest plot of a table; None if no row has a difference."""
  rows = {r.row: r for r in table.rows if r.difference is not None}
  points = [r.difference for r in rows.values() if r.difference is not None]
  if not points:
    return None
  # One wide interval must not shrink the other rows to nothing.
  reach = 1.6 * max(abs(point) for point in points) or 1.0
  ends = [
    end
    for row in rows.values()
    if row.difference_interval is not None
    for end in (row.difference_interval.low, row.difference_interval.high)
  ]
  low = max(-reach, min([0.0, *points, *ends]))
  high = min(reach, max([0.0, *points, *ends]))
  pad = 0.06 * (high - low) or 1.0
  scale = axes.Scale(low - pad, high + pad, 0, width)
  margin = table.absolute_margin or 0.0
  return Forest(
    width,
    scale.at(0.0),
    (scale.at(max(-margin, scale.low)), scale.at(min(margin, scale.high))),
    scale.ticks(3),
    {name: _strip(row, scale) for name, row in rows.items()},
  )


def _strip(row: tables.RowSummary, scale: axes.Scale) -> Strip:
  interval = row.difference_interval
  at = scale.at(row.difference or 0.0)
  if interval is None:
    return Strip(at, None, None, False, False)
  return Strip(
    at,
    scale.at(max(interval.low, scale.low)),
    scale.at(min(interval.high, scale.high)),
    interval.low < scale.low,
    interval.high > scale.high,
  )
