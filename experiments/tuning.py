"""--tune: each row's own best point, found on seeds that no verdict uses.

Rows compared at one shared learning rate compare how well that rate suits them
(Wortsman et al. 2023, arXiv:2309.14322); a best value at the grid's edge may
not be the best there is.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from experiments.assignment import assignment, check_one, join
from experiments.sweeps import number
from model.field import FieldError
from model.limits import PLANNED
from train.figure import VAL_LOSS, Figure

# Seeds of the selection begin so far above --seed that no verdict meets them.
FIRST_SEED = 1_000_000

Point = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Tuned:
  """What a row chose, and what it chose from.

  Attributes:
    point: the chosen values, by flag.
    problem: why they may not be the best there are; '' if they are.
    tried: `(point, mean)`, infinite where a seed did not end well.
  """

  point: Point
  problem: str
  tried: tuple[tuple[Point, float], ...]


def grid(texts: Sequence[str]) -> tuple[Point, ...]:
  """Returns every point of the grid; a single empty one without --tune.

  Args:
    texts: 'FIELD=a b c', each one axis.

  Raises:
    FieldError: not a number, one value alone, or a field on two axes.
  """
  axes: dict[str, list[str]] = {}
  for text in texts:
    field, values = assignment('tune', text)
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
  """Returns the different values of one axis, in ascending order."""
  if number(field) is None:
    raise FieldError(
      'tune', text, f'{field} is not a number: use --sweep for choices'
    )
  for value in values.split():
    check_one('tune', text, field, value)
  try:
    found = {float(value): value for value in values.split()}
  except ValueError:
    raise FieldError(
      'tune', text, 'must be FIELD=a b c, all of them numbers'
    ) from None
  if len(found) < 2:
    raise FieldError('tune', text, 'needs two different values or more')
  return [found[value] for value in sorted(found)]


def choose(
  tried: Sequence[tuple[Point, float]], metric: Figure = VAL_LOSS
) -> Tuned:
  """Returns the point with the best mean, and whether to trust it.

  Args:
    tried: the points, and the mean of each.
    metric: the figure that is compared; its worst where a seed did not end
      well.
  """
  best, mean = min(tried, key=lambda pair: metric.cost(pair[1]))
  if not math.isfinite(mean):
    problem = 'no value of --tune trained to its end'
    return Tuned(best, problem, tuple(tried))
  problems = []
  for field, value in best.items():
    values = sorted(float(point[field]) for point, _ in tried)
    for edge, name in ((values[0], 'smallest'), (values[-1], 'largest')):
      if float(value) == edge:
        problems.append(f'{field}={value} is the {name} tried: widen --tune')
  return Tuned(best, '; '.join(problems), tuple(tried))


def withheld(tuned: Mapping[str, Tuned], base: str) -> dict[str, str]:
  """Returns why rows get no verdict: theirs or the base's optimum is unknown.

  Args:
    tuned: what each row chose.
    base: the row that the others are compared with.
  """
  if base in tuned and tuned[base].problem:
    return dict.fromkeys(tuned, f'in the base, {tuned[base].problem}')
  return {row: own.problem for row, own in tuned.items() if own.problem}


def check_free(
  row: str, changes: Mapping[str, str], points: Sequence[Point]
) -> None:
  """Raises if a row sets what is tuned."""
  for field in points[0]:
    if field in changes:
      raise FieldError(
        'tune',
        field,
        f'is what row {row!r} sets ({join({field: changes[field]})}): drop it '
        'from one of them',
      )
