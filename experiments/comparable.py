"""Which rows can be compared with the base, and by what.

A verdict needs figures of the same targets.  Where rows cut one text into
other tokens, bits per byte take the place of the loss; where a row predicts at
some positions only, both are judged at those; all else gets no verdict.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from train.figure import BITS_PER_BYTE, VAL_LOSS, Figure
from train.targets import (
  BY_POSITION,
  Targets,
  obstacle,
  of_targets,
  shared,
)


@dataclasses.dataclass(frozen=True)
class Comparable:
  """How the rows of a table are judged.

  Attributes:
    metric: that verdicts compare.
    withheld: row -> why it cannot be compared with the base.
    positions: row -> those at which both it and the base predict, where these
      are not all; the two are compared there.
    notes: what a reader must know of it.
  """

  metric: Figure
  withheld: Mapping[str, str]
  positions: Mapping[str, tuple[int, ...]]
  notes: tuple[str, ...]

  def lines(self) -> list[str]:
    """Returns what is said before anything runs."""
    return [
      *self.notes,
      *(f'no verdict on {row}: {why}' for row, why in self.withheld.items()),
      *(
        f'{row}: compared at the {len(at)} positions that the base predicts too'
        for row, at in self.positions.items()
      ),
    ]


def comparable(
  metric: Figure, base: str, rows: Mapping[str, Targets]
) -> Comparable:
  """Returns how rows are judged against the base.

  Args:
    metric: that is asked for.
    base: the row that the others are compared with.
    rows: what each is judged on.
  """
  first, notes = rows[base], []
  others = {name: own for name, own in rows.items() if name != base}
  if metric == VAL_LOSS and any(_recut(first, o) for o in others.values()):
    metric = BITS_PER_BYTE
    notes.append(
      'verdicts compare bits per byte, not the loss per token: rows cut the '
      'text into other tokens'
    )
  withheld, positions = {}, {}
  for name, own in others.items():
    at = shared(first, own)
    why = obstacle(metric, first, own)
    if not why and at is not None and of_targets(metric):
      why = _apart(metric, first, own, at)
      if not why:
        positions[name] = at
    if why:
      withheld[name] = why
  return Comparable(metric, withheld, positions, tuple(notes))


def _recut(base: Targets, row: Targets) -> bool:
  """Returns whether a row is the base's text in other tokens."""
  same = dataclasses.replace(row, examples=base.examples)
  return base.vocabulary != row.vocabulary and not obstacle(
    BITS_PER_BYTE, base, same
  )


def _apart(
  metric: Figure, base: Targets, row: Targets, at: Sequence[int]
) -> str:
  """Returns why two rows cannot be compared at the targets of both, or ''."""
  if not at or row.vocabulary != base.vocabulary:
    return 'predicts at other positions than the base'
  if metric not in BY_POSITION:
    names = ', '.join(own.name for own in BY_POSITION)
    return (
      f'predicts at {len(at)} of {row.seq_len} positions of the base, and '
      f'{metric.name} is not known at these alone: compare {names}'
    )
  return ''
