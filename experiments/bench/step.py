"""The training step, through `launch.py`, in turns with its peers."""

import functools
import pathlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

from experiments.bench.bench import Bench
from experiments.bench.processes import Failure
from experiments.bench.report import (
  BEST_MS,
  COMPILE,
  MEDIAN_MS,
  MEMORY,
  TOKENS,
  WHAT,
  Column,
  percent,
  times,
)
from experiments.bench.sizes import Shape

T = TypeVar('T')
CHOSEN, ALONE = 'Ablax, layout as chosen', 'Ablax, one device'
ONE_DEVICE = {'lanes': 'shared:1'}  # flags
# Else the short runs of a bench would not be worth the measuring of layouts.
MEASURED_ONCE = {'lanes': 'measured'}
COLUMNS = (
  WHAT,
  BEST_MS,
  MEDIAN_MS,
  TOKENS,
  Column('utilisation', 'of peak', percent),
  MEMORY,
  COMPILE,
  Column('ablax_speed', 'Ablax / it', times),
  Column('ablax_one_device_speed', 'one device / it', times),
)


class Timing(NamedTuple):
  """One run of a contestant.

  Attributes:
    name: what ran, with its version or layout.
    ms: of a step: the mean of Ablax, the median of a peer.
    peak_bytes: most memory.
    compile_seconds: until the first step could run; None of a peer.
    flops_per_token: of the model; None of a peer.
  """

  name: str
  ms: float
  peak_bytes: int
  compile_seconds: float | None = None
  flops_per_token: float | None = None


def measure(bench: Bench) -> None:
  """Measures each shape, and shows the table."""
  report = bench.report
  section = report.begin('step', 'One training step', COLUMNS)
  for shape in bench.asked.sizes.shapes:

    def left_out(name: str, why: Failure, shape: Shape = shape) -> None:
      report.note(section, f'{shape.name}: {name}: {why}')

    found = alternate(contestants(bench, shape), bench.asked.rounds, left_out)
    for row in rows(shape, found, bench.peak(shape.dtype)):
      report.add(section, row)
  report.show(section)


def alternate(
  runs: Mapping[str, Callable[[], T]],
  rounds: int,
  left_out: Callable[[str, Failure], None],
) -> dict[str, list[T]]:
  """Runs contestants in turns, so that what slows the machine slows all.

  Args:
    runs: of each contestant, by name.
    rounds: how often each runs.
    left_out: is told of one that fails, which runs no more.

  Returns:
    What came of the runs of each that ran at all.
  """
  found: dict[str, list[T]] = {name: [] for name in runs}
  failed: set[str] = set()
  for _ in range(rounds):
    for name, run in runs.items():
      if name in failed:
        continue
      try:
        found[name].append(run())
      except Failure as e:
        failed.add(name)
        left_out(name, e)
  return {name: timings for name, timings in found.items() if timings}


def contestants(bench: Bench, shape: Shape) -> dict[str, Callable[[], Timing]]:
  """Returns the runs of Ablax and of all peers, by name."""
  runs: dict[str, Callable[[], Timing]] = {
    CHOSEN: functools.partial(ours, bench, shape, MEASURED_ONCE),
    ALONE: functools.partial(ours, bench, shape, ONE_DEVICE),
  }
  if not bench.on_cpu:
    del runs[ALONE]  # a card has one device, which is what is chosen
  for words in bench.asked.peers if shape.has_peers else ():
    runs[short(words)] = functools.partial(theirs, bench, shape, words)
  return runs


def ours(bench: Bench, shape: Shape, more: Mapping[str, str]) -> Timing:
  """Returns a run of Ablax: the model, optimiser and clipping of the peers."""
  flags = {
    'experiment': 'train',
    **bench.text(shape.vocabulary),
    **shape.model_flags,
    'decay': 'all',
    'schedule': 'constant',
    'warmup_steps': '0',
    'steps': str(shape.steps),
    'eval_every': str(shape.steps),
    'eval_examples': '1',
    **more,
  }
  done = bench.train(flags)
  (trial,) = done.trials
  return Timing(
    name=done.lanes,
    ms=1e3 * done.clock('train_seconds') / trial['steps'],
    peak_bytes=done.peak_bytes,
    compile_seconds=done.clock('compile_seconds'),
    flops_per_token=trial['flops_per_token'],
  )


def short(words: Sequence[str]) -> str:
  """Returns a command without its folders."""
  return ' '.join(pathlib.PurePath(word).name for word in words)


def theirs(bench: Bench, shape: Shape, words: Sequence[str]) -> Timing:
  """Returns a run of a peer."""
  done = bench.peer([*words, *shape.peer_flags])
  figures = [line for line in done.lines() if 'ms_per_step' in line]
  if not figures:
    raise Failure('prints no line of JSON with ms_per_step')
  name = str(figures[-1].get('peer', short(words)))
  flags = [word for word in words if word.startswith('--')]
  peak = figures[-1].get('peak_bytes', done.peak_bytes)
  return Timing(' '.join([name, *flags]), figures[-1]['ms_per_step'], peak)


def rows(
  shape: Shape, found: Mapping[str, Sequence[Timing]], peak: float
) -> list[dict[str, Any]]:
  """Returns the rows of a shape.

  Args:
    shape: the shape.
    found: the runs of each contestant.
    peak: FLOP/s of a matrix product.
  """
  tokens = shape.batch * shape.length
  flops = [t.flops_per_token for own in found.values() for t in own]
  per_token = next((value for value in flops if value), None)
  made = []
  for name, timings in found.items():
    median = statistics.median(t.ms for t in timings)
    rate = 1e3 * tokens / median
    ours = name in (CHOSEN, ALONE)
    compiled = timings[0].compile_seconds
    made.append(
      {
        'of': shape.name,
        'what': f'{name} ({timings[0].name})' if ours else timings[0].name,
        'best_ms': min(t.ms for t in timings),
        'median_ms': median,
        'tokens_per_second': rate,
        'utilisation': per_token and rate * per_token / peak,
        'peak_bytes': max(t.peak_bytes for t in timings),
        'compile_seconds': compiled,
        'ablax_speed': speed(found.get(CHOSEN), timings),
        'ablax_one_device_speed': speed(found.get(ALONE), timings),
        'rounds_ms': [t.ms for t in timings],
        'shape': shape._asdict(),
      }
    )
  return made


def speed(
  own: Sequence[Timing] | None, other: Sequence[Timing]
) -> float | None:
  """Returns how many times as fast `own` is: the median over the rounds."""
  if not own or own is other:
    return None
  return statistics.median(
    theirs.ms / ours.ms for ours, theirs in zip(own, other, strict=False)
  )
