"""Patterns over parameter paths, for freezing, groups and sharding alike."""

import difflib
import re
from collections.abc import Iterable

from model.core.field import FieldError

_SHOWN = 16  # if there are more paths than this, only similar ones are named


def match_paths(
  flag: str, pattern: str, paths: Iterable[str]
) -> frozenset[str]:
  """Returns the paths that match a regular expression somewhere.

  Raises:
    FieldError: the expression is invalid, or no path matches it.
  """
  paths = list(paths)
  try:
    found = frozenset(p for p in paths if re.search(pattern, p))
  except re.error as e:
    raise FieldError(flag, pattern, f'is not a regular expression: {e}') from e
  if not found:
    raise FieldError(
      flag,
      pattern,
      f'matches no parameter: there are {_list_paths(pattern, paths)}',
    )
  return found


def _list_paths(pattern: str, paths: list[str]) -> str:
  """Returns the paths as a phrase: all if few, else those like the pattern."""
  if len(paths) <= _SHOWN:
    return ', '.join(paths)

  def distance(path: str) -> float:
    return -difflib.SequenceMatcher(None, pattern, path).ratio()

  near = sorted(paths, key=distance)[: _SHOWN // 2]
  return f'{", ".join(near)} and {len(paths) - len(near)} others'
