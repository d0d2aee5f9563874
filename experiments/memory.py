"""Whether a plan fits the memory of this machine, before it runs.

Where memory ends, XLA aborts the process without a word of ours, or the kernel
kills it: what is bound to end so is refused, what may is warned of.
"""

import pathlib
import re
import resource
from typing import NamedTuple

import jax

from experiments import advice
from experiments.cost import cost_on
from experiments.ledger import Refused
from experiments.plan import Plan
from model.backend import LONG, Reference
from train.config import Config
from train.vocabulary import Vocabulary

# Of the address space: code, arenas and stacks of the threads that compile.
COMPILER = 2**29
GIB = 2**30


class Need(NamedTuple):
  """What a row takes, in bytes: for sure, and about."""

  row: str
  state: int
  about: int


class Room(NamedTuple):
  """What there is, in bytes: in all, what of it is left, and what sets it."""

  total: int
  left: int
  what: str


def check(plan: Plan) -> None:
  """Refuses a plan whose parameters alone are larger than what there is."""
  need, room = largest(plan), rooms(plan.command.workers)
  for own in room:
    least = own.left if own.what == _ADDRESSES else own.total
    if need.state > least:
      raise Refused(
        f'row {need.row!r} needs {_gib(need.state)} for parameters, gradients '
        f'and moments alone, and there {_are(least)} ({own.what}): make '
        '--d_model, --num_layers or the vocabulary smaller'
      )


def warning(plan: Plan) -> str | None:
  """Returns a warning where a plan may not fit, else none."""
  need = largest(plan)
  for own in rooms(plan.command.workers):
    if need.about > own.left:
      return (
        f'row {need.row!r} needs about {_gib(need.about)} of memory, and there '
        f'{_are(own.left)} ({own.what}): {advice.MEMORY}'
      )
  return None


def largest(plan: Plan) -> Need:
  """Returns what the largest row takes, beside the others that run with it."""
  lanes = plan.choice.layout.lanes if plan.choice else 1
  trials = {planned.row: planned.trial for planned in plan.trials}
  needs = [
    _need(row, trial.config, trial.data.vocabulary, lanes)
    for row, trial in trials.items()
  ]
  return max(needs, key=lambda need: need.about)


def _need(row: str, config: Config, vocabulary: Vocabulary, lanes: int) -> Need:
  """Returns what a row takes: its state, and activations that are kept.

  Of activations: about 16 of the width for each layer and token, the logits
  and their gradient, and the weights of attentions that are not in chunks.
  """
  dims, arch = config.sizes(vocabulary), config.architecture
  tokens = config.batch_size // config.microbatches * config.seq_len
  layers = 1 if arch.remat else sum(stack.num_layers for stack in arch.stacks)
  whole = isinstance(arch.backend, Reference) and config.seq_len < LONG
  weights = 3 * layers * dims.num_heads * config.seq_len * whole
  each = 16 * layers * dims.d_model + 2 * dims.vocab_size + weights
  state = lanes * cost_on(config, vocabulary).state_bytes
  return Need(row, state, state + lanes * 4 * tokens * each)


_ADDRESSES = 'ulimit -v'


def rooms(workers: int) -> list[Room]:
  """Returns what limits a process: of the CPU, where Linux tells."""
  if jax.default_backend() != 'cpu':
    return []
  found = []
  total = _kib('/proc/meminfo', 'MemTotal')
  left = _kib('/proc/meminfo', 'MemAvailable')
  if total is not None and left is not None:
    swap = _kib('/proc/meminfo', 'SwapFree') or 0
    found.append(
      Room((total + swap) // workers, (left + swap) // workers, 'RAM')
    )
  limit, _ = resource.getrlimit(resource.RLIMIT_AS)
  used = _kib('/proc/self/status', 'VmSize')
  if limit != resource.RLIM_INFINITY and used is not None:
    left = max(0, limit - used - COMPILER)
    found.append(Room(limit, left, _ADDRESSES))
  return found


def _kib(path: str, name: str) -> int | None:
  """Returns a figure of a file of Linux, in bytes, if it is there."""
  try:
    text = pathlib.Path(path).read_text()
  except OSError:
    return None
  found = re.search(rf'^{name}:\s+(\d+) kB', text, re.MULTILINE)
  return found and int(found[1]) * 1024


def _gib(size: int) -> str:
  return f'{size / GIB:.1f} GiB'


def _are(size: int) -> str:
  return f'are {_gib(size)}' if size else 'is nothing left'
