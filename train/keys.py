"""Texts in rows that are objects: where they lie, and what they must be."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from train.task import DataError


def key_paths(keys: str | None, columns: Sequence[str]) -> list[list[str]]:
  """Returns the path into a row for each column.

  Raises:
    DataError: there are more or fewer than the task reads.
  """
  names = list(columns) if keys is None else keys.split(',')
  if len(names) != len(columns):
    raise DataError(
      f'--task.data.keys={keys}: must name a key for each of '
      f'{", ".join(columns)}'
    )
  return [name.split('.') for name in names]


def text_at(value: Any, path: Sequence[str], where: str) -> str:
  """Returns the text, or the number as text, at a path into a row."""
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


class Twice(ValueError):
  """An object of JSON has a key twice: which one is meant nobody knows."""

  def __init__(self, key: str):
    super().__init__(key)
    self.key = key


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  """Returns an object of JSON, whose keys must differ."""
  found: dict[str, Any] = {}
  for key, value in pairs:
    if key in found:
      raise Twice(key)
    found[key] = value
  return found
