"""What a table asks: of its rows, not of the experiment that it began with."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from experiments.assignment import join
from experiments.experiment import BASE, Experiment, Row
from experiments.rows import configure, fitting
from train.config import Config
from train.schema import changes, to_flags

_NAMED = 4  # most fields that a title names


@dataclasses.dataclass(frozen=True)
class Question:
  """A title, and what is claimed where that was asked.

  Attributes:
    title: of the report, and of what a run says first.
    claim: of the experiment, or why it is not stated.
    citation: of the claim; '' where it is not stated.
  """

  title: str
  claim: str
  citation: str


def question(
  experiment: Experiment, base: Config, rows: Sequence[Row]
) -> Question:
  """Returns what a table of these rows asks.

  A claim is stated where the experiment's rows ran as it has them, on a base
  with all the values that it sets; other flags, such as those of the data, are
  the user's own.

  Args:
    experiment: that the command names, or the default.
    base: its configuration, with the flags of the command.
    rows: those of the table.
  """
  if not _as_written(experiment, base, rows):
    return Question(_title(rows), '', '')
  wanted = changes(Config(), experiment.base)
  own = to_flags(base)
  if other := {k: own.get(k) for k, v in wanted.items() if own.get(k) != v}:
    said = ', '.join(f'{k}={v} for {wanted[k]}' for k, v in other.items())
    claim = f'What is claimed of it is not stated, for the base has {said}.'
    return Question(experiment.title, claim, '')
  return Question(experiment.title, experiment.claim, experiment.citation)


def label(base: Config, rows: Sequence[Row]) -> str:
  """Returns the name of the base and what it is, where other rows differ."""
  own = to_flags(base)
  fields = [f for f in _varied(rows) if f in own]
  named = join({field: own[field] for field in fields})
  return f'{BASE} ({named})' if fields else BASE


def _as_written(
  experiment: Experiment, base: Config, rows: Sequence[Row]
) -> bool:
  """Returns whether these are the experiment's rows, each as it has them."""
  own, unfit = fitting(experiment.rows, functools.partial(configure, base))
  if unfit:
    return False
  written = {row.name: changes(base, configure(base, row)) for row in own}
  return written == {row.name: dict(row.changes) for row in rows}


def _title(rows: Sequence[Row]) -> str:
  """Returns the question that rows ask."""
  others = [row for row in rows if row.name != BASE]
  if not others:
    return 'One configuration, trained'
  if len(others) == 1:
    (row,) = others
    return f'What does {join(_short(row.changes))} change?'
  fields = _varied(rows)
  if len(fields) == 1:
    return f'What does {fields[0]} change?'
  named, more = fields[:_NAMED], len(fields) - _NAMED
  if more > 0:
    named.append(f'{more} more')
  return f'What do {", ".join(named[:-1])} and {named[-1]} change?'


def _varied(rows: Sequence[Row]) -> list[str]:
  """Returns the fields that rows set, without those of the choices they set."""
  return list(dict.fromkeys(f for row in rows for f in _short(row.changes)))


def _short(values: Mapping[str, str]) -> dict[str, str]:
  """Returns what is changed, without the fields of a choice that is changed."""
  return {
    field: value
    for field, value in values.items()
    if not any(field.startswith(f'{other}.') for other in values)
  }
