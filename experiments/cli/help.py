"""The output of --help: all flags, a group of flags, one flag or one choice.

Each flag is shown with the value that will run: that of the experiment.
"""

import functools
import inspect
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from experiments.command import MANY, PROMPT, Command
from experiments.experiment import Experiment
from experiments.messages.errors import CommandError
from experiments.messages.page import Page
from model.architecture.architecture import Architecture
from model.core.field import Record, unparse, variant_list, variants
from train.config.config import Config
from train.flags.absl_flags import describe_flag, variant_summary
from train.flags.schema import FlagSpec, flag_specs, to_flags
from train.flags.suggest import suggest_flag
from train.inference.generation import Generation
from train.optim.optimizer import Optimization
from train.trial import Options

SECTIONS = (Command, Options, Config, Architecture, Optimization, Generation)
REPEATED = {**MANY, 'prompt': PROMPT}


class _Choice(NamedTuple):
  """A variant, and the flag whose value it is."""

  path: str
  tag: str
  variant: type


def show_help(usage: str, topic: str, experiment: Experiment) -> None:
  """Prints the help on a topic.

  Args:
    usage: text to begin with if the topic is everything.
    topic: 'true' for everything, a group ('optimization'), a flag ('position',
      'position.theta') or a value of a flag ('rope', 'position=rope').
    experiment: the experiment whose values are shown.

  Raises:
    CommandError: there is no such topic.
  """
  page, groups = Page(), _groups()
  sets = to_flags(experiment.base)
  topic = topic.removeprefix('--').replace('-', '_')
  if topic == 'true':
    page.raw(usage.strip())
    page.gap()
    page.line(
      f'--help=TOPIC shows only a group ({", ".join(groups)}), a flag, or a '
      'choice such as rope.'
    )
    for group in groups:
      _show_group(page, group, experiment)
  elif topic.lower() in groups:
    _show_group(page, topic.lower(), experiment)
  elif topic in REPEATED:
    page.line(f'--{topic}=...', style='cyan')
    page.line(REPEATED[topic], 6)
  elif topic in _flags():
    _show_tree(page, topic, sets, experiment.name)
  elif found := [c for c in _choices() if topic in (c.tag, _named(c))]:
    for choice in found:
      _show_choice(page, choice, sets, experiment.name)
  else:
    known = [*_flags(), *REPEATED, *groups, *(c.tag for c in _choices())]
    raise CommandError(
      f'--help={topic}: is no group ({"|".join(groups)}), flag or '
      f'choice{suggest_flag(topic, known)}'
    )


def _groups() -> dict[str, type[Record]]:
  """Returns the groups of flags by name."""
  return {
    variant_summary(cls).partition(':')[0].lower(): cls for cls in SECTIONS
  }


def _flags() -> dict[str, FlagSpec]:
  """Returns all flags by path."""
  return dict(
    itertools.chain.from_iterable(
      flag_specs(cls).items() for cls in (Command, Options, Config, Generation)
    )
  )


@functools.cache
def _defaults() -> Mapping[str, str]:
  """Returns the flags of the default configuration, made once for all flags."""
  return to_flags(Config())


def _choices() -> Iterator[_Choice]:
  """Yields every choice of every flag."""
  for path, leaf in _flags().items():
    found = variants(leaf.hint) or variant_list(leaf.hint)
    for tag, variant in found.items():
      yield _Choice(path, tag, variant)


def _named(choice: _Choice) -> str:
  return f'{choice.path}={choice.tag}'


def _show_group(page: Page, group: str, experiment: Experiment) -> None:
  """Prints the flags of a group, without those of groups nested in it."""
  record, later = _groups()[group], set[str]()
  if record is Config:
    later = {*flag_specs(Architecture), *flag_specs(Optimization)}
  page.gap()
  page.line(variant_summary(record), style='bold')
  sets = to_flags(experiment.base)
  for path, leaf in flag_specs(record).items():
    if path not in later:
      _show_flag(page, path, leaf, sets, experiment.name)
  if record is Command:
    for name, about in MANY.items():
      page.line(f'--{name}=...', 2, 'cyan')
      page.line(about, 6)
  if record is Generation:
    page.line('--prompt=...', 2, 'cyan')
    page.line(PROMPT, 6)


def _show_flag(
  page: Page, path: str, leaf: FlagSpec, sets: Mapping[str, str], name: str
) -> None:
  """Prints one flag, with the value that will run."""
  default, body = describe_flag(leaf)
  value = sets.get(path, default)
  page.line(f'--{path}={value}', 2, 'cyan')
  # If several choices have the flag, this is the default of the first.
  default = _defaults().get(path, default)
  if value != default:
    body += f'\n  ({name} sets {value}; --experiment=train has {default})'
  for line in body.splitlines():
    text = line.strip()
    listed = line.startswith('  ') and not text.startswith('(')
    head = text.partition(' ')[0] if listed else ''
    page.line(text, 8 if line.startswith('  ') else 6, head=head)


def _show_tree(
  page: Page, path: str, sets: Mapping[str, str], name: str
) -> None:
  """Prints a flag and the flags of its choices."""
  for other, leaf in _flags().items():
    if other == path or other.startswith(f'{path}.'):
      _show_flag(page, other, leaf, sets, name)


def _show_choice(
  page: Page, choice: _Choice, sets: Mapping[str, str], name: str
) -> None:
  """Prints a choice: the docstring of its class, and its fields as flags."""
  page.line(f'--{_named(choice)}', style='cyan')
  about = inspect.cleandoc(choice.variant.__doc__ or '')
  for number, paragraph in enumerate(about.split('\n\n')):
    if number:
      page.gap()
    listed = '\n ' in paragraph  # equations: keep the line breaks
    for line in paragraph.splitlines() if listed else [paragraph]:
      page.line(line, 6)
  for path, leaf in _flags().items():
    about_here: Any = leaf.owners.get(_named(choice))
    if about_here is None:
      continue
    meta, default = about_here
    text = unparse(default)
    if sets.get(choice.path) == choice.tag:
      text = sets.get(path, text)
    own = FlagSpec(leaf.hint, {'': (meta, default)})
    _show_flag(page, path, own, {path: text}, name)
