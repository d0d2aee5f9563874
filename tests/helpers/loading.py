"""Runs to load from: their text, their flags, and their records."""

import pathlib
import signal
from collections.abc import Mapping
from typing import Any, NamedTuple

from absl import flags

from experiments.cli import main as cli
from train.files.durable import read_intact_lines

# The validation part, the last tenth, is unlike the rest: the better the one is
# learned the worse the other is guessed, so that the best checkpoint is not the
# last.
TEXT = 'abcabcabd' * 40 + 'dcbadcba' * 5
OTHER = 'abdc' * 100

SIZES = {
  'd_model': '16',
  'num_heads': '2',
  'seq_len': '16',
  'batch_size': '4',
  'steps': '20',
  'eval_every': '5',
  'warmup_steps': '2',
  'learning_rate': '0.02',
}


class Ran(NamedTuple):
  """A working directory, and its records by (row, seed)."""

  workdir: pathlib.Path
  text: pathlib.Path
  records: Mapping[tuple[str, int], Mapping[str, Any]]


def launch(workdir: pathlib.Path, *arguments: str) -> int:
  """Runs a command line in this process and returns its exit code."""
  handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
  try:
    argv = ['launch.py', f'--workdir={workdir}', *arguments]
    return cli.main(argv, flags.FlagValues(), '')
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)


def flags_of(text: pathlib.Path, more: Mapping[str, str]) -> list[str]:
  given = {'task.path': str(text)} | SIZES | dict(more)
  return [f'--{name}={value}' for name, value in given.items()]


def records_of(
  workdir: pathlib.Path,
) -> dict[tuple[str, int], Mapping[str, Any]]:
  lines = read_intact_lines(workdir / 'trials.jsonl')
  return {(line['row'], line['seed']): line for line in lines}


ROPE = 'position=rope'
