"""How time and memory grow: exponents by least squares in log-log."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.bench.bench import Bench
from experiments.bench.processes import Failure
from experiments.bench.report import Column, digits, size
from experiments.bench.start import plan

COLUMNS = (
  Column('what', 'what grows'),
  Column('attention', 'attention'),
  Column('sizes', 'from, to'),
  Column('time_exponent', 'exponent of time', digits),
  Column('memory_exponent', 'exponent of memory', digits),
  Column('largest_ms', 'ms at the largest', digits),
  Column('largest_bytes', 'memory there', size),
)


class Point(NamedTuple):
  """What one size took."""

  size: int
  seconds: float
  peak_bytes: float


def exponent(sizes: Iterable[float], values: Iterable[float]) -> float:
  """Returns the power of the size by which a value grows.

    argmin_p min_c sum (log value - p log size - c)^2

  Raises:
    ValueError: there are fewer than two sizes.
  """
  x, y = [*map(math.log, sizes)], [*map(math.log, values)]
  if len({*x}) < 2:
    raise ValueError('an exponent needs two sizes')
  x_mean, y_mean = sum(x) / len(x), sum(y) / len(y)
  above = sum((a - x_mean) * (b - y_mean) for a, b in zip(x, y, strict=True))
  return above / sum((a - x_mean) ** 2 for a in x)


def measure(bench: Bench) -> None:
  """Measures each axis, and shows the exponents."""
  report, sizes = bench.report, bench.asked.sizes
  title = f'Growth of a step from: {sizes.scaled.name}'
  section = report.begin('scaling', title, COLUMNS)
  for axis, growth in sizes.growth.items():
    given = {
      'axis': axis,
      'sizes': growth,
      'flags': sizes.scaled.model_flags,
      'vocabulary': sizes.scaled.vocabulary,
    }
    try:
      done = bench.inside('scaling', given)
      for attention, points in by_attention(done.lines()).items():
        report.add(section, row(axis, attention, points))
      done.checked()
    except (Failure, ValueError) as e:
      report.note(section, f'{axis}: {e}')
  try:
    found = [(rows, plan(bench, rows)) for rows in sizes.plan_rows]
    points = [Point(rows, p.seconds, p.peak_bytes) for rows, p in found]
    report.add(section, row('rows of --plan', None, points))
  except Failure as e:
    report.note(section, f'--plan: {e}')
  report.show(section)


def by_attention(
  lines: Sequence[Mapping[str, Any]],
) -> dict[str, list[Point]]:
  """Returns the points of each kind of attention."""
  found: dict[str, list[Point]] = {}
  for line in lines:
    point = Point(line['size'], line['seconds'], line['peak_bytes'])
    found.setdefault(line['attention'], []).append(point)
  return found


def row(
  axis: str, attention: str | None, points: Sequence[Point]
) -> dict[str, Any]:
  """Returns the row of an axis."""
  sizes = [point.size for point in points]
  return {
    'what': axis,
    'attention': attention,
    'sizes': f'{sizes[0]:,}, {sizes[-1]:,}',
    'time_exponent': exponent(sizes, [p.seconds for p in points]),
    'memory_exponent': exponent(sizes, [p.peak_bytes for p in points]),
    'largest_ms': 1e3 * points[-1].seconds,
    'largest_bytes': points[-1].peak_bytes,
    'points': [point._asdict() for point in points],
  }
