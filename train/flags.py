"""Records as absl flags: one field, one flag, one entry of `--help`."""

import types
import typing
from typing import Any

from absl import flags

from model.field import Record, unparse, variant_list, variants
from train.schema import Leaf, leaves


class _Text(flags.ArgumentParser):
  """Keeps the text of a flag: `schema.override` parses it, with the others."""

  def parse(self, argument: str) -> str:
    return argument


def define(cls: type[Record], flag_values: flags.FlagValues) -> None:
  """Defines one absl flag for each flag of the record class."""
  for path, leaf in leaves(cls).items():
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
  """Defines --help and -h, which may have a topic: --help=position."""
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


def present(cls: type[Record], flag_values: flags.FlagValues) -> dict[str, str]:
  """Returns `{flag: text}` of those that the command line names."""
  return {
    path: str(flag_values[path].value)
    for path in leaves(cls)
    if flag_values[path].present
  }


# Help. ------------------------------------------------------------------------


def describe(leaf: Leaf) -> tuple[str, str]:
  """Returns the default of a flag, and what it does, on several lines.

  A flag of a variant names the variants that have it.
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
      f'{owner.partition("=")[2]}{_other(own, default)}'
      for owner, (about, own) in leaf.owners.items()
      if owner and about.help == text
    ]
    lines.append(text + (f' (of {", ".join(having)})' if having else ''))
  lines[-1] += f' [{", ".join([type_name(leaf.hint), *bounds])}]'
  choices = variants(leaf.hint) or variant_list(leaf.hint)
  lines += [f'  {tag}: {summary(variant)}' for tag, variant in choices.items()]
  return unparse(default), '\n'.join(lines)


def _other(own: Any, shown: Any) -> str:
  return '' if own == shown else f': {unparse(own)}'


def summary(cls: type) -> str:
  """Returns the first line of a variant's docstring: what it is, citation."""
  assert cls.__doc__
  return cls.__doc__.splitlines()[0]


def type_name(hint: Any) -> str:
  """Returns the type of a flag as `--help` shows it."""
  if variant_list(hint):
    return 'comma list'
  if variants(hint):
    return 'choice'
  if hint is types.NoneType:
    return 'none'
  if typing.get_origin(hint) is typing.Literal:
    return '|'.join(typing.get_args(hint))
  if args := typing.get_args(hint):
    return '|'.join(type_name(arg) for arg in args)
  names = {str: 'text', int: 'integer', float: 'number', bool: 'true|false'}
  return names[hint]
