"""Runs command lines in this process, and reads what they leave."""

import math
from pathlib import Path
from typing import Any

import jax
from absl import flags

import launch
from experiments.cli import main as cli
from experiments.planning.inputs import PlannedTrial
from train.data.fetch import RemoteFile
from train.files.durable import read_intact_lines
from train.programs.state import init_state


def run(*argv: str) -> int:
  """Returns the exit code of `python launch.py ARGV`, run in this process."""
  assert launch.__doc__
  return cli.main(['launch.py', *argv], flags.FlagValues(), launch.__doc__)


def captions(remote: RemoteFile) -> str:
  """Returns a file of captions in the place of one of Multi30k."""
  people = ('a man', 'a woman', 'two dogs', 'a child') * 10
  of = 'rennt' if '.de' in remote.name else 'runs'
  # No caption that is judged is one that is trained on.
  first = 0 if 'train' in remote.name else 100
  return ''.join(
    f'{who} {of} {first + n % 7}\n' for n, who in enumerate(people)
  )


def trials(workdir: str | Path) -> list[dict[str, Any]]:
  """Returns the records of a working directory."""
  return read_intact_lines(Path(workdir) / 'trials.jsonl')


def initial_size(planned: PlannedTrial) -> int:
  """Returns how many numbers a trial begins with."""
  config, data = planned.trial.config, planned.trial.data
  state = jax.eval_shape(
    lambda: init_state(config, config.sizes(data.vocabulary))
  )
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(state.params))
