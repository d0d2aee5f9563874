"""Decides which rows can be compared with the base, and by which metric.

A verdict needs metrics over the same targets.  If rows tokenize the same text
differently, bits per byte replace the loss per token; if a row predicts at some
positions only, it and the base are compared at those; any other row whose
targets differ gets no verdict.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from train.config.targets import (
  BY_POSITION,
  Targets,
  incomparable_reason,
  is_per_target,
  shared_positions,
)
from train.core.metric import BITS_PER_BYTE, VAL_LOSS, Metric


@dataclasses.dataclass(frozen=True)
class ComparisonPlan:
  """How the rows of a table are compared.

  Attributes:
    metric: the metric that verdicts compare.
    withheld: row -> why it gets no verdict.
    positions: row -> the positions at which both it and the base predict, if
      these are not all; the two are compared there.
    notes: remarks for the reader.
  """

  metric: Metric
  withheld: Mapping[str, str]
  positions: Mapping[str, tuple[int, ...]]
  notes: tuple[str, ...]

  def lines(self) -> list[str]:
    """Returns the lines to print before training."""
    return [
      *self.notes,
      *(f'no verdict on {row}: {why}' for row, why in self.withheld.items()),
      *(
        f'{row}: compared at the {len(at)} positions that the base predicts too'
        for row, at in self.positions.items()
      ),
    ]


def plan_comparison(
  metric: Metric, base: str, rows: Mapping[str, Targets]
) -> ComparisonPlan:
  """Returns how rows are compared with the base.

  Args:
    metric: the requested metric.
    base: the row that the others are compared with.
    rows: the evaluation targets of each row.
  """
  first, notes = rows[base], []
  others = {name: own for name, own in rows.items() if name != base}
  if metric == VAL_LOSS and any(
    _is_retokenized(first, o) for o in others.values()
  ):
    metric = BITS_PER_BYTE
    notes.append(
      'verdicts compare bits per byte, not the loss per token: rows differ in '
      'their tokens'
    )
  withheld, positions = {}, {}
  for name, own in others.items():
    at = shared_positions(first, own)
    why = incomparable_reason(metric, first, own)
    if not why and at is not None and is_per_target(metric):
      why = _position_problem(metric, first, own, at)
      if not why:
        positions[name] = at
    if why:
      withheld[name] = why
  return ComparisonPlan(metric, withheld, positions, tuple(notes))


def _is_retokenized(base: Targets, row: Targets) -> bool:
  """Returns whether a row has the base's text with another tokenization."""
  same = dataclasses.replace(row, examples=base.examples)
  return base.vocabulary != row.vocabulary and not incomparable_reason(
    BITS_PER_BYTE, base, same
  )


def _position_problem(
  metric: Metric, base: Targets, row: Targets, at: Sequence[int]
) -> str:
  """Returns why two rows cannot be compared at shared positions, or ''."""
  if not at or row.vocabulary != base.vocabulary:
    return 'predicts at other positions than the base'
  if metric not in BY_POSITION:
    names = ', '.join(own.name for own in BY_POSITION)
    return (
      f'predicts at {len(at)} of {row.seq_len} positions of the base, and '
      f'{metric.name} is not known at these alone: compare {names}'
    )
  return ''
