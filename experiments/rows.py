"""The rows of a table: from an experiment, or from --ablate and --sweep."""

import itertools
from collections.abc import Mapping, Sequence

from experiments.experiment import BASE, Row
from model.field import FieldError
from train.config import Config
from train.schema import changes, leaves, override, suggest


def expand(
  base: Config,
  rows: Sequence[Row],
  ablations: Sequence[str],
  sweeps: Sequence[str],
) -> tuple[Row, ...]:
  """Returns the rows to run, the base first, each one valid and different.

  Args:
    base: the configuration that rows change.
    rows: those of the experiment; taken unless there is an ablation or a sweep.
    ablations: 'FIELD=a [FIELD=b ...]', each one row.
    sweeps: 'FIELD=a b c', each one axis of a product.

  Raises:
    FieldError: an unknown field or value, or a row that breaks a rule.
  """
  if ablations or sweeps:
    asked = [_ablation(text) for text in ablations] + _product(sweeps)
    rows = [Row(BASE, {}), *asked]
  out: dict[Config, Row] = {}
  for row in rows:
    config = configure(base, row)
    twin = out.get(config)
    if twin is None:
      out[config] = Row(row.name, changes(base, config))
    elif not (ablations or sweeps):
      raise FieldError(
        'only',
        row.name,
        f'is the same as row {twin.name!r} with these flags: drop one of them',
      )
  return tuple(out.values())


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


def _assignment(flag: str, text: str) -> tuple[str, str]:
  field, equals, value = text.partition('=')
  if not equals or not value:
    raise FieldError(flag, text, 'must be FIELD=VALUE')
  if field not in leaves(Config):
    hint = suggest(field, leaves(Config))
    raise FieldError(flag, text, f'{field} is not a field{hint}')
  return field, value


def _ablation(text: str) -> Row:
  parts = [_assignment('ablate', part) for part in text.split()]
  if not parts:
    raise FieldError('ablate', text, 'must be FIELD=VALUE [FIELD=VALUE ...]')
  return Row(text, dict(parts))


def _product(sweeps: Sequence[str]) -> list[Row]:
  """Returns a row for each point of the product of the axes."""
  if not sweeps:
    return []
  axes: dict[str, list[str]] = {}
  for text in sweeps:
    field, values = _assignment('sweep', text)
    if field in axes:
      raise FieldError(
        'sweep', text, f'{field} is swept twice: join its values'
      )
    axes[field] = values.split()
  return [
    _point(dict(zip(axes, values, strict=True)))
    for values in itertools.product(*axes.values())
  ]


def _point(values: Mapping[str, str]) -> Row:
  return Row(' '.join(f'{k}={v}' for k, v in values.items()), values)
