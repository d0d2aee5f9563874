"""How long it takes to begin: help, refusals, plans, the first step."""

import functools
import pathlib
import statistics
import sys
from collections.abc import Callable, Sequence

from experiments.bench.bench import LAUNCH, Bench
from experiments.bench.processes import Failure, Finished
from experiments.bench.report import (
  BEST_SECONDS,
  MEDIAN_SECONDS,
  MEMORY,
  WHAT,
  Column,
  digits,
)
from experiments.bench.step import alternate

MOST_ROUNDS = 3  # seconds of a command vary little
COLUMNS = (
  WHAT,
  BEST_SECONDS,
  MEDIAN_SECONDS,
  Column('cpu_seconds', 'CPU s', digits),
  MEMORY,
)
Run = Callable[[], Finished]


def measure(bench: Bench) -> None:
  """Measures what a user waits for, and shows it."""
  report, sizes = bench.report, bench.asked.sizes
  section = report.begin('start', 'What a user waits for', COLUMNS)
  rows = sizes.plan_rows[-2]
  runs: dict[str, Run] = {
    '--help': functools.partial(command, bench, ['--help']),
    '--list': functools.partial(command, bench, ['--list']),
    'a refusal': functools.partial(refusal, bench),
    f'--plan of {rows:,} rows': functools.partial(plan, bench, rows),
    'first step, cold': functools.partial(first_step, bench, None),
    'first step, compiled before': functools.partial(
      first_step, bench, bench.new_path('compiled')
    ),
  }

  def left_out(name: str, why: Failure) -> None:
    report.note(section, f'{name}: {why}')

  rounds = min(MOST_ROUNDS, bench.asked.rounds)
  warm = {name: run for name, run in runs.items() if 'before' in name}
  alternate(warm, 1, left_out)
  for name, found in alternate(runs, rounds, left_out).items():
    seconds = [done.seconds for done in found]
    report.add(
      section,
      {
        'what': name,
        'best_seconds': min(seconds),
        'median_seconds': statistics.median(seconds),
        'cpu_seconds': statistics.median(done.cpu_seconds for done in found),
        'peak_bytes': max(done.peak_bytes for done in found),
        'rounds_seconds': seconds,
      },
    )
  report.show(section)


def command(bench: Bench, words: Sequence[str]) -> Finished:
  """Runs `launch.py` with these flags."""
  return bench.run([sys.executable, str(LAUNCH), *words]).checked()


def refusal(bench: Bench) -> Finished:
  """Runs a command with a bad flag, which must be refused."""
  done = bench.run([sys.executable, str(LAUNCH), '--num_heads=0'])
  if done.code != 2:
    raise Failure(f'exit code {done.code}, not 2')
  return done


def plan(bench: Bench, rows: int) -> Finished:
  """Plans a table of one program."""
  drawn = f'--trials={rows}'
  sweep = '--sweep=learning_rate=log(1e-4,1e-2)'
  words = ['--experiment=train', '--plan', sweep, drawn, '--seeds=1']
  return command(bench, words)


def first_step(bench: Bench, cache: pathlib.Path | None) -> Finished:
  """Runs the default command until its first step.

  Args:
    bench: runs the command, and ends it after the step.
    cache: folder of what is compiled; None takes a new one.
  """
  workdir = bench.new_path('first')
  words = [sys.executable, str(LAUNCH), f'--workdir={workdir}', '--log_every=1']
  words += ['--smoke'] if bench.asked.quick else []

  def has_stepped() -> bool:
    logs = workdir.glob('runs/*/metrics.jsonl')
    return any(path.stat().st_size for path in logs)

  env = {'ABLAX_CACHE': str(cache or bench.new_path('empty'))}
  return bench.run(words, env, has_stepped)
