"""The time and memory of a step along one axis, by kind of attention."""

from collections.abc import Iterator, Mapping
from typing import Any

import jax

from experiments.bench.inside.steps import Steps, best_seconds
from model.backends.base import BackendBase
from model.core.field import variants

SECONDS = 1.0  # least time spent on a size
AXES = {'T': 'seq_len', 'width': 'd_model'}
CALL = 2  # steps of one call


def measure(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
  """Yields the seconds of a step, and its memory, at each size."""
  for attention, flags in kinds().items():
    for size in given['sizes']:
      grown = {**given['flags'], **flags}
      lanes = size if given['axis'] == 'lanes' else 1
      if given['axis'] in AXES:
        grown[AXES[given['axis']]] = str(size)
      steps = Steps(grown, given['vocabulary'], lanes)
      steps.run(CALL)
      found = best_seconds(lambda own=steps: own.run(CALL), SECONDS)
      yield {
        'attention': attention,
        'size': size,
        'seconds': min(found) / CALL,
        'peak_bytes': steps.memory.total,
        'compile_seconds': steps.compile_seconds,
      }
      jax.clear_caches()


def kinds() -> dict[str, dict[str, str]]:
  """Returns the flags of each kind of attention: two quadratic, one linear."""
  linear = 'recurrent' if 'recurrent' in variants(BackendBase) else 'chunked'
  return {
    'softmax, reference': {'backend': 'reference'},
    'softmax, chunked': {'backend': 'chunked'},
    f'elu, {linear}': {'normalizer': 'elu', 'backend': linear},
  }
