"""The parts that one measurement of `inside` gives, and their tables."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.bench.bench import Bench
from experiments.bench.processes import Failure
from experiments.bench.report import (
  BEST_MS,
  BEST_SECONDS,
  COMPILE,
  MEDIAN_MS,
  MEDIAN_SECONDS,
  MEMORY,
  SLOWER,
  TOKENS,
  WHAT,
  Column,
  Section,
  digits,
  percent,
  whole,
)
from experiments.bench.step import short

ATTENTION = (
  Column('what', 'backend'),
  BEST_MS,
  MEDIAN_MS,
  TOKENS,
  MEMORY,
  COMPILE,
)
GENERATE = (
  WHAT,
  BEST_SECONDS,
  MEDIAN_SECONDS,
  Column('tokens_per_second', 'new tokens /s', whole),
  SLOWER,
)
PROFILE = (
  Column('what', 'operation'),
  Column('count', 'a step', digits),
  Column('ms', 'ms of all cores', digits),
  Column('share', 'share', percent),
)
MULTI30K = (
  WHAT,
  Column('best_ms', 'ms an update', digits),
  Column('tokens_per_second', 'target tokens /s', whole),
  COMPILE,
  MEMORY,
  Column('published_seconds', '8,000 updates s', digits),
)
PUBLISHED_UPDATES = 8000


def attention(bench: Bench) -> None:
  """Measures attention alone, forward and backward, by each backend."""
  sizes = bench.asked.sizes
  heads, width, tokens = sizes.attention
  title = f'Attention alone: {heads} heads of width {width}, {tokens:,} tokens'
  section = bench.report.begin('attention', title, ATTENTION)
  given = {
    'heads': heads,
    'width': width,
    'tokens': tokens,
    'lengths': sizes.attention_lengths,
    'dtype': 'float32' if bench.on_cpu else 'bfloat16',
  }
  _add_lines(bench, section, 'attention', given)
  bench.report.show(section)


def generate(bench: Bench) -> None:
  """Measures generation from a cache, without one, and by peers."""
  given = {'rounds': min(3, bench.asked.rounds), 'quick': bench.asked.quick}
  title = 'Generation of tokens, greedily'
  section = bench.report.begin('generate', title, GENERATE)
  _add_lines(bench, section, 'generate', given)
  for words in bench.asked.generation_peers:
    try:
      done = bench.peer([*words, f'--rounds={given["rounds"]}'])
      lines = [line for line in done.lines() if 'best_seconds' in line]
      if not lines:
        raise Failure('prints no line of JSON with best_seconds')
      row = {'what': lines[-1].get('peer', short(words)), **lines[-1]}
      first = section.rows[0]['best_seconds'] if section.rows else None
      row['slower'] = first and row['best_seconds'] / first
      bench.report.add(section, row)
    except Failure as e:
      bench.report.note(section, f'{short(words)}: {e}')
  bench.report.show(section)


def profile(bench: Bench) -> None:
  """Names the ten dearest operations of the step at each shape."""
  title = 'The ten dearest operations of a step'
  section = bench.report.begin('profile', title, PROFILE)
  for shape in bench.asked.sizes.shapes:
    given = {
      'of': shape.name,
      'flags': shape.model_flags,
      'vocabulary': shape.vocabulary,
    }
    _add_lines(bench, section, 'profile', given)
  bench.report.show(section)


def _add_lines(
  bench: Bench, section: Section, name: str, given: Mapping[str, Any]
) -> None:
  """Adds the lines of a measurement, also of one that failed half-way."""
  try:
    done = bench.inside(name, given)
    for line in done.lines():
      if 'note' in line:
        bench.report.note(section, line['note'])
      else:
        bench.report.add(section, line)
    done.checked()
  except Failure as e:
    bench.report.note(section, str(e))


def multi30k(bench: Bench) -> None:
  """Measures updates of the published schedule of Multi30k."""
  report, steps = bench.report, bench.asked.sizes.multi30k_steps
  title = f'Multi30k, published schedule: {steps:,} updates'
  section = report.begin('multi30k', title, MULTI30K)
  if 'ABLAX_DATA' not in os.environ:
    report.note(section, 'ABLAX_DATA names no folder with the captions')
    return
  flags = {
    'experiment': 'multi30k',
    'batch_size': '146',
    'steps': str(steps),
    'learning_rate': '5e-3',
    'schedule': 'inverse_sqrt',
    'warmup_steps': '1',
    'dropout_embedding': '0.3',
    'dropout_residual': '0.3',
    'eval_every': str(steps),
    'eval_examples': '1',
    'task.judged': '1',
    'task.data.held': 'test',
    'seeds': '1',
    'controls': 'false',
  }
  if bench.asked.quick:
    flags |= {'batch_size': '4', 'd_model': '16', 'num_layers': '1'}
  try:
    done = bench.train(flags)
    report.add(section, _multi30k_row(done.trials, done.peak_bytes))
  except Failure as e:
    report.note(section, str(e))
  report.show(section)


def _multi30k_row(
  trials: Sequence[Mapping[str, Any]], peak_bytes: int
) -> dict[str, Any]:
  """Returns the row of the trial that ran."""
  (trial,) = trials
  seconds = trial['clock']['train_seconds'] / trial['steps']
  return {
    'what': 'Ablax, layout as chosen',
    'best_ms': 1e3 * seconds,
    'tokens_per_second': trial['tokens'] / trial['steps'] / seconds,
    'compile_seconds': trial['clock']['compile_seconds'],
    'peak_bytes': peak_bytes,
    'published_seconds': PUBLISHED_UPDATES * seconds,
  }
