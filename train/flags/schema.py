"""Records as flat mappings from flag to text, and back.

Each field is a flag.  A field that is a record (a section) adds no prefix to
the names of its fields.  A choice of variants is a flag such as
`--position=rope`, and the fields of its variants are `--position.theta` and so
on; choices nest.  A tuple of variants is a comma list.  This module does not
use absl.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from model.architecture.layer_choices import LayerChoices
from model.core.field import (
  FieldError,
  Meta,
  Record,
  Variant,
  field_types,
  is_section,
  meta_of,
  record_list,
  unparse,
  variant_list,
  variants,
)
from model.core.flag_text import to_flags
from train.flags.suggest import suggest_flag, suggest_value


@dataclasses.dataclass(frozen=True)
class FlagSpec:
  """One flag.

  Attributes:
    hint: its type.
    owners: its metadata and default, by the choice that it belongs to, such as
      'position=rope'; a flag that always applies has the one owner ''.
  """

  hint: Any
  owners: Mapping[str, tuple[Meta, Any]]


@functools.cache
def flag_specs(cls: type[Record]) -> dict[str, FlagSpec]:
  """Returns all flags of a record class by name, in the order of fields."""
  out: dict[str, FlagSpec] = {}
  _collect(cls, '', '', out)
  return out


def _collect(
  cls: type[Record], prefix: str, owner: str, out: dict[str, FlagSpec]
) -> None:
  assert dataclasses.is_dataclass(cls)
  defaults = {f.name: f.default for f in dataclasses.fields(cls)}
  for name, hint in field_types(cls).items():
    if is_section(hint):
      _collect(hint, prefix, owner, out)
      continue
    path = prefix + name
    _add(out, path, hint, owner, (meta_of(cls, name), defaults[name]))
    for tag, variant in (variants(hint) or variant_list(hint)).items():
      _collect(variant, f'{path}.', f'{path}={tag}', out)


def _add(
  out: dict[str, FlagSpec],
  path: str,
  hint: Any,
  owner: str,
  about: tuple[Meta, Any],
) -> None:
  if path not in out:
    out[path] = FlagSpec(hint, {owner: about})
    return
  type_of_both = _joint_type(path, out[path].hint, hint)
  out[path] = FlagSpec(type_of_both, dict(out[path].owners) | {owner: about})


def _joint_type(path: str, one: Any, other: Any) -> Any:
  """Returns the type of a flag that two variants define with different types.

  It accepts what either type accepts; the variant that is chosen then applies
  its own type.

  Raises:
    TypeError: only one type is a choice, or both have different classes of the
      same tag, or the types are otherwise incompatible.
  """
  if one == other:
    return one
  if all(typing.get_origin(hint) is typing.Literal for hint in (one, other)):
    options = dict.fromkeys([*typing.get_args(one), *typing.get_args(other)])
    return typing.Literal[tuple(options)]
  choices = variants(one) | variants(other)
  ordered = variants(other) | variants(one)
  if variants(one) and variants(other) and choices == ordered:
    return typing.Union[tuple(choices.values())]  # noqa: UP007  # as many as there are
  kinds = {*_kinds(one), *_kinds(other)}
  if kinds <= {int, float, types.NoneType}:
    return float | None if types.NoneType in kinds else float
  raise TypeError(f'--{path} has two types: {one} and {other}')


def _kinds(hint: Any) -> tuple[Any, ...]:
  return typing.get_args(hint) or (hint,)


class ListEntry(Record):
  """An entry of a list flag, written as "FIRST:name=value,name=value".

  FIRST is the value of the first field; other fields are named if they differ
  from their defaults.  Entries are separated by semicolons.  Spaces are ignored
  when parsing and never written, since spaces separate the flags of a row.
  """

  def __str__(self) -> str:
    first, *others = to_flags(self).items()
    usual = to_flags(type(self)())
    named = [f'{k}={v}' for k, v in others if usual.get(k) != v]
    return f'{first[1]}:{",".join(named)}'


def _layers(path: str, cls: type[Record], text: str) -> tuple[Any, ...]:
  """Parses a pattern of layers: the choices of each layer.

  The format is like that of `ListEntry`, but every field is named:
  "name=value name=value; name=value".  In rows, where spaces separate flags, &
  replaces the space.
  """
  found = []
  for part in [] if text == 'none' else text.split(';'):
    words = [word.partition('=') for word in part.replace('&', ' ').split()]
    if not all(equals and value for _, equals, value in words):
      raise FieldError(
        path, part.strip(), 'must be "name=value name=value; name=value ..."'
      )
    try:
      found.append(override(cls(), {name: value for name, _, value in words}))
    except FieldError as e:
      problem = f'{e.path}={e.value}: {e.rule}'
      raise FieldError(path, part.strip(), problem) from None
  return tuple(found)


def _entries(path: str, cls: type[Record], text: str) -> tuple[Any, ...]:
  """Parses the entries of a list; a FieldError names the invalid entry."""
  if issubclass(cls, LayerChoices):
    return _layers(path, cls, text)
  found = []
  for part in [] if text == 'none' else text.split(';'):
    first, colon, rest = part.rpartition(':')
    named = rest.split(',') if rest.strip() else []
    words = [word.partition('=') for word in named]
    if not colon or not all(equals for _, equals, _ in words):
      raise FieldError(
        path, part.strip(), 'must be "WHICH: name=value, name=value; ..."'
      )
    head, *known = flag_specs(cls)
    values = {name.strip(): value.strip() for name, _, value in words}
    for name in values:
      if name not in known:
        rule = (
          f'{name} is none of {"|".join(known)}{suggest_value(name, known)}'
        )
        raise FieldError(path, part.strip(), rule)
    values = {head: first.strip()} | values
    try:
      found.append(override(cls(), values))
    except FieldError as e:
      problem = f'{e.path}={e.value}: {e.rule}'
      raise FieldError(path, part.strip(), problem) from None
  return tuple(found)


# From text to values. ---------------------------------------------------------


def parse_flag(path: str, hint: Any, text: str) -> Any:
  """Parses a text as a value of type `hint`; a choice is returned as its tag.

  Args:
    path: name of the flag, for the error message.
    hint: type of the flag.
    text: the text.

  Raises:
    FieldError: the text is not of this type.
  """
  if many := variant_list(hint):
    return tuple(_choice(path, tag, many) for tag in text.split(','))
  if cls := record_list(hint):
    return _entries(path, cls, text)
  if choices := variants(hint):
    return _choice(path, text, choices)
  args = typing.get_args(hint)
  if typing.get_origin(hint) is typing.Literal:
    return _choice(path, text, args)
  if types.NoneType in args:
    if text == 'none':
      return None
    (hint,) = [a for a in args if a is not types.NoneType]
    return parse_flag(path, hint, text)
  if hint is bool:
    return _choice(path, text.lower(), ('true', 'false')) == 'true'
  if hint is str:
    return text
  try:
    return hint(text)
  except ValueError:
    several = text.split(',')
    if len(several) > 1 and all(map(_numeric, several)):
      raise FieldError(path, text, _takes_one_value(path, several)) from None
    kind = 'an integer' if hint is int else 'a number'
    raise FieldError(path, text, f'must be {kind}') from None


def _choice(path: str, text: str, options: Iterable[str]) -> str:
  options = list(options)
  if text not in options:
    several = text.split(',')
    if len(several) > 1 and set(several) <= set(options):
      raise FieldError(path, text, _takes_one_value(path, several))
    raise FieldError(
      path,
      text,
      f'must be one of {"|".join(options)}{suggest_value(text, options)}',
    )
  return text


def _takes_one_value(path: str, several: Iterable[str]) -> str:
  return (
    f'takes one value: to compare them, --sweep="{path}={" ".join(several)}"'
  )


def _numeric(text: str) -> bool:
  try:
    float(text)
  except ValueError:
    return False
  return True


def override(base: Record, values: Mapping[str, str]) -> Any:
  """Returns a copy of a record with some flags set, after checking all rules.

  A choice that changes starts from the defaults of its new variant, and may
  change the defaults of other fields (`Record.following`).

  Args:
    base: the record.
    values: text by flag.

  Raises:
    FieldError: a flag is unknown or belongs to a variant that is not chosen, a
      value has the wrong type or is out of bounds, or a rule is broken.
  """
  known = flag_specs(type(base))
  for path, text in values.items():
    if path not in known:
      raise FieldError(path, text, f'is not a flag{suggest_flag(path, known)}')
  used: set[str] = set()
  new = _override(base, values, '', used)
  for path in values:
    if path not in used:
      owners = [o.split('=') for o in known[path].owners]
      choice = owners[0][0]
      tags = '|'.join(tag for _, tag in owners)
      chosen = to_flags(new)
      now = (
        f'--{choice}={chosen[choice]}' if choice in chosen else 'this choice'
      )
      raise FieldError(
        path,
        values[path],
        f'has no effect with {now}: it belongs to --{choice}={tags}',
      )
  return new


def _override(
  record: Record, values: Mapping[str, str], prefix: str, used: set[str]
) -> Any:
  below_prefix = (path.removeprefix(prefix) for path in values)
  if flag_specs(type(record)).keys().isdisjoint(below_prefix):
    return record  # it has been checked: of most parts nothing changes
  changes: dict[str, Any] = {}
  for name, hint in field_types(type(record)).items():
    path, old = prefix + name, vars(record)[name]
    if is_section(hint):
      changes[name] = _override(old, values, prefix, used)
      continue
    if path in values:
      used.add(path)
      changes[name] = parse_flag(path, hint, values[path])
    below = f'{path}.'
    if old is None and name not in changes:
      continue
    if choices := variants(hint):
      olds = [v for v in (old,) if v is not None]
      tag = changes[name] if name in changes else olds[0].tag
      new = _variant(choices, tag, olds)
      changes[name] = _override(new, values, below, used)
    elif choices := variant_list(hint):
      old = old or ()
      tags = changes.get(name, tuple(v.tag for v in old))
      changes[name] = tuple(
        _override(_variant(choices, tag, old), values, below, used)
        for tag in tags
      )
  for name, value in record.following(changes).items():
    if prefix + name not in values:
      changes[name] = value
  try:
    return dataclasses.replace(record, **changes)  # pyright: ignore[reportArgumentType]  # fields by name
  except FieldError as e:
    raise e.under(prefix) from None


def _variant(
  choices: Mapping[str, type[Variant]], tag: str, old: Iterable[Variant]
) -> Variant:
  """Returns the old variant with this tag, or else a new one with defaults."""
  for variant in old:
    if variant.tag == tag:
      return variant
  return choices[tag]()


def non_default_flags(
  base: Record, new: Record, prefix: str = ''
) -> dict[str, str]:
  """Returns the fewest flags with which `override` turns `base` into `new`.

  Fields that `override` sets to the right value by itself are left out, so the
  result does not change when a new flag is added to the code.
  """
  out: dict[str, str] = {}
  defaults = {**vars(base), **base.following(vars(new))}
  for name, hint in field_types(type(new)).items():
    path, old, value = prefix + name, defaults[name], vars(new)[name]
    if is_section(hint):
      out |= non_default_flags(old, value, prefix)
      continue
    if unparse(value) != unparse(old):
      out[path] = unparse(value)
    before = old if isinstance(old, tuple) else (old,)
    choices = variants(hint) or variant_list(hint)
    for item in value if isinstance(value, tuple) else (value,):
      if isinstance(item, Variant):
        start = _variant(choices, item.tag, before)
        out |= non_default_flags(start, item, f'{path}.')
  return out


def changes(base: Record, new: Record) -> dict[str, str]:
  """Returns the flags of `new` whose values differ from those of `base`."""
  old = to_flags(base)
  return {k: v for k, v in to_flags(new).items() if old.get(k) != v}
