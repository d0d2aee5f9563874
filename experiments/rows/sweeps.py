"""The points of --sweep and --zip: a grid, or a random search."""

import dataclasses
import itertools
import math
import re
import types
import typing
import zlib
from collections.abc import Sequence

import numpy as np

from experiments.rows.assignment import (
  check_no_commas,
  format_assignments,
  parse_assignment,
)
from model.core.field import FieldError
from model.core.limits import PLANNED
from train.config.config import Config
from train.flags.schema import flag_specs
from train.flags.suggest import suggest_value

KINDS = ('log', 'lin', 'int')
SIGNIFICANT_DIGITS = 4
# A random search gives up after this many draws per requested point.
PATIENCE = 100


@dataclasses.dataclass(frozen=True)
class ListAxis:
  """An axis with a list of points; the fields of one --zip move together."""

  fields: tuple[str, ...]
  points: tuple[tuple[str, ...], ...]

  def draw(self, uniform: float) -> dict[str, str]:
    """Maps a uniform number in [0, 1) to one of the points."""
    point = self.points[int(uniform * len(self.points))]
    return dict(zip(self.fields, point, strict=True))


@dataclasses.dataclass(frozen=True)
class RangeAxis:
  """An axis with a range of numbers.

  Attributes:
    fields: the one field.
    kind: 'log' (log-uniform), 'lin' (uniform) or 'int' (uniform integers).
    low: lower end, included.
    high: upper end, included.
  """

  fields: tuple[str]
  kind: str
  low: float
  high: float

  def draw(self, uniform: float) -> dict[str, str]:
    """Maps a uniform number in [0, 1) to a number of the range.

    It is rounded to DIGITS significant digits, so that names are short and
    replays exact.
    """
    if self.kind == 'int':
      value = int(self.low) + int(uniform * (self.high - self.low + 1))
      return {self.fields[0]: str(value)}
    low, high = self.low, self.high
    if self.kind == 'log':
      low, high = math.log(low), math.log(high)
    value = low + uniform * (high - low)
    value = math.exp(value) if self.kind == 'log' else value
    rounded = float(f'{value:.{SIGNIFICANT_DIGITS}g}')
    return {self.fields[0]: str(min(max(rounded, self.low), self.high))}


SweepAxis = ListAxis | RangeAxis


def sweep_points(
  sweeps: Sequence[str],
  zips: Sequence[str],
  trials: int | None,
  search_seed: int,
) -> list[dict[str, str]]:
  """Returns `{field: value}` of each point, in order.

  Without a range, the points are the product of the axes, the last axis
  fastest; with a range, `trials` different points drawn at random.

  Args:
    sweeps: texts 'FIELD=a b c' or 'FIELD=log(a,b)', one axis each.
    zips: texts 'FIELD=a b c; FIELD=x y z', one axis each.
    trials: number of points to draw.
    search_seed: random seed of the draws.

  Raises:
    FieldError: an invalid text, or a field on two axes.
  """
  axes: list[SweepAxis] = []
  taken: set[str] = set()
  read = [('sweep', t) for t in sweeps] + [('zip', t) for t in zips]
  for flag, text in read:
    axis = _sweep(text) if flag == 'sweep' else _zip(text)
    if twice := sorted(taken.intersection(axis.fields)):
      raise FieldError(
        flag, text, f'{twice[0]} is swept twice: join its values'
      )
    taken.update(axis.fields)
    axes.append(axis)
  _check_trials(axes, trials, search_seed)
  if trials is not None:
    return _search(axes, trials, search_seed)
  lists = [axis for axis in axes if isinstance(axis, ListAxis)]
  fields = [field for axis in lists for field in axis.fields]
  if not lists:
    return []
  count = math.prod(len(axis.points) for axis in lists)
  if count > PLANNED.most:
    raise FieldError(
      read[-1][0],
      read[-1][1],
      f'makes {count:,} rows of all axes together, at most {PLANNED.most:,}: '
      f'{PLANNED.why}: drop some values, or draw with --trials',
    )
  return [
    dict(zip(fields, itertools.chain(*values), strict=True))
    for values in itertools.product(*(axis.points for axis in lists))
  ]


def _check_trials(
  axes: Sequence[SweepAxis], trials: int | None, search_seed: int
) -> None:
  """Raises a FieldError if there are ranges but no --trials, or vice versa."""
  ranges = [axis for axis in axes if isinstance(axis, RangeAxis)]
  if trials is None:
    if ranges:
      only = ranges[0]
      text = f'{only.fields[0]}={only.kind}({only.low:g},{only.high:g})'
      raise FieldError(
        'sweep', text, 'a range needs a number of points: add --trials=32'
      )
    if search_seed:
      raise FieldError(
        'search_seed', search_seed, 'has no effect without --trials: drop it'
      )
    return
  if not ranges:
    raise FieldError(
      'trials',
      trials,
      'has no effect without a range: drop it, or add '
      '--sweep="learning_rate=log(1e-4,1e-2)"',
    )
  for flag, value, least in (
    ('trials', trials, 1),
    ('search_seed', search_seed, 0),
  ):
    if value < least:
      raise FieldError(flag, value, f'must be at least {least}')


