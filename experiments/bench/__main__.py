"""Measures speed: `python -m experiments.bench`; --help says more."""

import contextlib
import pathlib
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence

from experiments.bench import data, kinds, lanes, scaling, start, step
from experiments.bench.bench import Bench
from experiments.bench.flags import PROGRAM, parse
from experiments.bench.report import Report
from experiments.bench.sizes import GPU_SECONDS
from experiments.messages.errors import CommandError
from experiments.messages.signals import stop_signals
from experiments.messages.streams import warn

PARTS: Mapping[str, Callable[[Bench], None]] = {
  'step': step.measure,
  'lanes': lanes.measure,
  'scaling': scaling.measure,
  'data': data.measure,
  'start': start.measure,
  'attention': kinds.attention,
  'generate': kinds.generate,
  'multi30k': kinds.multi30k,
  'profile': kinds.profile,
}


def main(words: Sequence[str]) -> int:
  """Runs the bench, and returns its exit code."""
  try:
    asked = parse(words)
    with (
      tempfile.TemporaryDirectory(prefix='ablax-bench-') as folder,
      ended_by_signals(),
    ):
      report = Report(asked.json, [*PROGRAM.split(), *map(shlex.quote, words)])
      limit = GPU_SECONDS if asked.gpu else None
      bench = Bench(asked, pathlib.Path(folder), report, limit)
      bench.look()
      for part in asked.parts:
        PARTS[part](bench)
  except CommandError as e:
    warn(f'{PROGRAM}: {e}')
    return 2
  except KeyboardInterrupt:
    warn(f'{PROGRAM}: interrupted; what was measured is kept')
    return 130
  return 0


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
  """Makes signals raise KeyboardInterrupt, so that what was started ends too.

  It is in sessions of its own, which no signal to this process reaches.
  """
  before = {number: signal.getsignal(number) for number in stop_signals()}
  try:
    for number in before:
      signal.signal(number, signal.default_int_handler)
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)


if __name__ == '__main__':
  sys.exit(main(sys.argv[1:]))
