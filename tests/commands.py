"""Runs command lines in this process, and reads what they leave."""

import json
from pathlib import Path
from typing import Any

from absl import flags

import launch
from experiments import cli


def run(*argv: str) -> int:
  """Returns the exit code of `python launch.py ARGV`, run in this process."""
  assert launch.__doc__
  return cli.main(['launch.py', *argv], flags.FlagValues(), launch.__doc__)


def trials(workdir: str | Path) -> list[dict[str, Any]]:
  """Returns the records of a working directory."""
  lines = (Path(workdir) / 'trials.jsonl').read_text().splitlines()
  return [json.loads(line) for line in lines]
