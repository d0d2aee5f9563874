"""Parses the FIELD=VALUE texts of --ablate, --sweep, --zip and --tune."""

from collections.abc import Mapping

from model.core.field import FieldError, variant_list, variants
from train.config.config import Config
from train.flags.schema import flag_specs, parse_flag
from train.flags.suggest import suggest_flag


def parse_assignment(flag: str, text: str) -> tuple[str, str]:
  """Parses one 'FIELD=VALUE'.

  Args:
    flag: the flag that has the text, for error messages.
    text: a field and its value, which may contain spaces.

  Raises:
    FieldError: an unknown field, a missing value, or a field that no row may
      set.
  """
  field, equals, value = text.strip().partition('=')
  if not equals or not value.strip():
    raise FieldError(flag, text, f'must be FIELD=VALUE{_did_you_mean(field)}')
  if field not in flag_specs(Config):
    hint = suggest_flag(field, flag_specs(Config))
    raise FieldError(flag, text, f'{field} is not a field{hint}')
  if field == 'seed':
    raise FieldError(
      flag,
      text,
      'seed is the same in every row, so that rows are paired: --seeds=N '
      'trains each row N times, --seed sets the first',
    )
  return field, value.strip()


def _did_you_mean(word: str) -> str:
  """Returns a hint for a field without a value, or a value without a field."""
  choices = {
    path: list(variants(leaf.hint) or variant_list(leaf.hint))
    for path, leaf in flag_specs(Config).items()
  }
  if tags := choices.get(word):
    return f': {word} may be {"|".join(tags)}'
  found = [f'{path}={word}' for path, tags in choices.items() if word in tags]
  return f'; did you mean {" or ".join(found[:3])}?' if found else ''


def check_no_commas(flag: str, text: str, field: str, value: str) -> None:
  """Raises a FieldError if several values of a field are joined by commas.

  Commas may belong to a single value, as in a list of masks or in a path.  If a
  part is no valid value, the error is raised elsewhere.
  """
  hint, parts = flag_specs(Config)[field].hint, value.split(',')
  if len(parts) < 2 or variant_list(hint) or hint in (str, str | None):
    return
  try:
    for part in parts:
      parse_flag(field, hint, part.strip())
  except FieldError:
    return
  each = ' '.join(part.strip() for part in parts)
  raise FieldError(
    flag, text, f'values are separated by spaces: --sweep="{field}={each}"'
  )


def parse_assignments(flag: str, text: str) -> dict[str, str]:
  """Parses 'FIELD=a [FIELD=b ...]' into `{field: value}`."""
  out: dict[str, str] = {}
  for part in text.split():
    field, value = parse_assignment(flag, part)
    check_no_commas(flag, text, field, value)
    if field in out:
      raise FieldError(flag, text, f'{field} is given twice: keep one')
    out[field] = value
  if not out:
    raise FieldError(flag, text, 'must be FIELD=VALUE [FIELD=VALUE ...]')
  return out


def format_assignments(values: Mapping[str, str]) -> str:
  """Returns 'FIELD=a FIELD=b', the name of a row that sets these fields."""
  return ' '.join(f'{field}={value}' for field, value in values.items())
