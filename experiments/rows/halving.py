"""--halving: rows that train badly stop early (successive halving).

All rows train to the first rung; the best 1/eta of them go on to the next, eta
times as far (Jamieson & Talwalkar 2016, arXiv:1502.07943; Li et al. 2018,
arXiv:1810.05934).  Departure from the latter's ASHA: a rung is decided when all
its trials have finished, so the survivors depend on the command and not on the
order in which trials end.  A free lane takes the next trial, so lanes wait only
at the end of a rung.
"""

from collections.abc import Mapping

from model.core.field import FieldError


def rungs(steps: int, every: int, rows: int, eta: int) -> tuple[int, ...]:
  """Returns the steps of the rungs, each eta times the one before.

  There are as many rungs as it takes to leave fewer than eta rows.  They are
  rounded down to a step with an evaluation, so that a pause changes no number.

  Args:
    steps: number of training steps of a trial.
    every: steps between evaluations.
    rows: number of rows that compete.
    eta: 1 / eta of the rows go on at each rung.

  Raises:
    FieldError: the rungs do not fit into the steps.
  """
  count, remaining = 0, rows
  while remaining >= eta:
    count, remaining = count + 1, remaining // eta
  found = _rungs(steps, every, count, eta)
  if len(found) < count:
    finest = _rungs(steps, 1, count, eta)
    fix = (
      f'lower --eval_every to {_largest_eval_every(steps, every, count, eta)}'
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
  """Returns the distinct rungs: fewer than `count` if there are few steps."""
  found = {
    max(every, steps // eta**n // every * every) for n in range(1, count + 1)
  }
  return tuple(sorted(step for step in found if step < steps))


def _largest_eval_every(steps: int, every: int, count: int, eta: int) -> int:
  """Returns the largest --eval_every that gives enough rungs; 1 always does."""
  least = steps // eta**count  # of the first rung
  tried = range(min(every, max(1, least)), 0, -1)
  return next(n for n in tried if len(_rungs(steps, n, count, eta)) == count)


def survivors(costs: Mapping[str, float], eta: int) -> list[str]:
  """Returns the best 1 / eta of the rows, at least one.

  Args:
    costs: cost of each row, the lower the better; of equal rows the first wins.
    eta: 1 / eta of the rows go on.
  """
  keep = max(1, len(costs) // eta)
  best = sorted(costs, key=lambda row: costs[row])[:keep]
  return [row for row in costs if row in best]
