"""What the input pipeline gives, against what the step consumes."""

import functools
import statistics
from typing import Any

from experiments.bench.bench import Bench, made_characters
from experiments.bench.processes import Failure
from experiments.bench.report import (
  TOKENS,
  WHAT,
  Column,
  digits,
  percent,
  times,
)
from experiments.bench.step import alternate

MOST_ROUNDS = 3
COLUMNS = (
  WHAT,
  Column('ms', 'ms a step', digits),
  TOKENS,
  Column('times_step', 'of what the step consumes', times),
  Column('share', 'share of a step', percent),
)


def measure(bench: Bench) -> None:
  """Measures reading a long text from the disk, and the step that it feeds."""
  report, sizes = bench.report, bench.asked.sizes
  shape = sizes.shapes[0]
  section = report.begin('data', f'Streaming from disk: {shape.name}', COLUMNS)
  path = bench.folder / 'long.txt'
  path.write_text(made_characters(sizes.text_bytes))
  flags = {**shape.model_flags, 'task.path': str(path)}
  flags |= {'steps': str(shape.steps)}

  def step(feed: str) -> float:
    more = {'experiment': 'train', 'eval_every': flags['steps']}
    more |= {'eval_examples': '1', 'feed': feed, 'lanes': 'shared:1'}
    done = bench.train({**flags, **more})
    return 1e3 * done.clock('train_seconds') / shape.steps

  def left_out(name: str, why: Failure) -> None:
    report.note(section, f'step fed by the {name}: {why}')

  try:
    lines = bench.inside('reading', {'flags': flags}).checked().lines()
  except Failure as e:
    report.note(section, str(e))
    lines = []
  feeds = {feed: functools.partial(step, feed) for feed in ('device', 'host')}
  rounds = min(MOST_ROUNDS, bench.asked.rounds)
  found = alternate(feeds, rounds, left_out)
  ms = {feed: statistics.median(own) for feed, own in found.items()}
  tokens = shape.batch * shape.length
  base = ms.get('device')
  for line in lines:
    report.add(section, reading_row(line, base, tokens))
  for feed, own in ms.items():
    row = {'what': f'step, data on the {feed}', 'ms': own}
    row |= {'tokens_per_second': 1e3 * tokens / own}
    report.add(section, {**row, 'rounds_ms': found[feed]})
  report.show(section)


def reading_row(
  line: dict[str, Any], step_ms: float | None, tokens: int
) -> dict[str, Any]:
  """Returns the row of one way to read, against the step if it ran."""
  rate = line['tokens_per_second']
  row = {**line, 'ms': 1e3 * tokens / rate}
  if step_ms is not None and line['in_steps']:
    consumed = 1e3 * tokens / step_ms
    row |= {'times_step': rate / consumed, 'share': consumed / rate}
  return row
