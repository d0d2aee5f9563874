"""The geometry of the learning curves, which report.html.j2 draws as SVG."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from experiments.messages.escapes import escape_name
from experiments.report import axes
from experiments.table import table as tables

Points = Sequence[tuple[int, float]]
Curves = Mapping[str, Mapping[int, Points]]
_Array = axes.Array

_MAX_POINTS = 200
_NUM_COLOURS = 7
_DASHES = ('none', '7 3', '2 3', '9 3 2 3')
LABEL_GAP = 16
_LOG_RATIO = 5
_EARLY = 0.2
_MIN_POINTS = 8

READING = (
  'Lines are means over the seeds that ended well, bands their minimum to '
  f'maximum; curves of more than {_MAX_POINTS} points are averaged in bins. '
  f'The last {1 - _EARLY:.0%} of the steps set the vertical axis, so '
  'earlier values may leave the frame.'
)


@dataclasses.dataclass(frozen=True)
class Stroke:
  """Colour and dashes of a row, the same in the table and in every chart."""

  colour: str
  dash: str


@dataclasses.dataclass(frozen=True)
class ChartLine:
  """The curve of a row, in SVG units.

  Attributes:
    row: name of the row.
    label: its name, shortened.
    stroke: its colour and dashes.
    mean: SVG path of the mean over seeds.
    band: SVG path from the minimum to the maximum over seeds; '' if none.
    alone: SVG paths of the seeds that are left out of the mean.
    end: where the line to the label begins.
    label_y: height of the label.
  """

  row: str
  label: str
  stroke: Stroke
  mean: str
  band: str
  alone: tuple[str, ...]
  end: tuple[float, float]
  label_y: float


@dataclasses.dataclass(frozen=True)
class Frame:
  """A pair of axes in SVG units, with the title of the horizontal one."""

  width: float
  height: float
  left: float
  right: float
  top: float
  bottom: float
  x_ticks: tuple[axes.Tick, ...]
  y_ticks: tuple[axes.Tick, ...]
  x_label: str


@dataclasses.dataclass(frozen=True)
class Chart:
  """The curves of all rows.

  Attributes:
    frame: the axes.
    log: whether the vertical axis is logarithmic.
    banded: whether any row has a band.
    lines: the curves, the base last.
    notes: sentences for the caption.
  """

  frame: Frame
  log: bool
  banded: bool
  lines: tuple[ChartLine, ...]
  notes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class _Curve:
  """The curve of a row in data units.

  Attributes:
    steps: steps that all averaged seeds share.
    mean: mean over these seeds.
    low: minimum over these seeds.
    high: maximum over these seeds.
    alone: (steps, values) of each seed that is left out of the mean.
  """

  steps: _Array
  mean: _Array
  low: _Array
  high: _Array
  alone: tuple[tuple[_Array, _Array], ...]


def strokes(table: tables.AblationTable) -> dict[str, Stroke]:
  """Returns the stroke of each row: first colours differ, then dashes."""
  others = [row.row for row in table.rows if not row.is_base]
  return {table.base: Stroke('var(--ink)', 'none')} | {
    row: Stroke(f'var(--c{colour})', _DASHES[turn % len(_DASHES)])
    for i, row in enumerate(others)
    for turn, colour in [divmod(i, _NUM_COLOURS)]
  }


def chart(curves: Curves, table: tables.AblationTable) -> Chart | None:
  """Returns the chart of all rows; None if there is nothing to draw."""
  found = {
    row.row: _aggregate(curves[row.row], set(row.values))
    for row in table.rows
    if row.row in curves
  }
  found = {row: c for row, c in found.items() if c.mean.size or c.alone}
  if not found:
    return None
  left, right, top = 56.0, 690.0, 14.0
  bottom = top + max(330.0, LABEL_GAP * len(found))
  x, y = _scales(list(found.values()), left, right, top, bottom)
  ends = {row: _end(curve, x, y) for row, curve in found.items()}
  heights = spread_labels(
    {row: end[1] for row, end in ends.items()}, top, bottom
  )
  stroke = strokes(table)
  lines = [
    _line(row, curve, stroke[row], x, y, ends[row], heights[row])
    for row, curve in found.items()
  ]
  missing = [row.row for row in table.rows if row.row not in found]
  return Chart(
    Frame(
      900,
      bottom + 40,
      left,
      right,
      top,
      bottom,
      x.ticks(6),
      y.ticks(7),
      'step',
    ),
    log=y.log,
    banded=any(line.band for line in lines),
    # The base is drawn last, so that it lies above the other rows.
    lines=tuple(sorted(lines, key=lambda line: line.row == table.base)),
    notes=_notes(found, missing),
  )


def _aggregate(seeds: Mapping[int, Points], ok: set[int]) -> _Curve:
  """Averages the seeds in `ok` at the steps that they share."""
  finite = {
    seed: {step: value for step, value in points if math.isfinite(value)}
    for seed, points in seeds.items()
  }
  whole = [finite[seed] for seed in sorted(finite) if seed in ok]
  shared = sorted(set.intersection(*map(set, whole))) if whole else []
  # A diverged seed ends early, where the mean would jump.
  apart = [
    points
    for seed, points in sorted(finite.items())
    if points and (seed not in ok or not shared)
  ]
  values = np.array(
    [_bins([points[step] for step in shared], np.mean) for points in whole]
  ).reshape(max(1, len(whole)), -1)
  return _Curve(
    _bins(shared, np.max),
    values.mean(0),
    values.min(0),
    values.max(0),
    tuple(
      (
        _bins(sorted(points), np.max),
        _bins([points[step] for step in sorted(points)], np.mean),
      )
      for points in apart
    ),
  )


def _bins(values: Sequence[float], reduce: Callable[[_Array], float]) -> _Array:
  """Reduces the values to at most _MAX_POINTS bins."""
  if len(values) <= _MAX_POINTS:
    return np.array(values, float)
  parts = np.array_split(np.array(values, float), _MAX_POINTS)
  return np.array([reduce(part) for part in parts])


def _scales(
  curves: Sequence[_Curve],
  left: float,
  right: float,
  top: float,
  bottom: float,
) -> tuple[axes.Scale, axes.Scale]:
  """Returns the axes; early values and divergences may leave the frame.

  On an axis that includes the initial loss, all rows would seem to end at the
  same place.
  """
  alone = [pair for curve in curves for pair in curve.alone]
  steps = np.concatenate(
    [*(c.steps for c in curves), *(steps for steps, _ in alone)]
  )
  first, last = float(steps.min()), float(steps.max())
  whole = [(c.steps, end) for c in curves for end in (c.low, c.high)]
  whole = [pair for pair in whole if pair[1].size] or alone
  first = 0.0 if 0 < first < 0.05 * last else first
  late = first
  if steps.size >= _MIN_POINTS * len(curves):
    late = first + _EARLY * (last - first)
  values = np.concatenate(
    [values[steps >= min(late, steps[-1])] for steps, values in whole]
  )
  low, high = float(values.min()), float(values.max())
  log = low > 0 and high / low >= _LOG_RATIO
  pad = 0.04 * (high - low) or 0.05 * abs(high) or 1.0
  low, high = (low / 1.05, high * 1.05) if log else (low - pad, high + pad)
  x = axes.Scale(first, last if last > first else first + 1, left, right)
  return x, axes.Scale(low, high, bottom, top, log)


def _end(curve: _Curve, x: axes.Scale, y: axes.Scale) -> tuple[float, float]:
  """Returns the point where the line to the label begins."""
  steps, values = (
    (curve.steps, curve.mean) if curve.mean.size else curve.alone[0]
  )
  at = min(max(y.at(values[-1]), y.stop), y.start)
  return x.at(steps[-1]), at


def spread_labels(
  wanted: Mapping[str, float], top: float, bottom: float
) -> dict[str, float]:
  """Moves labels apart, so that none overlap, and keeps their order."""
  heights: dict[str, float] = {}
  floor = top
  for row in sorted(wanted, key=lambda row: wanted[row]):
    heights[row] = max(wanted[row], floor)
    floor = heights[row] + LABEL_GAP
  ceiling = bottom
  for row in reversed(list(heights)):
    heights[row] = round(min(heights[row], ceiling), 1)
    ceiling = heights[row] - LABEL_GAP
  return heights


def _line(
  row: str,
  curve: _Curve,
  stroke: Stroke,
  x: axes.Scale,
  y: axes.Scale,
  end: tuple[float, float],
  label_y: float,
) -> ChartLine:
  """Returns the curve of a row in SVG units."""
  steps = x(curve.steps)
  outline = zip(
    [*steps, *steps[::-1]], [*y(curve.high), *y(curve.low)[::-1]], strict=True
  )
  return ChartLine(
    row,
    short(row),
    stroke,
    path(zip(steps, y(curve.mean), strict=True)),
    path(outline) if np.any(curve.high > curve.low) else '',
    tuple(
      path(zip(x(steps), y(values), strict=True))
      for steps, values in curve.alone
    ),
    end,
    label_y,
  )


def short(row: str) -> str:
  """Returns the name of a row, shortened to the room of a label."""
  name = escape_name(row)
  return name if len(name) <= 28 else name[:27] + '…'


def path(points: Iterable[tuple[float, float]]) -> str:
  """Returns SVG path data; a single point becomes a dot (by its round cap)."""
  places = [f'{x:.1f},{y:.1f}' for x, y in points]
  if len(places) == 1:
    return f'M{places[0]}h0'
  return 'M' + 'L'.join(places) if places else ''


def _notes(curves: Mapping[str, _Curve], missing: list[str]) -> tuple[str, ...]:
  """Returns sentences on what the drawing does not show."""
  alone = ', '.join(row for row, curve in curves.items() if curve.alone)
  return (
    *(
      [f'A thin dotted line is one seed, left out of the mean: {alone}.']
      if alone
      else []
    ),
    *([f'No curve was recorded for {", ".join(missing)}.'] if missing else []),
  )
