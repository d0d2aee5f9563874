"""Records as flat `{flag: text}`: the schema, parsing, overriding, printing.

Flags are leaf names.  A field that is a record (a section) adds no prefix; a
choice is `--position=rope` and the fields of its variants `--position.theta`;
a tuple of variants is a comma list.  Choices nest.  Knows nothing of absl.
"""

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from model.field import (
  FieldError,
  Meta,
  Record,
  Variant,
  hints,
  is_section,
  meta_of,
  unparse,
  variant_list,
  variants,
)
from train.suggest import suggest, suggest_flag


@dataclasses.dataclass(frozen=True)
class Leaf:
  """One flag: its type and, by owner, its help and default.

  `owners` maps the choice that a sub-flag needs ('position=rope') to the
  metadata and the default there; flags that always apply have one owner, ''.
  """

  hint: Any
  owners: Mapping[str, tuple[Meta, Any]]


@functools.cache
def leaves(cls: type[Record]) -> dict[str, Leaf]:
  """Returns `{flag: leaf}` of every flag of a record class, in order."""
  out: dict[str, Leaf] = {}
  _collect(cls, '', '', out)
  return out


def _collect(
  cls: type[Record], prefix: str, owner: str, out: dict[str, Leaf]
) -> None:
  assert dataclasses.is_dataclass(cls)
  defaults = {f.name: f.default for f in dataclasses.fields(cls)}
  for name, hint in hints(cls).items():
    if is_section(hint):
      _collect(hint, prefix, owner, out)
      continue
    path = prefix + name
    _add(out, path, hint, owner, (meta_of(cls, name), defaults[name]))
    for tag, variant in (variants(hint) or variant_list(hint)).items():
      _collect(variant, f'{path}.', f'{path}={tag}', out)


def _add(
  out: dict[str, Leaf],
  path: str,
  hint: Any,
  owner: str,
  about: tuple[Meta, Any],
) -> None:
  if path not in out:
    out[path] = Leaf(hint, {owner: about})
    return
  joint = _joint(path, out[path].hint, hint)
  out[path] = Leaf(joint, dict(out[path].owners) | {owner: about})


def _joint(path: str, one: Any, other: Any) -> Any:
  """Returns the type of a flag that two variants have, each with its own.

  It accepts what either does: whose value is meant, its own type decides.

  Raises:
    TypeError: one is a choice and the other is none, or a tag is two classes.
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


# From text to values. ---------------------------------------------------------


def parse(path: str, hint: Any, text: str) -> Any:
  """Returns `text` as a value of type `hint`; a choice stays its tag."""
  if many := variant_list(hint):
    return tuple(_choice(path, tag, many) for tag in text.split(','))
  if choices := variants(hint):
    return _choice(path, text, choices)
  args = typing.get_args(hint)
  if typing.get_origin(hint) is typing.Literal:
    return _choice(path, text, args)
  if types.NoneType in args:
    if text == 'none':
      return None
    (hint,) = [a for a in args if a is not types.NoneType]
    return parse(path, hint, text)
  if hint is bool:
    return _choice(path, text.lower(), ('true', 'false')) == 'true'
  if hint is str:
    return text
  try:
    return hint(text)
  except ValueError:
    several = text.split(',')
    if len(several) > 1 and all(map(_numeric, several)):
      raise FieldError(path, text, _one(path, several)) from None
    kind = 'an integer' if hint is int else 'a number'
    raise FieldError(path, text, f'must be {kind}') from None


def _choice(path: str, text: str, options: Iterable[str]) -> str:
  options = list(options)
  if text not in options:
    several = text.split(',')
    if len(several) > 1 and set(several) <= set(options):
      raise FieldError(path, text, _one(path, several))
    raise FieldError(
      path, text, f'must be one of {"|".join(options)}{suggest(text, options)}'
    )
  return text


def _one(path: str, several: Iterable[str]) -> str:
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
  """Returns `base` changed by `{flag: text}`, every rule checked.

  A choice that changes starts from its variant's defaults.

  Raises:
    FieldError: an unknown flag, a value out of its type or bounds, a broken
      rule between flags, or a flag of a variant that is not chosen.
  """
  known = leaves(type(base))
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
  changes: dict[str, Any] = {}
  for name, hint in hints(type(record)).items():
    path, old = prefix + name, vars(record)[name]
    if is_section(hint):
      changes[name] = _override(old, values, prefix, used)
      continue
    if path in values:
      used.add(path)
      changes[name] = parse(path, hint, values[path])
    below = f'{path}.'
    if choices := variants(hint):
      new = _variant(choices, changes.get(name, old.tag), (old,))
      changes[name] = _override(new, values, below, used)
    elif choices := variant_list(hint):
      tags = changes.get(name, tuple(v.tag for v in old))
      changes[name] = tuple(
        _override(_variant(choices, tag, old), values, below, used)
        for tag in tags
      )
  try:
    return dataclasses.replace(record, **changes)  # pyright: ignore[reportArgumentType]  # fields by name
  except FieldError as e:
    raise e.under(prefix) from None


def _variant(
  choices: Mapping[str, type[Variant]], tag: str, old: Iterable[Variant]
) -> Variant:
  """Returns the old variant of this tag, with its fields, or a new one."""
  for variant in old:
    if variant.tag == tag:
      return variant
  return choices[tag]()


def to_flags(record: Record, prefix: str = '') -> dict[str, str]:
  """Returns `{flag: text}` that rebuilds `record`: `override`'s inverse."""
  out: dict[str, str] = {}
  for name, hint in hints(type(record)).items():
    path, value = prefix + name, vars(record)[name]
    if is_section(hint):
      out |= to_flags(value, prefix)
      continue
    out[path] = unparse(value)
    items = value if isinstance(value, tuple) else (value,)
    for item in items:
      if isinstance(item, Variant):
        out |= to_flags(item, f'{path}.')
  return out


def changes(base: Record, new: Record) -> dict[str, str]:
  """Returns the flags of `new` that differ from those of `base`."""
  old = to_flags(base)
  return {k: v for k, v in to_flags(new).items() if old.get(k) != v}
