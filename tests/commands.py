"""Runs command lines in this process, and reads what they leave."""

from pathlib import Path
from typing import Any

from absl import flags

import launch
from experiments import cli
from train.fetch import Remote
from train.files import read_lines


def run(*argv: str) -> int:
  """Returns the exit code of `python launch.py ARGV`, run in this process."""
  assert launch.__doc__
  return cli.main(['launch.py', *argv], flags.FlagValues(), launch.__doc__)


def captions(remote: Remote) -> str:
  """Returns a file of captions in the place of one of Multi30k."""
  people = ('a man', 'a woman', 'two dogs', 'a child') * 10
  of = 'rennt' if '.de' in remote.name else 'runs'
  return ''.join(f'{who} {of} {n % 7}\n' for n, who in enumerate(people))


def trials(workdir: str | Path) -> list[dict[str, Any]]:
  """Returns the records of a working directory."""
  return read_lines(Path(workdir) / 'trials.jsonl')
