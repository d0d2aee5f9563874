"""JSON read strictly: what is not as it was written is said, never guessed.

Python's own reader takes NaN, takes the last of two equal keys, and raises
RecursionError at deep nesting; and what a program then finds of another type
ends far from the file.  Here each file has a dataclass that says what it holds.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from model.field import hints
from train.task import DataError

T = TypeVar('T')
LARGEST = 2**63  # of whole numbers: no step, size or count comes near it


class Damaged(DataError):
  """A file is not as it was written.

  Attributes:
    fault: the file, and what is wrong with it.
  """

  def __init__(self, fault: str, way_out: str):
    super().__init__(f'{fault}: {way_out}')
    self.fault = fault


def parse_json(data: bytes | str) -> Any:
  """Returns a JSON value.

  Raises:
    ValueError: it is none, or has NaN, numbers too large, a key twice or too
      many levels; says so in one line.
  """
  try:
    return json.loads(
      data.decode() if isinstance(data, bytes) else data,
      object_pairs_hook=_unique,
      parse_constant=_no_number,
      parse_float=_finite,
      parse_int=_bounded,
    )
  except RecursionError:
    raise ValueError('is nested too deep') from None
  except UnicodeDecodeError:
    raise ValueError('is not UTF-8 text') from None
  except json.JSONDecodeError as e:
    raise ValueError(f'is not JSON: {e.msg}') from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    raise ValueError('has a key twice')
  return found


def _no_number(text: str) -> float:
  raise ValueError(f'has {text}, which is no number')


def _finite(text: str) -> float:
  number = float(text)
  if not math.isfinite(number):
    raise ValueError(f'has a number that is too large: {text[:20]}')
  return number


def _bounded(text: str) -> int:
  if len(text) > len(str(-LARGEST)) or abs(int(text)) >= LARGEST:
    raise ValueError(f'has a number that is too large: {text[:20]}')
  return int(text)


def check(cls: type[T], value: object) -> T:
  """Returns a JSON value as the type that says what it must be.

  Args:
    cls: a dataclass, with a field for each of an object; or another type.
    value: of JSON.

  Raises:
    ValueError: it is of another type; a field is absent or unknown.
  """
  if not dataclasses.is_dataclass(cls):
    return _typed(cls, value, 'it')
  if not isinstance(value, dict):
    raise ValueError(f'is {_name(value)}, not an object')
  wanted = hints(cls)
  for name in value:
    if name not in wanted:
      raise ValueError(f'has an unknown field {name[:40]!a}')
  for field in dataclasses.fields(cls):
    optional = (field.default, field.default_factory) != (
      dataclasses.MISSING,
      dataclasses.MISSING,
    )
    if field.name not in value and not optional:
      raise ValueError(f'lacks {field.name}')
  found = {name: _typed(wanted[name], x, name) for name, x in value.items()}
  return typing.cast(T, cls(**found))


def _typed(hint: Any, value: Any, name: str) -> Any:
  """Returns a value of a type, or raises ValueError."""
  kind, parts = typing.get_origin(hint), typing.get_args(hint)
  if kind in (typing.Union, types.UnionType):
    for part in parts:
      try:
        return _typed(part, value, name)
      except ValueError:
        continue
  elif kind is typing.Literal:
    if isinstance(value, str) and value in parts:
      return value
  elif isinstance(kind, type) and issubclass(kind, Mapping):
    if isinstance(value, dict):
      return {k: _typed(parts[1], v, f'{name}.{k}') for k, v in value.items()}
  elif isinstance(kind, type) and issubclass(kind, Sequence):
    if isinstance(value, list):
      return [_typed(parts[0], v, name) for v in value]
  elif dataclasses.is_dataclass(hint):
    return check(typing.cast(type[Any], hint), value)
  elif hint is Any or type(value) is hint:
    return value
  elif hint is float and type(value) is int:
    return value  # 3.0 may be written as 3
  raise ValueError(f'{name[:40]!a} cannot be {_name(value)}')


def _name(value: object) -> str:
  """Returns what a JSON value is."""
  names = {
    dict: 'an object',
    list: 'a list',
    str: 'text',
    bool: 'true or false',
  }
  if value is None:
    return 'null'
  return names.get(type(value), 'this number')
