"""A table of trials side by side, one after another, and by peers."""

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.bench.bench import Bench, Training
from experiments.bench.processes import Failure
from experiments.bench.report import (
  COMPILE,
  SLOWER,
  WHAT,
  Column,
  Section,
  digits,
)
from experiments.bench.sizes import LaneTable
from experiments.bench.step import ONE_DEVICE, short, theirs

RATES = '1e-3 2e-3 4e-3'  # and that of the base
CHOSEN = 'lanes as chosen'
AGAIN = 'lanes as chosen, again'
ALONE = 'one after another (--lanes=shared:1)'
COLUMNS = (
  WHAT,
  Column('lanes', 'layout'),
  Column('seconds', 'whole command s', digits),
  COMPILE,
  Column('training_seconds', 'train, evaluate, save s', digits),
  Column('step_seconds', 'in steps s', digits),
  SLOWER,
  Column('repeats', 'same digests'),
)
Row = dict[str, Any]


def measure(bench: Bench) -> None:
  """Measures the table of trials, and shows what it took."""
  own = bench.asked.sizes.lanes
  title = f'{4 * own.seeds} trials of {own.steps:,} steps: {own.shape.name}'
  section = bench.report.begin('lanes', title, COLUMNS)
  digests: dict[str, Any] = {}
  runs: dict[str, Callable[[], Row]] = {
    CHOSEN: functools.partial(ours, bench, own, {}, digests, CHOSEN),
    AGAIN: functools.partial(ours, bench, own, {}, digests, AGAIN),
    ALONE: functools.partial(ours, bench, own, ONE_DEVICE, digests, ALONE),
  }
  # So many runs of a peer that compiles would leave no time for the rest.
  for words in () if bench.asked.gpu else bench.asked.peers:
    runs[short(words)] = functools.partial(peers, bench, own, words)
  for name, run in runs.items():
    add(bench, section, name, run)
  bench.report.show(section)


def add(
  bench: Bench, section: Section, name: str, run: Callable[[], Row]
) -> None:
  """Adds a row, with how many times the time of the first it took."""
  try:
    row = run()
  except Failure as e:
    bench.report.note(section, f'{name}: {e}')
    return
  first = section.rows[0] if section.rows else row
  row['slower'] = row['seconds'] / first['seconds']
  bench.report.add(section, row)


def ours(
  bench: Bench,
  own: LaneTable,
  more: Mapping[str, str],
  digests: dict[str, Any],
  name: str,
) -> Row:
  """Returns the row of the trials, run by one command.

  Args:
    bench: runs the command.
    own: the table.
    more: further flags.
    digests: of the parameters of each trial, by command; this one's are added.
    name: of the command.
  """
  flags = {
    'experiment': 'train',
    **bench.text(own.shape.vocabulary),
    **own.shape.model_flags,
    'seeds': str(own.seeds),
    'sweep': f'learning_rate={RATES}',
    'learning_rate': '3e-3',
    'steps': str(own.steps),
    'eval_every': str(own.steps),
    'eval_examples': '256',
    **more,
  }
  done = bench.train(flags)
  digests[name] = {trial['trial']: trial['digest'] for trial in done.trials}
  return {
    'what': name,
    **figures(done),
    'repeats': repeats(digests[CHOSEN], digests[name])
    if name == AGAIN and CHOSEN in digests
    else None,
  }


def figures(done: Training) -> Row:
  """Returns the seconds of a command by their purpose."""
  compiling = done.clock('compile_seconds')
  return {
    'lanes': done.lanes,
    'seconds': done.finished.seconds,
    'cpu_seconds': done.finished.cpu_seconds,
    'compile_seconds': compiling,
    'training_seconds': done.clock('seconds') - compiling,
    'step_seconds': done.clock('train_seconds'),
    'trials': len(done.trials),
  }


def repeats(first: dict[str, str], second: dict[str, str]) -> str:
  """Returns how many trials ended with the same parameters, to the bit."""
  same = sum(second.get(name) == digest for name, digest in first.items())
  return 'all' if same == len(first) else f'{same} of {len(first)}'


def peers(bench: Bench, own: LaneTable, words: Sequence[str]) -> Row:
  """Returns the row of as many runs of a peer, one after another."""
  begun, count, training = time.perf_counter(), 4 * own.seeds, 0.0
  name = ''
  for _ in range(count):
    timing = theirs(bench, own.shape, words)
    name = timing.name
    training += timing.ms * own.steps / 1e3
  return {
    'what': f'{count} runs of {name}',
    'lanes': None,
    'seconds': time.perf_counter() - begun,
    'step_seconds': training,
    'trials': count,
  }
