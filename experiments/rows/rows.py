"""The rows of a table, from an experiment or from the flags of a command."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

from experiments.experiment import BASE, Row
from experiments.rows.assignment import format_assignments, parse_assignments
from experiments.rows.sweeps import sweep_points
from model.core.field import FieldError
from train.config.config import Config
from train.core.errors import DataError
from train.flags.schema import changes, override
from train.flags.suggest import suggest_value

PRESET = 'preset'


@dataclasses.dataclass(frozen=True)
class RowRequests:
  """The flags of a command that make rows; without any, the experiment's run.

  Attributes:
    ablate: texts 'FIELD=a [FIELD=b ...]', one row each.
    sweep: texts 'FIELD=a b c' or 'FIELD=log(a,b)', one axis of a grid each.
    zip: texts 'FIELD=a b c; FIELD=x y z', one axis whose fields move together.
    tune: texts 'FIELD=a b c', one axis each of the grid that rows choose from.
    ablate_from: a preset whose choices are left out one at a time.
    add_one: a preset whose choices are added one at a time.
    trials: number of points to draw if an axis is a range.
    search_seed: random seed of these draws.
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
    """Whether any flag but --tune is set; --tune makes no rows."""
    return dataclasses.replace(self, tune=()) != RowRequests()


def expand_rows(
  base: Config, rows: Sequence[Row], requests: RowRequests
) -> tuple[Row, ...]:
  """Returns the rows to run: the base first, all valid and different.

  The changes of a row are all flags by which it differs from the base.  A row
  equal to an earlier one is left out: with --position=none, for example, a row
  'no positions' is the base.

  Args:
    base: the configuration that rows change.
    rows: rows of the experiment, used if the command asks for none.
    requests: rows that the command asks for.

  Raises:
    FieldError: an unknown field, or an invalid value or row.
  """
  asked = _requested_rows(base, rows, requests)
  out: dict[Config, Row] = {base: Row(BASE, {})}
  for row in asked or (row for row in rows if row.name != BASE):
    config = configure(base, row)
    out.setdefault(config, Row(row.name, changes(base, config)))
  return tuple(out.values())


def ablate_names(requests: RowRequests) -> tuple[str, ...]:
  """Returns the names of the rows of --ablate."""
  return tuple(
    format_assignments(parse_assignments('ablate', text))
    for text in requests.ablate
  )


def evaluate_whole_text(
  base: Config, rows: Sequence[Row], requests: RowRequests
) -> Config:
  """Returns the base, evaluated on the whole text if rows split it differently.

  The same number of windows of another length, or of other tokens, covers
  another part of the text, so the losses would not be comparable.

  Args:
    base: its --eval_examples come from the experiment, not from the user.
    rows: rows of the experiment.
    requests: rows that the command asks for.
  """
  whole = dataclasses.replace(base, eval_examples=None)
  if not requests.any:
    rows, _ = valid_rows(rows, functools.partial(configure, base))
  cuts = [
    field
    for row in expand_rows(base, rows, requests)
    for field in row.changes
    if field == 'seq_len' or field.startswith('task.tokenizer')
  ]
  return whole if cuts and base.task.by_position else base


def valid_rows(
  rows: Sequence[Row], check: Callable[[Row], object]
) -> tuple[tuple[Row, ...], dict[str, FieldError | DataError]]:
  """Returns the rows that pass a check, and the errors of the others by name.

  This is for rows of an experiment: the user did not ask for them one by one,
  so a row that does not fit the typed flags is no error.  The base is not
  checked here.
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


@functools.lru_cache(maxsize=8192)
def _changed(base: Config, changes: tuple[tuple[str, str], ...]) -> Config:
  """Returns a configuration with some flags set; planning asks for it often."""
  return override(base, dict(changes))


def configure(base: Config, row: Row) -> Config:
  """Returns the configuration of a row.

  Raises:
    FieldError: names the row.
  """
  try:
    return _changed(base, tuple(row.changes.items()))
  except FieldError as e:
    if row.name == BASE:
      raise
    raise FieldError(
      e.path, e.value, f'{e.rule} (in row {row.name!r})'
    ) from None


def _requested_rows(
  base: Config, rows: Sequence[Row], requests: RowRequests
) -> list[Row]:
  """Returns the rows of --ablate, --ablate_from, --add_one and the sweeps."""
  ablations = [parse_assignments('ablate', text) for text in requests.ablate]
  out = [Row(format_assignments(values), values) for values in ablations]
  if requests.ablate_from is not None:
    out += _leave_one_out(base, rows, requests.ablate_from)
  if requests.add_one is not None:
    out += _add_one(base, rows, requests.add_one)
  swept = sweep_points(
    requests.sweep, requests.zip, requests.trials, requests.search_seed
  )
  return out + [Row(format_assignments(values), values) for values in swept]


# Presets. ---------------------------------------------------------------------


def _leave_one_out(base: Config, rows: Sequence[Row], text: str) -> list[Row]:
  """Returns the preset, and the preset without each of its choices."""
  preset = _preset('ablate_from', text, rows)
  full = Row(PRESET, preset)
  out = [full]
  for choice in _choices(preset):
    rest = {flag: v for flag, v in preset.items() if flag not in choice}
    row = Row(f'without {format_assignments(choice)}', rest)
    if configure(base, row) == configure(base, full):
      raise _no_change('ablate_from', text, choice)
    out.append(row)
  return out


def _add_one(base: Config, rows: Sequence[Row], text: str) -> list[Row]:
  """Returns the base with each choice of the preset alone."""
  choices = _choices(_preset('add_one', text, rows))
  out = [Row(format_assignments(choice), choice) for choice in choices]
  for row, choice in zip(out, choices, strict=True):
    if configure(base, row) == base:
      raise _no_change('add_one', text, choice)
  return out


def _preset(flag: str, text: str, rows: Sequence[Row]) -> Mapping[str, str]:
  """Returns the flags of a preset: of a row, or of a text 'FIELD=VALUE ...'."""
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
      f'must be {own}FIELD=VALUE [FIELD=VALUE ...]{suggest_value(text, named)}',
    )
  return parse_assignments(flag, text)


def _choices(preset: Mapping[str, str]) -> list[dict[str, str]]:
  """Splits a preset into choices that are added or left out as a whole.

  A flag of a variant (position.theta) belongs to its choice (position).
  """
  out: dict[str, dict[str, str]] = {}
  for flag, value in preset.items():
    names = flag.split('.')
    owners = ['.'.join(names[: i + 1]) for i in range(len(names))]
    root = next(owner for owner in owners if owner in preset)
    out.setdefault(root, {})[flag] = value
  return list(out.values())


def _no_change(flag: str, text: str, choice: dict[str, str]) -> FieldError:
  return FieldError(
    flag,
    text,
    f'{format_assignments(choice)} is what the base has anyway: drop it',
  )
