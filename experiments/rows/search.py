"""The search before the verdict: points of --tune, or rungs of --halving.

Both use other seeds than the verdict, so that a choice is not tested on the
seeds that it was made for.
"""

import dataclasses
from collections.abc import Sequence

from experiments.command import Command
from experiments.experiment import BASE, Row
from experiments.rows.halving import rungs
from experiments.rows.tuning import FIRST_SEED, TuningPoint, check_free, grid
from model.core.field import FieldError
from train.config.config import Config


@dataclasses.dataclass(frozen=True)
class Search:
  """The search of a command.

  Attributes:
    points: the points that each row tries; one empty point without --tune.
    rungs: the steps at which rows may stop; empty without --halving.
    eta: 1 / eta of the rows go on at each rung.
    seeds: seeds of the search.
  """

  points: tuple[TuningPoint, ...]
  rungs: tuple[int, ...]
  eta: int
  seeds: tuple[int, ...]

  @property
  def tunes(self) -> bool:
    """Whether rows try several points."""
    return self.points != ({},)

  def competing(self, rows: Sequence[Row]) -> list[str]:
    """Returns the rows that take part; --halving never stops the base."""
    if self.tunes:
      return [row.name for row in rows]
    return [row.name for row in rows if self.rungs and row.name != BASE]


def make_search(
  base: Config, rows: Sequence[Row], command: Command, tunes: Sequence[str]
) -> Search:
  """Returns the search that a command asks for.

  Raises:
    FieldError: a flag of the search is invalid or has no effect.
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
      'runs only some of the trials that --tune and --halving need: drop one '
      'of them',
    )
  first = base.seed + FIRST_SEED
  seeds = tuple(range(first, first + (command.tune_seeds or 2)))
  found = ()
  if command.halving is not None and command.only is None:
    found = _rungs(base, rows, command.halving, bool(tunes))
  # --only replays one row, which --halving did not stop.
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
