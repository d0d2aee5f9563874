"""FIELD=VALUE texts, as the flags that make rows take them."""

from collections.abc import Mapping

from model.field import FieldError, variant_list, variants
from train.config import Config
from train.schema import leaves, parse
from train.suggest import suggest_flag


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
    raise FieldError(flag, text, f'must be FIELD=VALUE{_meant(field)}')
  if field not in leaves(Config):
    hint = suggest_flag(field, leaves(Config))
    raise FieldError(flag, text, f'{field} is not a field{hint}')
  if field == 'seed':
    raise FieldError(
      flag,
      text,
      'seed is the same in every row, so that rows are paired: --seeds=N '
      'trains each row N times, --seed sets the first',
    )
  return field, value.strip()


def _meant(word: str) -> str:
  """Returns which choice was meant where a field or a value stands alone."""
  choices = {
    path: list(variants(leaf.hint) or variant_list(leaf.hint))
    for path, leaf in leaves(Config).items()
  }
  if tags := choices.get(word):
    return f': {word} may be {"|".join(tags)}'
  found = [f'{path}={word}' for path, tags in choices.items() if word in tags]
  return f'; did you mean {" or ".join(found[:3])}?' if found else ''


def check_one(flag: str, text: str, field: str, value: str) -> None:
  """Raises where several values of a field are given with commas.

  Where commas belong to one value, as in a list of masks or in a path, nothing
  is wrong; neither is it where a part is no value: that is said elsewhere.
  """
  hint, parts = leaves(Config)[field].hint, value.split(',')
  if len(parts) < 2 or variant_list(hint) or hint in (str, str | None):
    return
  try:
    for part in parts:
      parse(field, hint, part.strip())
  except FieldError:
    return
  each = ' '.join(part.strip() for part in parts)
  raise FieldError(
    flag, text, f'values are separated by spaces: --sweep="{field}={each}"'
  )


def assignments(flag: str, text: str) -> dict[str, str]:
  """Returns `{field: value}` of 'FIELD=a [FIELD=b ...]'."""
  out: dict[str, str] = {}
  for part in text.split():
    field, value = assignment(flag, part)
    check_one(flag, text, field, value)
    if field in out:
      raise FieldError(flag, text, f'{field} is given twice: keep one')
    out[field] = value
  if not out:
    raise FieldError(flag, text, 'must be FIELD=VALUE [FIELD=VALUE ...]')
  return out


def join(values: Mapping[str, str]) -> str:
  """Returns 'FIELD=a FIELD=b': the name of a row that sets these."""
  return ' '.join(f'{field}={value}' for field, value in values.items())
