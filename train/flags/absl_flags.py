"""Defines absl flags for the fields of records, and the text of --help."""

import types
import typing
from typing import Any

from absl import flags

from model.core.field import (
  Record,
  field_types,
  meta_of,
  record_list,
  unparse,
  variant_list,
  variants,
)
from train.flags.schema import FlagSpec, flag_specs


class _Text(flags.ArgumentParser):
  """Keeps the text of a flag, since `schema.override` parses all together."""

  def parse(self, argument: str) -> str:
    return argument


def define(cls: type[Record], flag_values: flags.FlagValues) -> None:
  """Defines an absl flag for each flag of a record class."""
  for path, leaf in flag_specs(cls).items():
    _, default = next(iter(leaf.owners.values()))
    flags.DEFINE_flag(
      flags.Flag(
        _Text(),
        flags.ArgumentSerializer(),
        path,
        unparse(default),
        next(iter(leaf.owners.values()))[0].help,
        boolean=bool in (leaf.hint, *typing.get_args(leaf.hint)),
      ),
      flag_values,
    )


def define_help(flag_values: flags.FlagValues) -> None:
  """Defines --help and -h, which accept a topic, as in --help=position."""
  flags.DEFINE_flag(
    flags.Flag(
      _Text(),
      flags.ArgumentSerializer(),
      'help',
      'false',
      'Show this.',
      short_name='h',
      boolean=True,
    ),
    flag_values,
  )


def given_flags(
  cls: type[Record], flag_values: flags.FlagValues
) -> dict[str, str]:
  """Returns `{flag: text}` of the flags that the command line sets."""
  return {
    path: str(flag_values[path].value)
    for path in flag_specs(cls)
    if flag_values[path].present
  }


# Help. ------------------------------------------------------------------------


def describe_flag(leaf: FlagSpec) -> tuple[str, str]:
  """Returns the default of a flag, and its description on several lines.

  The description of a flag of variants names the variants that have it.
  """
  (meta, default), *_ = leaf.owners.values()
  bounds = [
    f'{sign} {limit if isinstance(limit, int) else f"{limit:g}"}'
    for sign, limit in (('>=', meta.min), ('<=', meta.max))
    if limit is not None and abs(limit) < 10**9
  ]
  lines = []
  for text in dict.fromkeys(about.help for about, _ in leaf.owners.values()):
    having = [
      f'{owner.partition("=")[2]}{_other_default(own, default)}'
      for owner, (about, own) in leaf.owners.items()
      if owner and about.help == text
    ]
    lines.append(text + (f' (of {", ".join(having)})' if having else ''))
  lines[-1] += f' [{", ".join([type_name(leaf.hint), *bounds])}]'
  choices = variants(leaf.hint) or variant_list(leaf.hint)
  lines += [
    f'  {tag}: {variant_summary(variant)}' for tag, variant in choices.items()
  ]
  if cls := record_list(leaf.hint):
    lines += [
      f'  {name}: {meta_of(cls, name).help}' for name in field_types(cls)
    ]
  return unparse(default), '\n'.join(lines)


def _other_default(own: Any, shown: Any) -> str:
  """Returns the default of one variant if it is not the one that is shown."""
  return '' if own == shown else f': {unparse(own)}'


def variant_summary(cls: type) -> str:
  """Returns the first line of the docstring of a variant, for --help."""
  assert cls.__doc__
  return cls.__doc__.splitlines()[0]


def type_name(hint: Any) -> str:
  """Returns the type of a flag as --help shows it."""
  if variant_list(hint):
    return 'comma list'
  if variants(hint):
    return 'choice'
  if record_list(hint):
    return 'list of rules'
  if hint is types.NoneType:
    return 'none'
  if typing.get_origin(hint) is typing.Literal:
    return '|'.join(typing.get_args(hint))
  if args := typing.get_args(hint):
    return '|'.join(type_name(arg) for arg in args)
  names = {str: 'text', int: 'integer', float: 'number', bool: 'true|false'}
  return names[hint]
