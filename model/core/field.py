"""Dataclass fields that carry their help text and bounds, and are checked.

A *variant* is one option of a choice: a small frozen dataclass with its own
hyper-parameters and a `tag`, its name on the command line.  The command line,
the tests and the documentation are all derived from these classes.  This module
imports neither jax nor absl, so that configurations are cheap to build.

The type of a choice is a union of variants.  It is either written out, as in
`Char | Byte`, or *open*: a base class whose members are all of its tagged
subclasses, in any file of its package.
"""

import copy
import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar

from model.core.discovery import subclasses
from model.core.limits import Limit


class FieldError(ValueError):
  """Reports a flag whose value breaks a rule: the flag, the value, the rule."""

  def __init__(self, path: str, value: object, rule: str):
    super().__init__(f'--{path}={unparse(value)}: {rule}')
    self.path, self.value, self.rule = path, value, rule

  def under(self, prefix: str) -> 'FieldError':
    """Returns the same error with `prefix` before the path of the field."""
    return FieldError(prefix + self.path, self.value, self.rule)


class Traced:
  """Placeholder for a number that is an argument of the compiled program."""

  def __repr__(self) -> str:
    return 'TRACED'


TRACED = Traced()


@dataclasses.dataclass(frozen=True)
class Meta:
  """Help text, bounds and tracing of a field, as `field` was given them."""

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
  """Returns a dataclass field with a help line and inclusive bounds.

  Args:
    default: default value; variants are frozen, so they may be shared.
    help: one line for `--help`.
    min: smallest value allowed.
    max: largest value allowed, with the reason.
    traced: whether the compiled program takes the value as an argument, so that
      different values share one program.  Exactly 0 stays static, so that the
      code that it disables is not compiled at all.
  """
  most, why = max or (None, '')
  meta = Meta(help, min, most, why, traced)
  return dataclasses.field(default=default, metadata={'ablax': meta})


class Record:
  """Base of frozen dataclasses that check their fields on construction."""

  def __post_init__(self) -> None:
    for name, hint in field_types(type(self)).items():
      value = _checked(name, hint, meta_of(type(self), name), vars(self)[name])
      object.__setattr__(self, name, value)
    for problem in self.problems():
      raise problem

  def problems(self) -> Iterator[FieldError]:
    """Yields an error for each rule that the fields break together."""
    return iter(())

  def following(self, new: Mapping[str, Any]) -> dict[str, Any]:
    """Returns other fields that change when the fields in `new` change."""
    del new
    return {}


class Variant(Record):
  """One option of a choice, with the hyper-parameters of this option.

  Attributes:
    tag: name on the command line; empty for a base class.
    package: for a base class, the package that holds its variants; empty is the
      package of the base class.  No module in it may need the record whose
      field has this union, which may not be defined yet when they are imported.
  """

  tag: ClassVar[str] = ''
  package: ClassVar[str] = ''

  def __init_subclass__(cls, tag: str = '', package: str = '') -> None:
    super().__init_subclass__()
    cls.tag, cls.package = tag, package


# Reflection. ------------------------------------------------------------------


@functools.cache
def field_types(cls: type) -> dict[str, Any]:
  """Returns `{field name: type}` of a record class."""
  found = typing.get_type_hints(cls)
  assert dataclasses.is_dataclass(cls)
  return {f.name: found[f.name] for f in dataclasses.fields(cls)}


@functools.cache
def meta_of(cls: type, name: str) -> Meta:
  """Returns the metadata of one field; that of a section is empty."""
  assert dataclasses.is_dataclass(cls)
  for f in dataclasses.fields(cls):
    if f.name == name:
      return f.metadata.get('ablax') or Meta('', None, None, '', False)
  raise KeyError(name)


@functools.cache
def without_none(hint: Any) -> Any:
  """Returns the type T where `hint` is `T | None`, else `hint` itself."""
  args = typing.get_args(hint)
  if types.NoneType not in args:
    return hint
  return typing.Union[tuple(a for a in args if a is not types.NoneType)]  # noqa: UP007  # any number of types


# Cached, not to be changed: each field of each configuration asks.
@functools.cache
def variants(hint: Any) -> dict[str, type[Variant]]:
  """Returns `{tag: class}` of a union of variants, else an empty dict."""
  hint = without_none(hint)
  if isinstance(hint, type) and issubclass(hint, Variant):
    return {hint.tag: hint} if hint.tag else {**members(hint)}
  found = typing.get_args(hint)
  if not all(isinstance(m, type) and issubclass(m, Variant) for m in found):
    return {}
  return {m.tag: m for m in found}


@functools.cache
def variant_list(hint: Any) -> dict[str, type[Variant]]:
  """Returns `{tag: class}` of a tuple of variants, else an empty dict."""
  hint = without_none(hint)
  args = typing.get_args(hint)
  many = typing.get_origin(hint) is tuple and len(args) == 2
  return variants(args[0]) if many and args[1] is Ellipsis else {}


