"""Rules over parameter paths: one matcher for freezing, decay and sharding."""

import re
from collections.abc import Iterable

from model.field import FieldError


def matching(flag: str, pattern: str, paths: Iterable[str]) -> frozenset[str]:
  """Returns the paths in which the regular expression is found.

  Raises:
    FieldError: the expression is not one, or no path has it.
  """
  paths = list(paths)
  try:
    found = frozenset(p for p in paths if re.search(pattern, p))
  except re.error as e:
    raise FieldError(flag, pattern, f'is not a regular expression: {e}') from e
  if not found:
    raise FieldError(
      flag, pattern, f'matches no parameter: there are {", ".join(paths)}'
    )
  return found
