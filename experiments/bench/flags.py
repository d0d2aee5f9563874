"""The flags of the bench, checked before anything runs."""

import argparse
import dataclasses
import pathlib
import shlex
import sys
from collections.abc import Sequence
from typing import NoReturn

from experiments.bench.sizes import CPU, GPU, PARTS, PROFILE, Sizes, sizes_of
from experiments.messages.errors import CommandError
from train.flags.suggest import suggest_flag, suggest_value

PROGRAM = 'python -m experiments.bench'
ABOUT = """Measures how fast Ablax is on this machine, beside its peers.

Prints a table for each part as soon as it is done; --json keeps the figures.
Nothing else should run meanwhile.  docs/speed.md says what the columns mean.
"""
_HELP = {
  'json': 'FILE to write the figures to, after each part',
  'only': f'PART to measure (repeatable): {", ".join(PARTS)}',
  'peer': '"[PYTHON] SCRIPT.py [FLAGS]": a peer of the training step, which '
  'takes --vocab, --layers, --heads, --width, --length, --batch, --steps and '
  'prints a line of JSON with ms_per_step (repeatable)',
  'generation_peer': '"[PYTHON] SCRIPT.py [FLAGS]": a peer of generation '
  '(repeatable); tests/peers/generate_gpt2.py is one',
  'rounds': 'how often Ablax and its peers take turns',
  'task.path': 'FILE of text to train on',
  'quick': 'tiny sizes, one round: a first look, whose numbers mean nothing',
  'gpu': 'what needs an accelerator, in under 8 minutes',
  'profile': 'the ten dearest operations of a step, too',
}
_SWITCHES = ('quick', 'gpu', 'profile')
_MANY = ('only', 'peer', 'generation_peer')


@dataclasses.dataclass(frozen=True)
class Asked:
  """What the command line asks for.

  Attributes:
    parts: the parts to measure, in order.
    sizes: their sizes.
    rounds: how often contestants take turns.
    peers: commands of peers of the training step.
    generation_peers: commands of peers of generation.
    json: file for the figures, or None.
    text: text to train on, or None.
    quick: whether sizes are tiny.
    gpu: whether an accelerator is measured.
  """

  parts: tuple[str, ...]
  sizes: Sizes
  rounds: int
  peers: tuple[tuple[str, ...], ...]
  generation_peers: tuple[tuple[str, ...], ...]
  json: pathlib.Path | None
  text: pathlib.Path | None
  quick: bool
  gpu: bool


class _Parser(argparse.ArgumentParser):
  """Raises the errors of a command line, which are one line each."""

  def error(self, message: str) -> NoReturn:
    raise CommandError(message.removeprefix('argument '))


def parse(words: Sequence[str]) -> Asked:
  """Returns the measurements that the words of a command line ask for.

  Raises:
    CommandError: a flag is unknown, or its value is invalid.
  """
  parser = _Parser(
    prog=PROGRAM,
    description=ABOUT,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  for name, about in _HELP.items():
    kind = 'store_true' if name in _SWITCHES else 'store'
    action = 'append' if name in _MANY else kind
    parser.add_argument(f'--{name}', action=action, help=about)
  found, rest = parser.parse_known_args(words)
  if rest:
    name = rest[0].lstrip('-').partition('=')[0]
    raise CommandError(f'{rest[0]}: is not a flag{suggest_flag(name, _HELP)}')
  given = vars(found)
  sizes = sizes_of(given['quick'], given['gpu'])
  known = (*(GPU if given['gpu'] else CPU).parts, PROFILE)
  return Asked(
    parts=_parts(given['only'] or sizes.parts, known, given['profile']),
    sizes=sizes,
    rounds=_rounds(given['rounds'], sizes.rounds),
    peers=_commands('peer', given['peer'] or ()),
    generation_peers=_commands(
      'generation_peer', given['generation_peer'] or ()
    ),
    json=_new_file(given['json']),
    text=_text(given['task.path']),
    quick=given['quick'],
    gpu=given['gpu'],
  )


def _parts(
  wanted: Sequence[str], known: Sequence[str], profile: bool
) -> tuple[str, ...]:
  """Returns the parts to measure, in order; with --profile, that one too."""
  for part in wanted:
    if part not in known:
      raise CommandError(
        f'--only={part}: must be one of {"|".join(known)}'
        f'{suggest_value(part, known)}'
      )
  both = {*wanted, *([PROFILE] if profile else [])}
  return tuple(part for part in known if part in both)


def _rounds(text: str | None, usual: int) -> int:
  if text is None:
    return usual
  if not text.isdecimal() or not 1 <= int(text) <= 1000:
    raise CommandError(f'--rounds={text}: must be a number from 1 to 1000')
  return int(text)


def _commands(flag: str, texts: Sequence[str]) -> tuple[tuple[str, ...], ...]:
  """Returns the words of commands; a script alone runs with this Python."""
  found = []
  for text in texts:
    try:
      words = shlex.split(text)
    except ValueError as e:  # an unclosed quote
      raise CommandError(f'--{flag}={text}: {e}: close it') from None
    if not words:
      raise CommandError(f'--{flag}={text}: must name a script')
    own = [sys.executable] if words[0].endswith('.py') else []
    found.append((*own, *words))
  return tuple(found)


def _new_file(text: str | None) -> pathlib.Path | None:
  """Returns the path of a file that can be written, or None."""
  if text is None:
    return None
  path = pathlib.Path(text)
  if not text or path.is_dir() or not path.parent.is_dir():
    raise CommandError(
      f'--json={text}: must be a file in a folder that exists: make the folder'
    )
  return path


def _text(text: str | None) -> pathlib.Path | None:
  """Returns the path of a text that exists, or None."""
  if text is None:
    return None
  if not pathlib.Path(text).is_file():
    raise CommandError(f'--task.path={text}: is no file: give a text')
  return pathlib.Path(text).resolve()
