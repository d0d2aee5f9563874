"""What selects before the verdict: points that rows try, rungs where they stop.

Both use seeds that the verdict does not, so that what was chosen for being
good on some seeds is judged on others.
"""

import dataclasses
from collections.abc import Sequence

from experiments.command import Command
from experiments.experiment import BASE, Row
from experiments.halving import rungs
from experiments.tuning import FIRST_SEED, Point, check_free, grid
from model.field import FieldError
from train.config import Config


@dataclasses.dataclass(frozen=True)
class Search:
  """How the trials of the verdict are found.

  Attributes:
    points: what each row tries; a single empty one where nothing is tuned.
    rungs: the steps at which rows stop; none where all go on.
    eta: 1 / eta of them go on.
    seeds: what is tried is tried with these.
  """

  points: tuple[Point, ...]
  rungs: tuple[int, ...]
  eta: int
  seeds: tuple[int, ...]

  @property
  def tunes(self) -> bool:
    """Returns whether rows try points."""
    return self.points != ({},)

  def competing(self, rows: Sequence[Row]) -> list[str]:
    """Returns the rows that are tried: the base does not stop at a rung."""
    if self.tunes:
      return [row.name for row in rows]
    return [row.name for row in rows if self.rungs and row.name != BASE]


def make_search(
  base: Config, rows: Sequence[Row], command: Command, tunes: Sequence[str]
) -> Search:
  """Returns what a command asks to select.

  Raises:
    FieldError: what is wrong, or has no effect, with the flag that does it.
  """
  points = grid(tunes)
  for row in rows:
    check_free(row.name, row.changes, points)
  if command.tune_seeds and not tunes and command.halving is None:
    raise FieldError(
      'tune_seeds',
      command.tune_seeds,
      'has no effect without --tune or --halving: drop it',
    )
  if command.shard and (tunes or command.halving is not None):
    raise FieldError(
      'shard',
      command.shard,
      'has not all that --tune and --halving select by: drop one of them',
    )
  first = base.seed + FIRST_SEED
  seeds = tuple(range(first, first + (command.tune_seeds or 2)))
  found = ()
  if command.halving is not None and command.only is None:
    found = _rungs(base, rows, command.halving, bool(tunes))
  # --only replays one row, which has gone on to the end.
  return Search(points, found, command.halving or 0, seeds)


def _rungs(
  base: Config, rows: Sequence[Row], eta: int, tunes: bool
) -> tuple[int, ...]:
  """Returns the rungs of --halving."""
  if tunes:
    raise FieldError(
      'halving',
      eta,
      'stops rows before --tune knows their best: drop one of them',
    )
  for row in rows:
    if taken := {'steps', 'eval_every'}.intersection(row.changes):
      raise FieldError(
        'halving',
        eta,
        f'compares rows at the same steps, and row {row.name!r} sets '
        f'{min(taken)}: drop one of them',
      )
  competing = [row for row in rows if row.name != BASE]
  found = rungs(base.steps, base.eval_every, len(competing), eta)
  if not found:
    raise FieldError(
      'halving',
      eta,
      f'has nothing to choose from {len(competing)} rows: drop it, or add rows',
    )
  return found