# Random search. ---------------------------------------------------------------


def _search(
  axes: Sequence[SweepAxis], trials: int, search_seed: int
) -> list[dict[str, str]]:
  """Draws different points; more trials only append points."""
  found: dict[str, dict[str, str]] = {}
  for index in range(PATIENCE * trials):
    point: dict[str, str] = {}
    for axis in axes:
      point |= axis.draw(_uniform(search_seed, index, axis.fields))
    found.setdefault(format_assignments(point), point)
    if len(found) == trials:
      return list(found.values())
  raise FieldError(
    'trials',
    trials,
    f'the ranges hold only {len(found)} different points: try '
    f'--trials={len(found)}, or wider ranges',
  )


def _uniform(search_seed: int, index: int, fields: Sequence[str]) -> float:
  """Returns a random number in [0, 1) that depends on its arguments only.

  So adding trials or axes does not change the points drawn so far.  It uses raw
  bits: NumPy guarantees the bit stream of a generator, but not the numbers that
  are derived from it (NEP 19).
  """
  axis = zlib.crc32(' '.join(fields).encode())
  key = np.array([search_seed, index], np.uint64)
  counter = np.array([0, 0, 0, axis], np.uint64)
  bits = np.random.Philox(key=key, counter=counter).random_raw()
  return (int(bits) >> 11) / 2**53


# Parsing. ---------------------------------------------------------------------


def _sweep(text: str) -> SweepAxis:
  """Parses the axis of one --sweep: a range or a list of values."""
  field, values = parse_assignment('sweep', text)
  if number_type(field) and '(' in values:
    return _range(text, field, values)
  for value in values.split():
    check_no_commas('sweep', text, field, value)
  return ListAxis((field,), tuple((value,) for value in values.split()))


def _zip(text: str) -> ListAxis:
  """Parses the axis of one --zip."""
  columns: dict[str, list[str]] = {}
  for part in text.split(';'):
    if not part.strip() and columns:
      continue  # a semicolon at the end
    field, values = parse_assignment('zip', part)
    if field in columns:
      raise FieldError('zip', text, f'{field} is given twice: keep one')
    if number_type(field) and '(' in values:
      raise FieldError(
        'zip', text, 'takes lists: a range goes into a --sweep of its own'
      )
    columns[field] = values.split()
    for value in columns[field]:
      check_no_commas('zip', text, field, value)
  if len(columns) < 2:
    raise FieldError(
      'zip', text, 'must be "FIELD=a b; FIELD=x y": for one field use --sweep'
    )
  lengths = {field: len(values) for field, values in columns.items()}
  if len(set(lengths.values())) > 1:
    counts = ', '.join(f'{field} has {n}' for field, n in lengths.items())
    raise FieldError(
      'zip', text, f'fields must have equally many values: {counts}'
    )
  return ListAxis(tuple(columns), tuple(zip(*columns.values(), strict=True)))


def number_type(field: str) -> type | None:
  """Returns int or float if a field has this type, else None."""
  hint = flag_specs(Config)[field].hint
  kinds = [h for h in (hint, *typing.get_args(hint)) if h in (int, float)]
  optional = types.NoneType in typing.get_args(hint)
  return kinds[0] if kinds and (hint in kinds or optional) else None


def _range(text: str, field: str, value: str) -> RangeAxis:
  """Parses 'log(a,b)', 'lin(a,b)' or 'int(a,b)'."""

  def wrong(rule: str) -> FieldError:
    return FieldError('sweep', text, rule)

  options = '|'.join(f'{kind}(a,b)' for kind in KINDS)
  found = re.fullmatch(r'(\w+)\s*\(([^(),]*),([^(),]*)\)', value)
  if not found:
    raise wrong(f'must be {options}, alone, or a list of numbers')
  kind = found[1]
  if kind not in KINDS:
    raise wrong(f'must be {options}{suggest_value(kind, KINDS)}')
  if number_type(field) is int and kind != 'int':
    raise wrong(f'{field} is an integer: use int({found[2]},{found[3]})')
  try:
    low, high = float(found[2]), float(found[3])
  except ValueError:
    raise wrong('both ends must be numbers, e.g. log(1e-4,1e-2)') from None
  if not (math.isfinite(low) and math.isfinite(high)):
    raise wrong('both ends must be finite')
  if kind == 'int' and not (low.is_integer() and high.is_integer()):
    raise wrong('both ends of int must be integers: use lin for others')
  if low >= high:
    raise wrong('the first end must be below the second: swap or list them')
  if kind == 'log' and low <= 0:
    raise wrong('both ends of log must be above 0: use lin, or raise the first')
  return RangeAxis((field,), kind, low, high)
