"""FIELD=VALUE texts, as the flags that make rows take them."""

from collections.abc import Mapping

from model.field import FieldError
from train.config import Config
from train.schema import leaves, suggest


def assignment(flag: str, text: str) -> tuple[str, str]:
  """Returns the field and the value of one 'FIELD=VALUE'.

  Args:
    flag: which flag was given it; errors name it.
    text: one field, and what it is set to; may hold spaces.

  Raises:
    FieldError: no such field, no value, or a field that no row may set.
  """
  field, equals, value = text.strip().partition('=')
  if not equals or not value.strip():
    raise FieldError(flag, text, 'must be FIELD=VALUE')
  if field not in leaves(Config):
    hint = suggest(field, leaves(Config))
    raise FieldError(flag, text, f'{field} is not a field{hint}')
  if field == 'seed':
    raise FieldError(
      flag,
      text,
      'seed is the same in every row, so that rows are paired: --seeds=N '
      'trains each row N times, --seed sets the first',
    )
  return field, value.strip()


def assignments(flag: str, text: str) -> dict[str, str]:
  """Returns `{field: value}` of 'FIELD=a [FIELD=b ...]'."""
  out: dict[str, str] = {}
  for part in text.split():
    field, value = assignment(flag, part)
    if field in out:
      raise FieldError(flag, text, f'{field} is given twice: keep one')
    out[field] = value
  if not out:
    raise FieldError(flag, text, 'must be FIELD=VALUE [FIELD=VALUE ...]')
  return out


def join(values: Mapping[str, str]) -> str:
  """Returns 'FIELD=a FIELD=b': the name of a row that sets these."""
  return ' '.join(f'{field}={value}' for field, value in values.items())