def record_list(hint: Any) -> type[Record] | None:
  """Returns the class if `hint` is a tuple of records other than variants."""
  args = typing.get_args(hint)
  many = typing.get_origin(hint) is tuple and args[1:] == (Ellipsis,)
  return args[0] if many and is_section(args[0]) else None


def is_section(hint: Any) -> bool:
  """Returns whether the type is a record whose flags have no prefix."""
  return (
    isinstance(hint, type)
    and issubclass(hint, Record)
    and not issubclass(hint, Variant)
  )


VariantT = TypeVar('VariantT', bound=Variant)


def members(base: type[VariantT]) -> dict[str, type[VariantT]]:
  """Imports the package of an open union, and returns `{tag: class}`."""
  found: dict[str, type[VariantT]] = {}
  package = base.package or base.__module__.rpartition('.')[0]
  for cls in subclasses(base, package):
    if cls.tag and found.setdefault(cls.tag, cls) is not cls:
      raise TypeError(f'{found[cls.tag]} and {cls} have one tag, {cls.tag}')
  return found


def _item(name: str, n: int, item: Record) -> str:
  """Returns the path prefix of an item of a tuple; variants have no number."""
  return f'{name}.' if isinstance(item, Variant) else f'{name}.{n}.'


# Numbers that are arguments of the compiled program. -------------------------


def split(record: Record) -> tuple[Record, dict[str, Any]]:
  """Splits a record into a static record and `{path: number}` to be traced.

  Records that differ only in traced numbers have equal static records, and so
  share one compiled program.  `bind` is the inverse.
  """
  values: dict[str, Any] = {}
  changes: dict[str, Any] = {}
  for name, hint in field_types(type(record)).items():
    value = vars(record)[name]
    if isinstance(value, Record):
      changes[name], below = split(value)
      prefix = '' if is_section(hint) else name + '.'
      values |= {prefix + path: v for path, v in below.items()}
    elif isinstance(value, tuple):
      halves = [split(v) for v in value]
      changes[name] = tuple(half for half, _ in halves)
      for n, (_, below) in enumerate(halves):
        prefix = _item(name, n, value[n])
        values |= {prefix + path: v for path, v in below.items()}
    elif meta_of(type(record), name).traced and value is not None:
      if isinstance(value, float) and value == 0.0:
        continue
      changes[name], values[name] = TRACED, value
  return replace_unchecked(record, changes), values


def bind(record: Record, values: Mapping[str, Any]) -> Any:
  """Returns `record` with its traced numbers filled in (arrays or tracers)."""
  changes: dict[str, Any] = {}
  for name, hint in field_types(type(record)).items():
    value = vars(record)[name]
    if isinstance(value, Record):
      below = values if is_section(hint) else _below(values, name + '.')
      changes[name] = bind(value, below)
    elif isinstance(value, tuple):
      changes[name] = tuple(
        bind(v, _below(values, _item(name, n, v))) for n, v in enumerate(value)
      )
    elif value is TRACED:
      changes[name] = values[name]
  return replace_unchecked(record, changes)


def _below(values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
  return {p[len(prefix) :]: values[p] for p in values if p.startswith(prefix)}


def replace_unchecked(record: Record, changes: Mapping[str, Any]) -> Any:
  """Returns `record` with new values of some fields, without checking them.

  It is for records that hold tracers or TRACED: these cannot be compared with
  bounds, as `dataclasses.replace` would do.  Their numbers have been checked.
  """
  new = copy.copy(record)
  for name, value in changes.items():
    object.__setattr__(new, name, value)
  return new


# Values as text, and their checks. --------------------------------------------


def unparse(value: object) -> str:
  """Returns a value as it is written on the command line."""
  if isinstance(value, Variant):
    return value.tag
  if isinstance(value, tuple):
    comma = ',' if all(isinstance(v, Variant) for v in value) else ';'
    return comma.join(unparse(v) for v in value) or 'none'
  if value is None or isinstance(value, bool):
    return str(value).lower()
  return str(value)


def _checked(name: str, hint: Any, meta: Meta, value: Any) -> Any:
  """Returns `value`, checked against its type, or raises `FieldError`."""
  if value is None and types.NoneType in typing.get_args(hint):
    return None
  if choices := variants(hint) or variant_list(hint):
    items = value if isinstance(value, tuple) else (value,)
    # An open union also accepts a variant that a test or a notebook defines.
    union = hint if variants(hint) else typing.get_args(hint)[0]
    is_open = isinstance(union, type) and not union.tag
    kinds = (union,) if is_open else tuple(choices.values())
    if not items or not all(isinstance(v, kinds) for v in items):
      raise FieldError(name, value, f'must be one of {"|".join(choices)}')
    return value
  if cls := record_list(hint):
    if not isinstance(value, tuple) or {type(v) for v in value} - {cls}:
      raise FieldError(name, value, f'must be a tuple of {cls.__name__}')
    return value
  if is_section(hint):
    if not isinstance(value, hint):
      raise FieldError(name, value, f'must be a {hint.__name__}')
    return value
  hint = without_none(hint)
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
