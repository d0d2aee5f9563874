"""Records as absl flags: one field, one flag, one entry of `--help`."""

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
        boolean=leaf.hint is bool,
      ),
      flag_values,
    )


def present(cls: type[Record], flag_values: flags.FlagValues) -> dict[str, str]:
  """Returns `{flag: text}` of those that the command line names."""
  return {
    path: flag_values[path].value
    for path in leaves(cls)
    if flag_values[path].present
  }


# Help. ------------------------------------------------------------------------


def describe(path: str, leaf: Leaf) -> tuple[str, str]:
  """Returns a flag with its type and default, and what it does."""
  owners = list(leaf.owners.items())
  _, (meta, default) = owners[0]
  head = f'--{path}={unparse(default)}'
  texts = []
  for owner, (about, own_default) in owners:
    text = about.help
    if owner and (len(owners) > 1):
      text = f'{text} ({owner}: {unparse(own_default)})'
    if text not in texts:
      texts.append(text)
  body = ' '.join(texts)
  kind = type_name(leaf.hint)
  bounds = [
    f'{sign} {limit:g}'
    for sign, limit in (('>=', meta.min), ('<=', meta.max))
    if limit is not None
  ]
  choices = variants(leaf.hint) or variant_list(leaf.hint)
  lines = [f'{body} [{", ".join([kind, *bounds])}]']
  lines += [f'  {tag}: {summary(variant)}' for tag, variant in choices.items()]
  return head, '\n'.join(lines)


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
  text = hint.__name__ if isinstance(hint, type) else str(hint)
  if text.startswith('typing.Literal'):
    return (
      text[len('typing.Literal') :]
      .strip('[]')
      .replace("'", '')
      .replace(', ', '|')
    )
  return text.replace(' | None', '|none')
