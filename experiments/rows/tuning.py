"""--tune: the best point of each row, found on seeds that no verdict uses.

At one learning rate for all rows, a table compares how well this rate suits
each of them (Wortsman et al. 2023, arXiv:2309.14322).  A best value at the edge
of the grid may not be the optimum.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from experiments.rows.assignment import (
  check_no_commas,
  format_assignments,
  parse_assignment,
)
from experiments.rows.sweeps import number_type
from model.core.field import FieldError
from model.core.limits import PLANNED
from train.core.metric import VAL_LOSS, Metric

# Seeds of the search start at --seed + FIRST_SEED, out of the verdict's reach.
FIRST_SEED = 1_000_000

TuningPoint = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class TuningResult:
  """The point that a row chose.

  Attributes:
    point: the chosen values, by flag.
    problem: why they may not be optimal; '' if there is no doubt.
    tried: pairs (point, mean metric); the mean is the worst possible value,
      +-inf, if a seed did not finish.
  """

  point: TuningPoint
  problem: str
  tried: tuple[tuple[TuningPoint, float], ...]


def grid(texts: Sequence[str]) -> tuple[TuningPoint, ...]:
  """Returns all points of the grid; one empty point without --tune.

  Args:
    texts: texts 'FIELD=a b c', one axis each.

  Raises:
    FieldError: a value is no number, an axis has fewer than two values, or a
      field is on two axes.
  """
  axes: dict[str, list[str]] = {}
  for text in texts:
    field, values = parse_assignment('tune', text)
    if field in axes:
      raise FieldError('tune', text, f'{field} is tuned twice: join its values')
    axes[field] = _numbers(text, field, values)
  count = math.prod(map(len, axes.values()))
  if count > PLANNED.most:
    raise FieldError(
      'tune',
      texts[-1],
      f'makes {count:,} points of all axes together, at most '
      f'{PLANNED.most:,}: {PLANNED.why}: drop some values',
    )
  return tuple(
    dict(zip(axes, values, strict=True))
    for values in itertools.product(*axes.values())
  )


def _numbers(text: str, field: str, values: str) -> list[str]:
  """Parses the distinct values of one axis, in ascending order."""
  if number_type(field) is None:
    raise FieldError(
      'tune', text, f'{field} is not a number: use --sweep for choices'
    )
  for value in values.split():
    check_no_commas('tune', text, field, value)
  try:
    found = {float(value): value for value in values.split()}
  except ValueError:
    raise FieldError(
      'tune', text, 'must be FIELD=a b c, all of them numbers'
    ) from None
  if len(found) < 2:
    raise FieldError('tune', text, 'needs two different values or more')
  return [found[value] for value in sorted(found)]


def choose_best_point(
  tried: Sequence[tuple[TuningPoint, float]], metric: Metric = VAL_LOSS
) -> TuningResult:
  """Returns the point with the best mean, and whether it may be trusted.

  Args:
    tried: pairs (point, mean metric).
    metric: the metric that is compared; `metric.worst` marks a point where a
      seed did not finish.
  """
  best, mean = min(tried, key=lambda pair: metric.cost(pair[1]))
  if not math.isfinite(mean):
    problem = 'no value of --tune trained to its end'
    return TuningResult(best, problem, tuple(tried))
  problems = []
  for field, value in best.items():
    values = sorted(float(point[field]) for point, _ in tried)
    for edge, name in ((values[0], 'smallest'), (values[-1], 'largest')):
      if float(value) == edge:
        problems.append(f'{field}={value} is the {name} tried: widen --tune')
  return TuningResult(best, '; '.join(problems), tuple(tried))


def withheld_rows(
  tuned: Mapping[str, TuningResult], base: str
) -> dict[str, str]:
  """Returns `{row: why}` of rows without a verdict.

  A row gets none if its optimum, or that of the base, is uncertain.

  Args:
    tuned: the choice of each row.
    base: the row that the others are compared with.
  """
  if base in tuned and tuned[base].problem:
    return dict.fromkeys(tuned, f'in the base, {tuned[base].problem}')
  return {row: own.problem for row, own in tuned.items() if own.problem}


def check_free(
  row: str, changes: Mapping[str, str], points: Sequence[TuningPoint]
) -> None:
  """Raises a FieldError if a row sets a field that --tune varies."""
  for field in points[0]:
    if field in changes:
      raise FieldError(
        'tune',
        field,
        f'is what row {row!r} sets '
        f'({format_assignments({field: changes[field]})}): drop it from one '
        'of them',
      )
