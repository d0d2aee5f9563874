"""The title and the claim of a table, as they follow from the rows it has."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from experiments.experiment import BASE, Experiment, Row
from experiments.rows.assignment import format_assignments
from experiments.rows.rows import configure, valid_rows
from train.config.config import Config
from train.flags.schema import changes, to_flags

_MAX_NAMED = 4  # fields that a title names before 'N more'


@dataclasses.dataclass(frozen=True)
class Question:
  """The title and the claim of a table.

  Attributes:
    title: printed at the start of a run and on the report.
    claim: of the experiment, or why it is not stated, or ''.
    citation: of the claim; '' if the claim is not stated.
  """

  title: str
  claim: str
  citation: str


def question(
  experiment: Experiment, base: Config, rows: Sequence[Row]
) -> Question:
  """Returns the title and the claim of a table of these rows.

  The experiment's claim is stated if its rows ran unchanged on a base with all
  the values that it sets.  Flags that it does not set, such as those of the
  data, are free.

  Args:
    experiment: the experiment of the command.
    base: its configuration, with the flags of the command.
    rows: rows of the table.
  """
  if not _are_unchanged(experiment, base, rows):
    return Question(_title(rows), '', '')
  wanted = changes(Config(), experiment.base)
  own = to_flags(base)
  if other := {k: own.get(k) for k, v in wanted.items() if own.get(k) != v}:
    said = ', '.join(f'{k}={v} for {wanted[k]}' for k, v in other.items())
    claim = f'What is claimed of it is not stated, for the base has {said}.'
    return Question(experiment.title, claim, '')
  return Question(experiment.title, experiment.claim, experiment.citation)


def label(base: Config, rows: Sequence[Row]) -> str:
  """Returns the name of the base, with its values of the varied fields."""
  own = to_flags(base)
  fields = [f for f in _changed_fields(rows) if f in own]
  named = format_assignments({field: own[field] for field in fields})
  return f'{BASE} ({named})' if fields else BASE


def _are_unchanged(
  experiment: Experiment, base: Config, rows: Sequence[Row]
) -> bool:
  """Returns whether these are the experiment's rows, unchanged."""
  own, unfit = valid_rows(experiment.rows, functools.partial(configure, base))
  if unfit:
    return False
  written = {row.name: changes(base, configure(base, row)) for row in own}
  return written == {row.name: dict(row.changes) for row in rows}


def _title(rows: Sequence[Row]) -> str:
  """Returns a question that names what the rows change."""
  others = [row for row in rows if row.name != BASE]
  if not others:
    return 'One configuration, trained'
  if len(others) == 1:
    (row,) = others
    return (
      f'What does {format_assignments(_without_subfields(row.changes))} change?'
    )
  fields = _changed_fields(rows)
  if len(fields) == 1:
    return f'What does {fields[0]} change?'
  named, more = fields[:_MAX_NAMED], len(fields) - _MAX_NAMED
  if more > 0:
    named.append(f'{more} more')
  return f'What do {", ".join(named[:-1])} and {named[-1]} change?'


def _changed_fields(rows: Sequence[Row]) -> list[str]:
  """Returns the fields that rows change, without fields of a changed choice."""
  return list(
    dict.fromkeys(f for row in rows for f in _without_subfields(row.changes))
  )


def _without_subfields(values: Mapping[str, str]) -> dict[str, str]:
  """Drops the fields of a choice that is changed itself."""
  return {
    field: value
    for field, value in values.items()
    if not any(field.startswith(f'{other}.') for other in values)
  }
