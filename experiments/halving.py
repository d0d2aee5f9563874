"""--halving: rows that train badly stop early (successive halving).

All rows train to the first rung; the best 1/eta of them go on to the next, eta
times as far (Jamieson & Talwalkar 2016, arXiv:1502.07943; Li et al. 2018,
arXiv:1810.05934).  Departure from the latter's ASHA: a rung is decided when all
its trials are there, so that who survives is a function of the command and not
of the order in which lanes end; the lane of a trial that is done goes to the
next one, so none waits but at a rung's end.
"""

from collections.abc import Mapping

from model.field import FieldError


def rungs(steps: int, every: int, rows: int, eta: int) -> tuple[int, ...]:
  """Returns the steps of the rungs, each eta times the one before.

  There are as many as it takes to leave fewer than eta rows.  They are
  rounded down to evaluations, so that pausing there changes no number.

  Args:
    steps: of a whole trial.
    every: steps between evaluations.
    rows: how many compete.
    eta: the share that goes on is 1 / eta.
  """
  count, remaining = 0, rows
  while remaining >= eta:
    count, remaining = count + 1, remaining // eta
  found = _rungs(steps, every, count, eta)
  if len(found) < count:
    finest = _rungs(steps, 1, count, eta)
    fix = (
      f'lower --eval_every to {_coarsest(steps, every, count, eta)}'
      if len(finest) == count
      else f'raise --steps to {every * eta**count}, or give fewer rows'
    )
    raise FieldError(
      'halving',
      eta,
      f'needs {count} rungs below --steps={steps} for {rows} rows, and '
      f'--eval_every={every} leaves {len(found)}: {fix}',
    )
  return found


def _rungs(steps: int, every: int, count: int, eta: int) -> tuple[int, ...]:
  """Returns the rungs that differ; they are fewer where steps are few."""
  found = {
    max(every, steps // eta**n // every * every) for n in range(1, count + 1)
  }
  return tuple(sorted(step for step in found if step < steps))


def _coarsest(steps: int, every: int, count: int, eta: int) -> int:
  """Returns the largest --eval_every that leaves enough rungs: 1 does."""
  least = steps // eta**count  # of the first rung
  tried = range(min(every, max(1, least)), 0, -1)
  return next(n for n in tried if len(_rungs(steps, n, count, eta)) == count)


def survivors(costs: Mapping[str, float], eta: int) -> list[str]:
  """Returns the best 1/eta of the rows, at least one; ties by their order.

  Args:
    costs: of each row, the lower the better; infinite where it has none.
    eta: the share that goes on is 1 / eta.
  """
  keep = max(1, len(costs) // eta)
  best = sorted(costs, key=lambda row: costs[row])[:keep]
  return [row for row in costs if row in best]
