"""Trials that must learn something, and what they must reach.

A trial's bits hang on the processor: another instruction set is another order
of additions, and after some hundred steps another trial.  So no bound here is
what one seed came to on one machine: each lies at least five standard
deviations from the mean over ten seeds, up to each of three instruction sets,
as `python -m tests.lessons` measures and says.  Where seeds differ that much,
the lesson is made longer or easier, and the bound is not moved.
"""

import argparse
import dataclasses
import functools
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import numpy as np

from train.config.config import Config
from train.devices.parallel import SharedLayout, to_host
from train.flags.schema import override
from train.programs.program import MAX_CHUNK_STEPS, get_program
from train.programs.signature import signature
from train.programs.state import init_state
from train.tasks.base import Data

SETS = ('SSE4_2', 'AVX2', 'AVX512')
SEEDS = 10
DEVIATIONS = 5.0

TINY = {
  'seq_len': '24',
  'batch_size': '16',
  'd_model': '32',
  'num_heads': '2',
  'eval_examples': '200',
  'learning_rate': '5e-3',
  'warmup_steps': '20',
}

PAIRS = [
  (f'{"go " * n}{n}', f'geh {"geh " * (n % 7)}{n}') for n in range(1, 31)
]


class Lesson(NamedTuple):
  """A trial, and the figure by which it has learned: it must be below a bound.

  `bound` is the most that `figure` may be; `make` writes the data of the trial
  into a folder.
  """

  make: Callable[[pathlib.Path], Config]
  figure: str
  bound: float


def mlm(folder: pathlib.Path) -> Config:
  """Returns an encoder that is asked for hidden letters of the alphabet."""
  path = folder / 'alphabet.txt'
  path.write_text('abcdefghij' * 600)
  flags = {'task': 'mlm', 'model': 'encoder', 'task.path': str(path)}
  return override(Config(), TINY | flags)


def most_frequent(flags: Mapping[str, str]) -> Config:
  """Returns a classifier that is asked for the most frequent symbol."""
  own = {'task': 'most_frequent', 'model': 'classifier'}
  return override(Config(), TINY | own | dict(flags))


def _hidden(folder: pathlib.Path, mask: str) -> Config:
  """Returns `mlm`, long enough to learn what is hidden."""
  flags = {'steps': '400', 'eval_every': '400', 'position': 'rope'}
  return override(mlm(folder), flags | {'mask': mask})


def _counted(folder: pathlib.Path, pooling: str) -> Config:
  del folder
  flags = {'task.symbols': '3', 'seq_len': '9', 'model.pooling': pooling}
  return most_frequent({'steps': '400', 'eval_every': '400'} | flags)


def _translated(folder: pathlib.Path) -> Config:
  """Returns a translation of `go` into `geh`, and of a number."""
  table = {'task.data': 'tsv'}
  # Beside rows that are trained on a new one, too long to count.
  new = f'{PAIRS[-1][0]} 30', PAIRS[-1][1]
  for part, own in (('train', PAIRS), ('validation', [*PAIRS[:9], new])):
    path = folder / f'{part}.tsv'
    path.write_text(''.join(f'{a}\t{b}\n' for a, b in own))
    table[f'task.data.{part}'] = str(path)
  flags = {
    'task': 'translation',
    'model': 'encoder_decoder',
    'task.buckets': '2',
    'task.judged': '9',
    'num_heads': '2',
    'steps': '600',
    'eval_every': '600',
    'seq_len': '12',
    'batch_size': '8',
    'learning_rate': '1e-2',
    'd_model': '32',
  }
  return override(Config(), flags | table)


# A guess costs log 10 = 2.30 nats, log 3 = 1.10, and log 36 = 3.58.
LESSONS = {
  'mlm': Lesson(functools.partial(_hidden, mask='auto'), 'val_loss', 1.0),
  'causal mlm': Lesson(
    functools.partial(_hidden, mask='causal'), 'val_loss', 1.2
  ),
  'cls': Lesson(functools.partial(_counted, pooling='cls'), 'val_loss', 0.1),
  'mean': Lesson(functools.partial(_counted, pooling='mean'), 'val_loss', 0.1),
  # Of 51 tokens: at less than log(2) / 51 each is said, so BLEU is 100.
  'translation': Lesson(_translated, 'val_loss', 0.01),
}


def course(config: Config, data: Data) -> dict[str, float]:
  """Trains a trial without its loop; returns its figures."""
  device = SharedLayout((jax.local_devices()[0],))
  sig, values = signature(config, data, device)
  state = device.place(to_host(init_state(config, sig.dims)))
  placed = device.place(values), device.place(dict(data.arrays))
  for stop in range(0, config.steps + MAX_CHUNK_STEPS, MAX_CHUNK_STEPS):
    until = np.int32(min(stop, config.steps))
    state, _ = get_program(sig).chunk(state, *placed, until)
  assert int(to_host(state.diverged)) == -1
  sums = to_host(get_program(sig).evaluate(state.params, *placed))
  judged = config.task.final_metrics(
    config.architecture, sig.dims, state.params, data
  )
  return {
    'val_loss': float(sums.loss / sums.count),
    'val_accuracy': float(sums.correct / sums.count),
    **judged.figures,
  }


def measured(name: str) -> list[dict[str, float]]:
  """Returns the figures of a lesson, for each of ten seeds."""
  with tempfile.TemporaryDirectory() as folder:
    config = LESSONS[name].make(pathlib.Path(folder))
    data = config.task.load()
    return [
      course(dataclasses.replace(config, seed=seed), data)
      for seed in range(SEEDS)
    ]


def main() -> int:
  """Prints how far each bound lies from what is measured; 1 if one is near."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('names', nargs='*', help='of lessons; all if none')
  parser.add_argument('--json', action='store_true', help='in this process')
  given = parser.parse_args()
  names = given.names or [*LESSONS]
  if given.json:
    print(json.dumps({name: measured(name) for name in names}))
    return 0
  near = False
  print('lesson          set     figure      mean      sd   worst  bound  sds')
  for isa in SETS:
    flags = f'{os.environ.get("XLA_FLAGS", "")} --xla_cpu_max_isa={isa}'
    out = subprocess.run(
      [sys.executable, '-m', 'tests.lessons', '--json', *names],
      env={**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'},
      stdout=subprocess.PIPE,
      check=True,
    )
    for name, seeds in json.loads(out.stdout).items():
      lesson = LESSONS[name]
      figures = [figures[lesson.figure] for figures in seeds]
      mean, sd = float(np.mean(figures)), float(np.std(figures, ddof=1))
      away = (lesson.bound - mean) / sd if sd else float('inf')
      near |= away < DEVIATIONS
      print(
        f'{name:15} {isa:7} {lesson.figure:9} {mean:6.4f} {sd:7.4f} '
        f'{max(figures):7.4f} {lesson.bound:6} {away:4.0f}',
        flush=True,
      )
  return int(near)


if __name__ == '__main__':
  sys.exit(main())
