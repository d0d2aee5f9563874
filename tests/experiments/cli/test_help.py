"""What --help, --list and --plan say."""

import os
import re
import types
import typing
from pathlib import Path
from typing import Any

import pytest

from experiments.command import MANY, Command
from experiments.experiment import BASE
from experiments.questions.discover import discover
from helpers.command_lines import shell
from helpers.commands import run
from model.core.field import Record, record_list, variant_list, variants
from train.config.config import Config
from train.flags.schema import flag_specs, to_flags
from train.tasks.texts.translation import Translation
from train.trial import Options

pytestmark = pytest.mark.usefixtures('quick_compilation')


def type_word(hint: Any) -> str:
  """Returns what --help calls a type."""
  if variant_list(hint):
    return 'comma list'
  if variants(hint):
    return 'choice'
  if record_list(hint):
    return 'list of rules'
  if typing.get_origin(hint) is typing.Literal:
    return '|'.join(typing.get_args(hint))
  args = typing.get_args(hint)
  if types.NoneType in args:
    inner = [a for a in args if a is not types.NoneType]
    return f'{type_word(inner[0])}|none'
  words = {str: 'text', int: 'integer', float: 'number', bool: 'true|false'}
  return words[hint]


def test_help_says_all_of_every_flag_in_time() -> None:
  # CPU seconds of processes: on a machine that is busy time says little.
  start = sum(os.times()[2:4])
  done = shell('--help')
  assert sum(os.times()[2:4]) - start < 10
  assert (done.returncode, done.stderr) == (0, '')
  lines = done.stdout.splitlines()
  assert [line for line in lines if line != line.rstrip()] == []
  assert max(map(len, lines)) <= 80  # to a pipe
  # The value that will run: that of the default experiment.
  runs = to_flags(discover()['ladder'].base)
  # From one flag to the next, without the breaks of lines.
  parts = re.split(r'^ *--(?=\S+=)', done.stdout, flags=re.MULTILINE)
  said = {p.partition('=')[0]: ' '.join(p.split()) for p in parts}
  for record in (Command, Options, Config):
    for path, leaf in flag_specs(record).items():
      _, default = next(iter(leaf.owners.values()))
      shown = runs.get(path, to_text(default))
      assert said[path].startswith(f'{path}={shown} '), said[path]
      assert type_word(leaf.hint) in said[path]
      for meta, _ in leaf.owners.values():
        assert ' '.join(meta.help.split()) in said[path]
      choices = variants(leaf.hint) | variant_list(leaf.hint)
      for tag, variant in choices.items():
        assert variant.__doc__
        assert f'{tag}: {variant.__doc__.splitlines()[0]}' in said[path]
  for name in MANY:
    assert f'--{name}' in done.stdout
  assert (
    'ladder sets 0.003; --experiment=train has 0.001' in (said['learning_rate'])
  )


def to_text(value: Any) -> str:
  """Returns a default as it is typed."""
  if isinstance(value, Record):
    return vars(type(value))['tag']
  if isinstance(value, tuple):
    return ','.join(map(to_text, value))
  if value is None or isinstance(value, bool):
    return str(value).lower()
  return str(value)


def test_list_names_every_experiment(
  here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  assert run('--list') == 0
  said = ' '.join(capsys.readouterr().out.split())
  for name, experiment in discover().items():
    assert f'{name} {experiment.title}' in said
    assert ' '.join(experiment.citation.split()) in said
  for figure in Translation.figures:
    assert f'--metric={figure.name}: {figure.about}' in said
  assert not list(here.iterdir())


@pytest.mark.parametrize(
  ('words', 'other'),
  [
    (('--list', '--steps=3'), 'steps'),
    (('--digest', '--smoke'), 'smoke'),
    (('--list', '--ablate=norm=rmsnorm'), 'ablate'),
    (('--digest', '--prompt=a'), 'prompt'),
    (('--list', '--digest'), 'digest'),
  ],
)
def test_what_a_list_would_ignore_is_refused(
  here: Path,
  capsys: pytest.CaptureFixture[str],
  words: tuple[str, ...],
  other: str,
) -> None:
  assert run(*words) == 2
  assert capsys.readouterr().err == (
    f'launch.py: {words[0]}=true: leaves --{other} without effect: drop one of '
    'them\n'
  )
  assert not list(here.iterdir())


def test_plan_shows_every_row_and_makes_nothing(
  here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  assert run('--plan', '--sweep=position=rope none', '--workdir=new') == 0
  said = capsys.readouterr().out
  assert all(x in said for x in (BASE, 'position=rope', 'position=none'))
  assert not list(here.iterdir())
