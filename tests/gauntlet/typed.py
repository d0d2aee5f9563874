"""Command lines that a user might type, most of them valid, by chance."""

import random
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.command import Command
from experiments.questions.discover import discover
from helpers.processes import write_text
from model.core.field import (
  FieldError,
  Meta,
  record_list,
  unparse,
  variant_list,
  variants,
)
from train.config.config import Config
from train.flags.schema import FlagSpec, flag_specs, override
from train.trial import Options

VALID = 0.93  # of the flags that break a rule, this share is drawn again
RUDE = 0.15  # of the command lines
# What nobody should type as the value of a flag, or in its place.
RUDENESS = (
  *('', ' ', 'nan', 'inf', '-1', '0', '1e999', '2147483648', '9' * 40, 'none'),
  *('auto', 'true', 'a,b', '1.5', 'über', '\x1b[31m', '"', '=', '--', '../x'),
)
# What says where data come from, which are those of `tasks`.
GIVEN = ('task', 'task.path', 'task.corpus', 'model', 'init_from')
RULES = (
  'none',
  '^embedding/:factor=0.1',
  'kind=scale:weight_decay=0.1;kind=matrix:factor=2,warmup_steps=0',
  'attention: factor=3, schedule=constant',
)
FLAGS = ('experimnt', 'lr', 'n_layer', 'positon', 'x', 'task.x', 'norm.theta')
# Texts, and tables that are written for these tests.
_ROWS = {
  'classes.tsv': lambda n: (
    f'{"ab" * (n % 5 + 1)}\t{"even" if n % 2 else "odd"}'
  ),
  'pairs.tsv': lambda n: f'{"go " * (n % 4 + 1)}{n}\t{"geh " * (n % 4 + 1)}{n}',
}


class Line(NamedTuple):
  """A command line: its words, what of the base was typed, if it is run."""

  words: list[str]
  typed: dict[str, str]
  smoke: bool


def write_data(home: Path) -> None:
  """Writes what the tasks read."""
  write_text(home)
  for name, row in _ROWS.items():
    (home / name).write_text(''.join(f'{row(n)}\n' for n in range(60)))


def tasks(home: Path) -> list[dict[str, str]]:
  """Returns the flags of each task with a model that learns it."""
  text = {'task.path': str(home / 'text.txt')}
  classes = {'model': 'classifier'}
  table = {'task.data': 'tsv', 'task.data.train': str(home / 'classes.tsv')}
  pairs = {'task.data': 'tsv', 'task.data.train': str(home / 'pairs.tsv')}
  return [
    text,
    text,
    {'task': 'mlm', 'model': 'encoder'} | text,
    {'task': 'most_frequent'} | classes,
    {'task': 'classification'} | classes | table,
    {'task': 'translation', 'model': 'encoder_decoder'} | pairs,
  ]


def draw_line(draw: random.Random, home: Path, smoke: bool) -> Line:
  """Returns a command line without --workdir."""
  typed = draw.choice(tasks(home))
  words, base = [], Config()
  if 'task' in typed or draw.random() < 0.6:
    words.append('--experiment=train')
  else:
    base = discover()['ladder'].base
  typed = typed | _more(draw, base, typed, draw.randrange(8))
  words += [f'--{flag}={text}' for flag, text in typed.items()]
  for _ in range(draw.choice((0, 0, 1) if smoke else (0, 0, 1, 1, 2))):
    row = _more(draw, base, typed, draw.choice((1, 1, 2)), own=True)
    if row:
      words.append(f'--ablate={" ".join(f"{k}={v}" for k, v in row.items())}')
  if draw.random() < 0.2 and not smoke:
    words.append(_axis(draw, base, typed))
  words.append(f'--seeds={1 if smoke else draw.choice((1, 1, 2))}')
  if draw.random() < 0.3:
    words.append(_other(draw))
  if draw.random() < RUDE:
    words, typed = _rude(draw, words), {}
  draw.shuffle(words)
  return Line([*words, '--smoke' if smoke else '--plan'], typed, smoke)


