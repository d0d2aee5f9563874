"""Fields of frozen dataclasses that document, bound and check themselves.

A choice of the user is a *variant*: a small frozen dataclass that carries its
own hyper-parameters and a `tag`, its name on the command line.  Everything the
command line, the tests and the documentation need is read off these classes.
Imports neither jax nor absl, so that configurations are cheap to build.
"""

import copy
import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from model.limits import Limit


class FieldError(ValueError):
  """A value that breaks a rule: names the flag, the value and the rule."""

  def __init__(self, path: str, value: object, rule: str):
    super().__init__(f'--{path}={unparse(value)}: {rule}')
    self.path, self.value, self.rule = path, value, rule

  def under(self, prefix: str) -> 'FieldError':
    """Returns the same error for a field that lies below `prefix`."""
    return FieldError(prefix + self.path, self.value, self.rule)


class Traced:
  """Stands in a static configuration for a number the program takes."""

  def __repr__(self) -> str:
    return 'TRACED'


TRACED = Traced()


@dataclasses.dataclass(frozen=True)
class Meta:
  """What `field` knows beyond the type and the default."""

  help: str
  min: float | None
  max: float | None
  why: str
  traced: bool


def field(
  default: Any,
  help: str,
  *,
  min: float | None = None,
  max: Limit | None = None,
  traced: bool = False,
) -> Any:
  """Returns a dataclass field with its help line and inclusive bounds.

  Args:
    default: value of the field; variants are frozen, so they may be shared.
    help: one line for `--help`.
    min: smallest value allowed.
    max: largest value allowed, with the reason.
    traced: the compiled program takes the value as an argument, so that values
      share one program.  A value of exactly 0 stays static: the code that it
      switches off is then not compiled at all.
  """
  most, why = max or (None, '')
  meta = Meta(help, min, most, why, traced)
  return dataclasses.field(default=default, metadata={'ablax': meta})


class Record:
  """Base of frozen dataclasses whose fields are checked on construction."""

  def __post_init__(self) -> None:
    for name, hint in hints(type(self)).items():
      value = _checked(name, hint, meta_of(type(self), name), _get(self, name))
      object.__setattr__(self, name, value)
    for problem in self.problems():
      raise problem

  def problems(self) -> Iterator[FieldError]:
    """Yields what is wrong between fields; overridden where rules exist."""
    return iter(())


class Variant(Record):
  """One value of a choice; `tag` is its name on the command line."""

  tag: ClassVar[str] = ''

  def __init_subclass__(cls, tag: str = '') -> None:
    super().__init_subclass__()
    cls.tag = tag


# Reflection. ------------------------------------------------------------------


@functools.cache
def hints(cls: type) -> dict[str, Any]:
  """Returns `{field name: type}` of a record class."""
  found = typing.get_type_hints(cls)
  assert dataclasses.is_dataclass(cls)
  return {f.name: found[f.name] for f in dataclasses.fields(cls)}


@functools.cache
def meta_of(cls: type, name: str) -> Meta:
  """Returns the metadata of one field; sections have an empty one."""
  assert dataclasses.is_dataclass(cls)
  for f in dataclasses.fields(cls):
    if f.name == name:
      return f.metadata.get('ablax') or Meta('', None, None, '', False)
  raise KeyError(name)


def variants(hint: Any) -> dict[str, type[Variant]]:
  """Returns `{tag: class}` of a union of variants, else an empty dict.

  A variant class without a tag is an open union: its tagged subclasses.
  """
  if isinstance(hint, type) and issubclass(hint, Variant):
    members = (hint,) if hint.tag else _tagged(hint)
  else:
    members = typing.get_args(hint)
    if not members or not all(
      isinstance(m, type) and issubclass(m, Variant) for m in members
    ):
      return {}
  return {m.tag: m for m in members}


def variant_list(hint: Any) -> dict[str, type[Variant]]:
  """Returns `{tag: class}` if `hint` is a tuple of variants of one union."""
  args = typing.get_args(hint)
  many = typing.get_origin(hint) is tuple and len(args) == 2
  return variants(args[0]) if many and args[1] is Ellipsis else {}


def is_section(hint: Any) -> bool:
  """True for a record whose fields are flags without a prefix."""
  return (
    isinstance(hint, type)
    and issubclass(hint, Record)
    and not issubclass(hint, Variant)
  )


