"""The rows of a table: from an experiment, or from what a command asks for."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

from experiments.assignment import assignments, join
from experiments.experiment import BASE, Row
from experiments.sweeps import points
from model.field import FieldError
from train.config import Config
from train.schema import changes, override
from train.suggest import suggest
from train.task import DataError

PRESET = 'preset'


@dataclasses.dataclass(frozen=True)
class Requests:
  """What a command asks for; where it asks for nothing, the experiment's rows.

  Attributes:
    ablate: 'FIELD=a [FIELD=b ...]', each one row.
    sweep: 'FIELD=a b c' or 'FIELD=log(a,b)', each one axis of a product.
    zip: 'FIELD=a b c; FIELD=x y z', each one axis whose fields move together.
    tune: 'FIELD=a b c', each one axis of the points that a row chooses from.
    ablate_from: a preset, to leave out one choice at a time.
    add_one: a preset, to add one choice of it at a time.
    trials: how many points to draw where an axis is a range.
    search_seed: of these draws.
  """

  ablate: tuple[str, ...] = ()
  sweep: tuple[str, ...] = ()
  zip: tuple[str, ...] = ()
  tune: tuple[str, ...] = ()
  ablate_from: str | None = None
  add_one: str | None = None
  trials: int | None = None
  search_seed: int = 0

  @property
  def any(self) -> bool:
    """Returns whether rows are asked for; tuning makes none."""
    return dataclasses.replace(self, tune=()) != Requests()


def expand(
  base: Config, rows: Sequence[Row], requests: Requests
) -> tuple[Row, ...]:
  """Returns the rows to run, the base first, each one valid and different.

  The changes of a row are all the flags that tell it from the base.  A row
  that is the same as one before it is left out: with --position=none, say, a
  row without positions is the base.

  Args:
    base: the configuration that rows change.
    rows: those of the experiment; taken unless others are asked for.
    requests: what the command line asks for.

  Raises:
    FieldError: an unknown field or value, or a row that breaks a rule.
  """
  asked = _asked(base, rows, requests)
  out: dict[Config, Row] = {base: Row(BASE, {})}
  for row in asked or (row for row in rows if row.name != BASE):
    config = configure(base, row)
    out.setdefault(config, Row(row.name, changes(base, config)))
  return tuple(out.values())


def named(requests: Requests) -> tuple[str, ...]:
  """Returns the names of the rows that a command asks for one by one."""
  return tuple(join(assignments('ablate', text)) for text in requests.ablate)


def judged_whole(
  base: Config, rows: Sequence[Row], requests: Requests
) -> Config:
  """Returns the base, judged on all of the text if rows cut that otherwise.

  As many windows of other lengths, or of other tokens, are other parts of it.

  Args:
    base: its --eval_examples are the experiment's, not the user's.
    rows: those of the experiment.
    requests: what the command line asks for.
  """
  whole = dataclasses.replace(base, eval_examples=None)
  if not requests.any:
    rows, _ = fitting(rows, functools.partial(configure, base))
  cuts = [
    field
    for row in expand(base, rows, requests)
    for field in row.changes
    if field == 'seq_len' or field.startswith('task.tokenizer')
  ]
  return whole if cuts and base.task.by_position else base


def fitting(
  rows: Sequence[Row], check: Callable[[Row], object]
) -> tuple[tuple[Row, ...], dict[str, FieldError | DataError]]:
  """Returns the rows that pass a check, and why the others do not.

  For rows that an experiment brings along: nobody asked for one that does not
  go with what was typed.  The base is checked by those who run it.
  """
  good, bad = [], dict[str, FieldError | DataError]()
  for row in rows:
    try:
      if row.name != BASE:
        check(row)
    except (FieldError, DataError) as e:
      bad[row.name] = e
    else:
      good.append(row)
  return tuple(good), bad


def configure(base: Config, row: Row) -> Config:
  """Returns the configuration of a row; errors name the row."""
  try:
    return override(base, row.changes)
  except FieldError as e:
    if row.name == BASE:
      raise
    raise FieldError(
      e.path, e.value, f'{e.rule} (in row {row.name!r})'
    ) from None


def _asked(base: Config, rows: Sequence[Row], requests: Requests) -> list[Row]:
  """Returns the rows that a command asks for, in the order of its flags."""
  ablations = [assignments('ablate', text) for text in requests.ablate]
  out = [Row(join(values), values) for values in ablations]
  if requests.ablate_from is not None:
    out += _leave_one_out(base, rows, requests.ablate_from)
  if requests.add_one is not None:
    out += _add_one(base, rows, requests.add_one)
  swept = points(
    requests.sweep, requests.zip, requests.trials, requests.search_seed
  )
  return out + [Row(join(values), values) for values in swept]


# Presets. ---------------------------------------------------------------------


def _leave_one_out(base: Config, rows: Sequence[Row], text: str) -> list[Row]:
  """Returns the preset, and the preset without each of its choices."""
  preset = _preset('ablate_from', text, rows)
  full = Row(PRESET, preset)
  out = [full]
  for choice in _choices(preset):
    rest = {flag: v for flag, v in preset.items() if flag not in choice}
    row = Row(f'without {join(choice)}', rest)
    if configure(base, row) == configure(base, full):
      raise _idle('ablate_from', text, choice)
    out.append(row)
  return out


def _add_one(base: Config, rows: Sequence[Row], text: str) -> list[Row]:
  """Returns the base with each choice of the preset alone."""
  choices = _choices(_preset('add_one', text, rows))
  out = [Row(join(choice), choice) for choice in choices]
  for row, choice in zip(out, choices, strict=True):
    if configure(base, row) == base:
      raise _idle('add_one', text, choice)
  return out


def _preset(flag: str, text: str, rows: Sequence[Row]) -> Mapping[str, str]:
  """Returns what a preset sets: a row of the experiment, or a list."""
  named = {row.name: row.changes for row in rows if row.changes}
  if text in named:
    return named[text]
  if '=' not in text:
    own = (
      f'a row that changes the base, {"|".join(named)}, or ' if named else ''
    )
    raise FieldError(
      flag,
      text,
      f'must be {own}FIELD=VALUE [FIELD=VALUE ...]{suggest(text, named)}',
    )
  return assignments(flag, text)


def _choices(preset: Mapping[str, str]) -> list[dict[str, str]]:
  """Returns the parts of a preset that are kept or left out as one.

  A flag of a variant (position.theta) goes with its choice (position).
  """
  out: dict[str, dict[str, str]] = {}
  for flag, value in preset.items():
    names = flag.split('.')
    owners = ['.'.join(names[: i + 1]) for i in range(len(names))]
    root = next(owner for owner in owners if owner in preset)
    out.setdefault(root, {})[flag] = value
  return list(out.values())


def _idle(flag: str, text: str, choice: dict[str, str]) -> FieldError:
  return FieldError(
    flag, text, f'{join(choice)} is what the base has anyway: drop it'
  )
