"""Finds the texts of a row that is a nested object, by dotted keys."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from train.core.errors import DataError


def key_paths(keys: str | None, columns: Sequence[str]) -> list[list[str]]:
  """Returns for each column the path of keys into a row.

  Args:
    keys: comma list of dotted keys; None takes the names of the columns.
    columns: names of the columns that the task reads.

  Raises:
    DataError: the number of keys is not that of the columns.
  """
  names = list(columns) if keys is None else keys.split(',')
  if len(names) != len(columns):
    raise DataError(
      f'--task.data.keys={keys}: must name a key for each of '
      f'{", ".join(columns)}'
    )
  return [name.split('.') for name in names]


def text_at(value: Any, path: Sequence[str], where: str) -> str:
  """Returns the text at a path of keys into a row; an integer becomes text.

  Raises:
    DataError: there is nothing at the path, or something else.
  """
  for key in path:
    if not isinstance(value, dict) or key not in value:
      there = f' ({", ".join(value)})' if isinstance(value, dict) else ''
      raise DataError(
        f'{where} has no {".".join(path)}{there}: set --task.data.keys'
      )
    value = value[key]
  if isinstance(value, bytes):
    try:
      value = value.decode()
    except UnicodeDecodeError as e:
      raise DataError(
        f'{where}: {".".join(path)} is not UTF-8 text (byte {e.start})'
      ) from e
  if isinstance(value, bool) or not isinstance(value, str | int | np.integer):
    raise DataError(
      f'{where}: {".".join(path)} is {type(value).__name__}, not text: set '
      '--task.data.keys'
    )
  text = str(value)
  if half := [c for c in text if 0xD800 <= ord(c) < 0xE000]:
    raise DataError(
      f'{where}: {".".join(path)} holds half a character ({half[0]!a}): mend it'
    )
  return text


class DuplicateKey(ValueError):
  """A JSON object has a key twice, so its value is ambiguous."""

  def __init__(self, key: str):
    super().__init__(key)
    self.key = key


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """Returns the pairs of a JSON object as a dict; raises Twice for a repeat."""
  found: dict[str, Any] = {}
  for key, value in pairs:
    if key in found:
      raise DuplicateKey(key)
    found[key] = value
  return found