def _more(
  draw: random.Random,
  base: Config,
  typed: Mapping[str, str],
  count: int,
  own: bool = False,
) -> dict[str, str]:
  """Returns further flags that go with what is typed, mostly.

  Args:
    draw: of all choices.
    base: what is changed.
    typed: by other flags.
    count: at most so many.
    own: of a row, which may say again what the base says.
  """
  known = flag_specs(Config)
  names = [
    name
    for name in known
    if name not in GIVEN
    and not name.startswith('task.data')
    and (own or name not in typed)
  ]
  found: dict[str, str] = {}
  for _ in range(count):
    name = draw.choice(names)
    more = {name: value(draw, known[name])}
    owner, equals, tag = draw.choice([*known[name].owners]).partition('=')
    if equals and owner not in (found if own else typed | found):
      more = {owner: tag} | more
    try:
      override(base, {**typed, **found, **more})
    except FieldError:
      if draw.random() < VALID:
        continue
    found |= more
  return found


def value(draw: random.Random, leaf: FlagSpec) -> str:
  """Returns a value of a flag, within its bounds."""
  meta, default = draw.choice([*leaf.owners.values()])
  return _text(draw, leaf.hint, meta, default)


def _text(draw: random.Random, hint: Any, meta: Meta, default: Any) -> str:
  """Returns a value of a type as text."""
  if many := variant_list(hint):
    return ','.join(draw.sample([*many], draw.choice((1, 1, 2))))
  if choices := variants(hint):
    return draw.choice([*choices])
  if record_list(hint):
    return draw.choice(RULES)
  if typing.get_origin(hint) is typing.Literal:
    return draw.choice(typing.get_args(hint))
  args = typing.get_args(hint)
  if types.NoneType in args:
    rest = [arg for arg in args if arg is not types.NoneType]
    return draw.choice(['none', *(_text(draw, a, meta, default) for a in rest)])
  if hint is bool:
    return draw.choice(('true', 'false'))
  if hint is str:
    return draw.choice(('x', unparse(default)))
  low = 0 if meta.min is None else meta.min
  if hint is int:
    whole = [int(low), int(low) + 1, 2, 3, 4, 8, 12, 16, 32]
    return str(draw.choice([n for n in whole if n >= low]))
  some = [low, 0.1, 0.5, 0.9, 1.0, 1e-3, 1e-2, 3.0, default or 0.0]
  most = float('inf') if meta.max is None else meta.max
  return unparse(float(draw.choice([x for x in some if low <= x <= most])))


def _axis(draw: random.Random, base: Config, typed: Mapping[str, str]) -> str:
  """Returns a sweep over a flag, or what selects among its values."""
  row = {}
  while not row:
    row = _more(draw, base, typed, 1, own=True)
  name = [*row][-1]
  leaf = flag_specs(Config)[name]
  several = dict.fromkeys([row[name], value(draw, leaf), value(draw, leaf)])
  return (
    f'--{draw.choice(("sweep", "sweep", "tune"))}={name}={" ".join(several)}'
  )


def _other(draw: random.Random) -> str:
  """Returns a flag that is no part of the configuration."""
  record = draw.choice((Command, Options))
  known = {
    name: leaf
    for name, leaf in flag_specs(record).items()
    if name not in ('workdir', 'merge', 'generate', 'evaluate', 'log_to')
    and name not in ('experiment', 'seeds', 'plan', 'smoke', 'list', 'workers')
  }
  name = draw.choice([*known])
  return f'--{name}={value(draw, known[name])}'


def _rude(draw: random.Random, words: list[str]) -> list[str]:
  """Returns words of which one is not what it should be."""
  number = draw.randrange(len(words))
  name, _, text = words[number].partition('=')
  other = draw.choice(
    (
      f'{name}={draw.choice(RUDENESS)}',
      f'--{draw.choice(FLAGS)}={text}',
      name,
      draw.choice(RUDENESS),
      f'{name}={text[:-1]}',
    )
  )
  return [*words[:number], other, *words[number + 1 :]]
