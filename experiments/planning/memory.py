"""Checks whether a plan fits the memory of this machine, before it runs.

When memory runs out, XLA aborts the process or the kernel kills it, without a
message of ours.  A plan that must run out is rejected, one that may is warned
of.
"""

import pathlib
import re
import resource
from typing import NamedTuple

import jax

from experiments.messages import advice
from experiments.messages.errors import CommandError
from experiments.planning.cost import cost_on, trial_bytes
from experiments.planning.plan import Plan
from train.config.config import Config
from train.text.vocabulary import Vocabulary

# Address space for code, arenas and stacks of the compiler's threads.
COMPILER = 2**29
GIB = 2**30


class MemoryNeed(NamedTuple):
  """Memory of a row in bytes.

  Attributes:
    row: name of the row.
    state: parameters, gradients and moments: a lower bound.
    about: the same and an estimate of the activations.
  """

  row: str
  state: int
  about: int


class MemoryLimit(NamedTuple):
  """A limit on memory in bytes.

  Attributes:
    total: the whole.
    left: what is free now.
    what: name of the limit: 'RAM' or 'ulimit -v'.
  """

  total: int
  left: int
  what: str


def check(plan: Plan) -> None:
  """Raises CommandError if parameters alone need more memory than there is."""
  need, room = largest(plan), rooms(plan.command.workers)
  for own in room:
    least = own.left if own.what == _ADDRESSES else own.total
    if need.state > least:
      raise CommandError(
        f'row {need.row!r} needs {_gib(need.state)} for parameters, gradients '
        f'and moments alone, and there {_available(least)} ({own.what}): make '
        '--d_model, --num_layers or the vocabulary smaller'
      )


def warning(plan: Plan) -> str | None:
  """Returns a warning if a plan may not fit, else None."""
  need = largest(plan)
  for own in rooms(plan.command.workers):
    if need.about > own.left:
      return (
        f'row {need.row!r} needs about {_gib(need.about)} of memory, and there '
        f'{_available(own.left)} ({own.what}): {advice.MEMORY}'
      )
  return None


def largest(plan: Plan) -> MemoryNeed:
  """Returns the memory of the largest row, with all lanes in use."""
  lanes = plan.choice.layout.lanes if plan.choice else 1
  trials = {p.row: p.trial for p in (*plan.trials, *plan.controls)}
  needs = [
    _row_memory(row, trial.config, trial.data.vocabulary, lanes)
    for row, trial in trials.items()
  ]
  return max(needs, key=lambda need: need.about)


def _row_memory(
  row: str, config: Config, vocabulary: Vocabulary, lanes: int
) -> MemoryNeed:
  """Returns the memory of a row: its state and its stored activations."""
  state = cost_on(config, vocabulary).state_bytes
  return MemoryNeed(row, lanes * state, lanes * trial_bytes(config, vocabulary))


_ADDRESSES = 'ulimit -v'


def rooms(workers: int) -> list[MemoryLimit]:
  """Returns the memory limits of a process on a CPU, as far as Linux tells."""
  if jax.default_backend() != 'cpu':
    return []
  found = []
  total = _read_kib('/proc/meminfo', 'MemTotal')
  left = _read_kib('/proc/meminfo', 'MemAvailable')
  if total is not None and left is not None:
    swap = _read_kib('/proc/meminfo', 'SwapFree') or 0
    found.append(
      MemoryLimit((total + swap) // workers, (left + swap) // workers, 'RAM')
    )
  limit, _ = resource.getrlimit(resource.RLIMIT_AS)
  used = _read_kib('/proc/self/status', 'VmSize')
  if limit != resource.RLIM_INFINITY and used is not None:
    left = max(0, limit - used - COMPILER)
    found.append(MemoryLimit(limit, left, _ADDRESSES))
  return found


def _read_kib(path: str, name: str) -> int | None:
  """Returns an entry in kB of a file of /proc, in bytes, or None."""
  try:
    text = pathlib.Path(path).read_text()
  except OSError:
    return None
  found = re.search(rf'^{name}:\s+(\d+) kB', text, re.MULTILINE)
  return found and int(found[1]) * 1024


def _gib(size: int) -> str:
  return f'{size / GIB:.1f} GiB'


def _available(size: int) -> str:
  return f'are {_gib(size)}' if size else 'is nothing left'
