"""Strict reading of JSON, and checks of values against dataclasses.

Python's own parser accepts NaN, keeps the last of two equal keys, and raises
RecursionError at deep nesting; and a value of an unexpected type causes an
error far from the file.  Here each file has a dataclass that defines its
content.
"""

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from model.core.field import field_types
from train.core.errors import DataError

T = TypeVar('T')
MAX_INTEGER = 2**63  # bound of integers: no step, size or count comes near it


class DamagedFile(DataError):
  """A file of ours is damaged: missing, edited or incomplete.

  Attributes:
    fault: the file and the problem, without the advice.
  """

  def __init__(self, fault: str, way_out: str):
    super().__init__(f'{fault}: {way_out}')
    self.fault = fault


def parse_json(data: bytes | str) -> Any:
  """Returns the value of a JSON text.

  Raises:
    ValueError: the text is not JSON, or has NaN, infinite or huge numbers, a
      key twice or too many levels; the message is one line.
  """
  try:
    return json.loads(
      data.decode() if isinstance(data, bytes) else data,
      object_pairs_hook=_unique_keys,
      parse_constant=_reject_constant,
      parse_float=_finite_float,
      parse_int=_bounded_int,
    )
  except RecursionError:
    raise ValueError('is nested too deep') from None
  except UnicodeDecodeError:
    raise ValueError('is not UTF-8 text') from None
  except json.JSONDecodeError as e:
    raise ValueError(f'is not JSON: {e.msg}') from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
  found = dict(pairs)
  if len(found) < len(pairs):
    raise ValueError('has a key twice')
  return found


def _reject_constant(text: str) -> float:
  raise ValueError(f'has {text}, which is no number')


def _finite_float(text: str) -> float:
  number = float(text)
  if not math.isfinite(number):
    raise ValueError(f'has a number that is too large: {text[:20]}')
  return number


def _bounded_int(text: str) -> int:
  if len(text) > len(str(-MAX_INTEGER)) or abs(int(text)) >= MAX_INTEGER:
    raise ValueError(f'has a number that is too large: {text[:20]}')
  return int(text)


def check_type(cls: type[T], value: object) -> T:
  """Returns a JSON value as an instance of a type, after checking it.

  Args:
    cls: a dataclass, whose fields are the keys of an object; or another type.
    value: a parsed JSON value.

  Raises:
    ValueError: a value has another type, or a field is absent or unknown.
  """
  if not dataclasses.is_dataclass(cls):
    return _convert(cls, value, 'it')
  if not isinstance(value, dict):
    raise ValueError(f'is {_type_in_words(value)}, not an object')
  wanted = field_types(cls)
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
  found = {name: _convert(wanted[name], x, name) for name, x in value.items()}
  return typing.cast(T, cls(**found))


def _convert(hint: Any, value: Any, name: str) -> Any:
  """Returns a JSON value as a value of type `hint`, or raises ValueError."""
  kind, parts = typing.get_origin(hint), typing.get_args(hint)
  if kind in (typing.Union, types.UnionType):
    for part in parts:
      try:
        return _convert(part, value, name)
      except ValueError:
        continue
  elif kind is typing.Literal:
    if isinstance(value, str) and value in parts:
      return value
  elif isinstance(kind, type) and issubclass(kind, Mapping):
    if isinstance(value, dict):
      return {k: _convert(parts[1], v, f'{name}.{k}') for k, v in value.items()}
  elif isinstance(kind, type) and issubclass(kind, Sequence):
    if isinstance(value, list):
      return [_convert(parts[0], v, name) for v in value]
  elif dataclasses.is_dataclass(hint):
    return check_type(typing.cast(type[Any], hint), value)
  elif hint is Any or type(value) is hint:
    return value
  elif hint is float and type(value) is int:
    return value  # JSON may write 3.0 as 3
  raise ValueError(f'{name[:40]!a} cannot be {_type_in_words(value)}')


def _type_in_words(value: object) -> str:
  """Returns the type of a JSON value as a noun phrase."""
  names = {
    dict: 'an object',
    list: 'a list',
    str: 'text',
    bool: 'true or false',
  }
  if value is None:
    return 'null'
  return names.get(type(value), 'this number')