def _tagged(cls: type[Variant]) -> tuple[type[Variant], ...]:
  found = []
  for sub in cls.__subclasses__():
    found += [sub] if sub.tag else list(_tagged(sub))
  return tuple(found)


def _get(record: object, name: str) -> Any:
  # vars() instead of getattr: a field that is absent must be an error.
  return vars(record)[name]


# Numbers that the compiled program takes as arguments. ------------------------


def split(record: Record) -> tuple[Record, dict[str, Any]]:
  """Returns `record` without its traced numbers, and `{path: number}`.

  Records that differ only in traced numbers have equal static halves, and so
  share one compiled program.  `bind` is the inverse.
  """
  values: dict[str, Any] = {}
  changes: dict[str, Any] = {}
  for name, hint in hints(type(record)).items():
    value = _get(record, name)
    if isinstance(value, Record):
      changes[name], below = split(value)
      prefix = '' if is_section(hint) else name + '.'
      values |= {prefix + path: v for path, v in below.items()}
    elif variant_list(hint):
      halves = [split(v) for v in value]
      changes[name] = tuple(half for half, _ in halves)
      values |= {
        f'{name}.{path}': v for _, below in halves for path, v in below.items()
      }
    elif meta_of(type(record), name).traced and value is not None:
      if isinstance(value, float) and value == 0.0:
        continue
      changes[name], values[name] = TRACED, value
  return unchecked(record, changes), values


def bind(record: Record, values: Mapping[str, Any]) -> Any:
  """Returns `record` with the traced numbers put back (arrays or tracers)."""
  changes: dict[str, Any] = {}
  for name, hint in hints(type(record)).items():
    value = _get(record, name)
    prefix = name + '.'
    below = {
      path[len(prefix) :]: v
      for path, v in values.items()
      if path[: len(prefix)] == prefix
    }
    if isinstance(value, Record):
      changes[name] = bind(value, values if is_section(hint) else below)
    elif variant_list(hint):
      changes[name] = tuple(bind(v, below) for v in value)
    elif value is TRACED:
      changes[name] = values[name]
  return unchecked(record, changes)


def unchecked(record: Record, changes: Mapping[str, Any]) -> Any:
  """Returns `record` with other values of some fields, which must be valid.

  For records that hold tracers or TRACED: these cannot pass the bounds that
  their numbers did pass, as `dataclasses.replace` would have them do.
  """
  new = copy.copy(record)
  for name, value in changes.items():
    object.__setattr__(new, name, value)
  return new


# Values as text, and their checks. --------------------------------------------


def unparse(value: object) -> str:
  """Returns the text of a value on the command line."""
  if isinstance(value, Variant):
    return value.tag
  if isinstance(value, tuple):
    return ','.join(unparse(v) for v in value)
  if value is None or isinstance(value, bool):
    return str(value).lower()
  return str(value)


def _checked(name: str, hint: Any, meta: Meta, value: Any) -> Any:
  """Returns `value` as its type, or raises `FieldError`."""
  if choices := variants(hint) or variant_list(hint):
    items = value if isinstance(value, tuple) else (value,)
    if not items or not all(
      isinstance(v, tuple(choices.values())) for v in items
    ):
      raise FieldError(name, value, f'must be one of {"|".join(choices)}')
    return value
  if is_section(hint):
    if not isinstance(value, hint):
      raise FieldError(name, value, f'must be a {hint.__name__}')
    return value
  args = typing.get_args(hint)
  if types.NoneType in args:
    if value is None:
      return None
    (hint,) = [a for a in args if a is not types.NoneType]
  if typing.get_origin(hint) is typing.Literal:
    choices = typing.get_args(hint)
    if value not in choices:
      raise FieldError(name, value, f'must be one of {"|".join(choices)}')
    return value
  return _bounded(name, meta, _typed(name, hint, value))


def _typed(name: str, hint: type, value: Any) -> Any:
  if hint is float and type(value) is int:
    return float(value)
  if type(value) is not hint:
    kind = {int: 'an integer', float: 'a number', bool: 'true or false'}
    raise FieldError(name, value, f'must be {kind.get(hint, "text")}')
  if hint is float and not math.isfinite(value):
    raise FieldError(name, value, 'must be finite')
  return value


def _bounded(name: str, meta: Meta, value: Any) -> Any:
  if meta.min is not None and value < meta.min:
    raise FieldError(name, value, f'must be at least {meta.min}')
  if meta.max is not None and value > meta.max:
    raise FieldError(name, value, f'must be at most {meta.max}: {meta.why}')
  return value
