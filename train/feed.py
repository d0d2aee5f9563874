"""Rows that the host reads, for data that do not fit a device.

Which rows a step has is a function of (seed, step) alone: there is nothing to
save, and all hosts together have those of one.  The host does no more than read
them; what becomes of them is the same program's work, bit for bit, as where the
data lie on the device.
"""

import functools
from typing import Any, Literal

import jax
import numpy as np

from model.field import FieldError
from model.parameter import key_of
from train.config import Config
from train.prefetch import Feed, Grain, Thread, check_grain
from train.readable import BLOCK, Readable
from train.task import Data, examples, spread

Feeding = Literal['device', 'host', 'grain']

LARGE = 2**30  # bytes of data on a device whose memory has no known size
SHARE = 4  # else the data may take one of so many parts of it


def fed(config: Config, data: Data, feed: Feeding | None, device: Any) -> bool:
  """Returns whether the host reads the rows of a trial."""
  if feed is not None or not isinstance(config.task, Readable):
    return feed not in (None, 'device')
  size = sum(x.nbytes for x in data.arrays.values())
  return size > _room(device) or not _countable(data)


def _room(device: Any) -> int:
  """Returns how many bytes of data may lie on a device."""
  about = device.memory_stats() or {}
  return about['bytes_limit'] // SHARE if 'bytes_limit' in about else LARGE


def _countable(data: Data) -> bool:
  """Returns whether a device, which counts in 32 bits, can index the data."""
  return all(x.size < 2**31 for x in data.arrays.values())


def check(
  config: Config, data: Data, feed: Feeding | None, device: Any
) -> None:
  """Raises a FieldError where rows cannot be read as they shall be."""
  task = config.task
  if feed == 'device' and not _countable(data):
    raise FieldError(
      'feed', feed, 'cannot count 2^31 tokens, of which there are more: drop it'
    )
  if not fed(config, data, feed, device):
    return
  if feed == 'grain':
    check_grain()
  if not isinstance(task, Readable):
    raise FieldError(
      'feed', feed, f'the host reads no rows for --task={task.tag}: drop it'
    )
  first = task.evaluation_rows(data.arrays, np.zeros(1, int), config.seq_len)
  each = sum(x.nbytes for x in jax.tree.leaves(first))
  count, most = config.evaluated(data.arrays), _room(device) // each
  if count > most:
    raise FieldError(
      'eval_examples',
      config.eval_examples,
      f'{count:,} windows to evaluate on do not fit the device: try '
      f'--eval_examples={most}',
    )


def block(
  config: Config, data: Data, number: int, host: int = 0, hosts: int = 1
) -> dict[str, Any]:
  """Returns what a device needs for BLOCK steps in place of the data.

  Args:
    config: of the trial.
    data: its data.
    number: of the block.
    host: whose part of each batch.
    hosts: how many there are, which divide --batch_size.
  """
  task = config.task
  assert isinstance(task, Readable)
  steps_S1 = np.arange(BLOCK, dtype=np.int32)[:, None] + number * BLOCK
  ids_SB = np.split(examples(steps_S1, config.batch_size), hosts, axis=1)[host]
  with jax.default_device(_near()):
    key = key_of('data', jax.random.key(config.seed))
    rows = task.rows(data.arrays, key, ids_SB.ravel(), config.seq_len)
  return task.beside(data.arrays, _like(ids_SB, rows))


def _near() -> Any:
  """Returns where offsets are drawn: the CPU, unless JAX must not use it."""
  try:
    return jax.local_devices(backend='cpu')[0]
  except RuntimeError:
    return jax.local_devices()[0]


def evaluation(config: Config, data: Data) -> dict[str, Any]:
  """Returns what a device needs to evaluate: batches along a first axis."""
  available = config.task.evaluation_size(data.arrays, config.seq_len)
  size, wanted = config.batch_size, config.evaluated(data.arrays)
  return held(config, data, spread(available, wanted, size).reshape(-1, size))


def held(config: Config, data: Data, ids_NB: np.ndarray) -> dict[str, Any]:
  """Returns what a device needs of validation examples in place of the data."""
  task = config.task
  assert isinstance(task, Readable)
  rows = task.evaluation_rows(data.arrays, ids_NB.ravel(), config.seq_len)
  return task.beside(data.arrays, _like(ids_NB, rows))


def _like(ids: np.ndarray, rows: Any) -> Any:
  """Returns rows along the axes of their ids."""
  return jax.tree.map(lambda x: x.reshape(*ids.shape, *x.shape[1:]), rows)


def opened(config: Config, data: Data, feed: Feeding | None) -> Feed:
  """Returns what reads the blocks of a trial, ahead of a device."""
  read = functools.partial(block, config, data)
  how = Grain if feed == 'grain' else Thread
  return how(read, (config.steps - 1) // BLOCK)
