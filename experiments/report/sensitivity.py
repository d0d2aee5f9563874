"""The geometry of the charts of the metric over a tuned value.

How fast a row's loss rises away from its best value is a result in itself
(Wortsman et al. 2023, arXiv:2309.14322, section 2).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.report import axes, charts
from experiments.rows.tuning import TuningResult
from experiments.table import table as tables

_LOG_RATIO = 4
_REACH = 3.0


@dataclasses.dataclass(frozen=True)
class Trace:
  """The line of a row, in SVG units.

  Attributes:
    row: name of the row.
    stroke: its colour and dashes.
    path: SVG path.
    points: the tried values.
    chosen: the point that the row chose; None if it did not finish.
    end: where the line to the label begins.
    label: its name, shortened.
    label_y: height of the label.
  """

  row: str
  stroke: charts.Stroke
  path: str
  points: tuple[tuple[float, float], ...]
  chosen: tuple[float, float] | None
  end: tuple[float, float]
  label: str
  label_y: float


@dataclasses.dataclass(frozen=True)
class Sensitivity:
  """The chart of one tuned field: a line for each row, in SVG units."""

  field: str
  frame: charts.Frame
  traces: tuple[Trace, ...]
  notes: tuple[str, ...]


def sensitivities(
  tuned: Mapping[str, TuningResult], table: tables.AblationTable
) -> list[Sensitivity]:
  """Returns a chart for each tuned field.

  At each value of the field it shows the best point over the other fields.

  Args:
    tuned: what each row tried and chose.
    table: table of these rows, by the tuned metric.
  """
  fields = list(next(iter(tuned.values())).point) if tuned else []
  strokes, sign = charts.strokes(table), 1 if table.lower_is_better else -1
  charted = [_sensitivity(field, tuned, strokes, sign) for field in fields]
  return [chart for chart in charted if chart is not None]


def _sensitivity(
  field: str,
  tuned: Mapping[str, TuningResult],
  strokes: Mapping[str, charts.Stroke],
  sign: int,
) -> Sensitivity | None:
  """Returns the chart of one field; None if no trial finished.

  A cost is a value times `sign`, so that lower is better.
  """
  best = {
    row: _profile(field, tuned[row], sign) for row in strokes if row in tuned
  }
  ended = {row: _finite(profile) for row, profile in best.items()}
  drawn = {row: points for row, points in ended.items() if points}
  if not drawn:
    return None
  left, right, top = 56.0, 690.0, 14.0
  bottom = top + max(300.0, charts.LABEL_GAP * len(drawn))
  values = [value for profile in best.values() for value in profile]
  x = _axis(min(values), max(values), left, right)
  y = _costs(drawn, sign, bottom, top)
  places = {
    row: [
      (x.at(v), min(max(y.at(sign * cost), top), bottom)) for v, cost in points
    ]
    for row, points in drawn.items()
  }
  heights = charts.spread_labels(
    {r: p[-1][1] for r, p in places.items()}, top, bottom
  )
  traces = [
    Trace(
      row,
      strokes[row],
      charts.path(points),
      tuple(points),
      _chosen(field, tuned[row], drawn[row], points),
      points[-1],
      charts.short(row),
      heights[row],
    )
    for row, points in places.items()
  ]
  frame = charts.Frame(
    900, bottom + 40, left, right, top, bottom, x.ticks(6), y.ticks(6), field
  )
  return Sensitivity(field, frame, tuple(traces), _notes(field, best))


def _costs(
  drawn: Mapping[str, Sequence[tuple[float, float]]],
  sign: int,
  bottom: float,
  top: float,
) -> axes.Scale:
  """Returns the axis of the metric."""
  costs = [cost for points in drawn.values() for _, cost in points]
  lowest = min(costs)
  spread = max(min(cost for _, cost in p) for p in drawn.values()) - lowest
  # A value that almost diverged would squeeze the others into one line.
  reach = lowest + _REACH * max(spread, float(np.median(costs)) - lowest)
  highest = min(max(costs), reach) if reach > lowest else max(costs)
  pad = 0.06 * (highest - lowest) or 1.0
  low, high = sorted((sign * (lowest - pad), sign * (highest + pad)))
  return axes.Scale(low, high, bottom, top)


def _profile(field: str, own: TuningResult, sign: int) -> dict[float, float]:
  """Returns the lowest cost at each value of a field."""
  out: dict[float, float] = {}
  for point, mean in own.tried:
    value = float(point[field])
    out[value] = min(sign * mean, out.get(value, math.inf))
  return dict(sorted(out.items()))


def _finite(profile: Mapping[float, float]) -> list[tuple[float, float]]:
  return [(v, cost) for v, cost in profile.items() if math.isfinite(cost)]


def _axis(low: float, high: float, start: float, stop: float) -> axes.Scale:
  """Returns the axis of the field, logarithmic over a wide range."""
  if low > 0 and high / low >= _LOG_RATIO:
    return axes.Scale(low / 1.15, high * 1.15, start, stop, log=True)
  pad = 0.05 * (high - low)
  return axes.Scale(low - pad, high + pad, start, stop)


def _chosen(
  field: str,
  own: TuningResult,
  points: Sequence[tuple[float, float]],
  places: Sequence[tuple[float, float]],
) -> tuple[float, float] | None:
  """Returns the point of the chosen value, or None."""
  value = float(own.point[field])
  found = [at for at, (v, _) in zip(places, points, strict=True) if v == value]
  return found[0] if found else None


def _notes(
  field: str, profiles: Mapping[str, Mapping[float, float]]
) -> tuple[str, ...]:
  """Returns a sentence on the values whose training did not finish."""
  lost = [
    f'{row} at {value:g}'
    for row, profile in profiles.items()
    for value, cost in profile.items()
    if not math.isfinite(cost)
  ]
  if not lost:
    return ()
  return (f'Did not train to the end with this {field}: {", ".join(lost)}.',)
