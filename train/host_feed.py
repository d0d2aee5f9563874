"""Feeding from the host, for data too large for a device.

The rows (examples) of a step are a function of (seed, step) alone.  So there is
no reader state to save, and several hosts together read the same batch as one
would.  The host only reads rows; the compiled program does the rest, and its
results are equal bit for bit to those with the data on the device.
"""

import functools
from typing import Any, Literal

import jax
import numpy as np

from model.core.field import FieldError
from model.core.parameter import key_of
from train.config.config import Config
from train.devices.prefetch import (
  BlockReader,
  GrainReader,
  ThreadReader,
  check_grain,
)
from train.tasks.base import Data, example_ids, spaced_examples
from train.tasks.long_arrays import HOST_BLOCK, LongArrayTask

Feeding = Literal['device', 'host', 'grain']

DEFAULT_DATA_LIMIT = (
  2**30
)  # most bytes of data on a device whose memory size is unknown
MEMORY_PARTS = 4  # on others the data may take 1 / MEMORY_PARTS of the memory


def is_host_fed(
  config: Config, data: Data, feed: Feeding | None, device: Any
) -> bool:
  """Returns whether the host reads the rows of each step of a trial."""
  if feed is not None or not isinstance(config.task, LongArrayTask):
    return feed not in (None, 'device')
  size = sum(x.nbytes for x in data.arrays.values())
  return size > _room(device) or not _countable(data)


def _room(device: Any) -> int:
  """Returns how many bytes of data may lie on a device."""
  stats = device.memory_stats() or {}
  return (
    stats['bytes_limit'] // MEMORY_PARTS
    if 'bytes_limit' in stats
    else DEFAULT_DATA_LIMIT
  )


def _countable(data: Data) -> bool:
  """Returns whether 32-bit indices, as devices use, reach all of the data."""
  return all(x.size < 2**31 for x in data.arrays.values())


def check_feed(
  config: Config, data: Data, feed: Feeding | None, device: Any
) -> None:
  """Raises a FieldError if the data cannot be fed as --feed says."""
  task = config.task
  if feed == 'device' and not _countable(data):
    raise FieldError(
      'feed', feed, 'cannot index more than 2^31 tokens: drop it'
    )
  if not is_host_fed(config, data, feed, device):
    return
  if feed == 'grain':
    check_grain()
  if not isinstance(task, LongArrayTask):
    raise FieldError(
      'feed', feed, f'the host reads no rows for --task={task.tag}: drop it'
    )
  first = task.evaluation_rows(data.arrays, np.zeros(1, int), config.seq_len)
  row_bytes = sum(x.nbytes for x in jax.tree.leaves(first))
  count, most = config.num_evaluated(data.arrays), _room(device) // row_bytes
  if count > most:
    raise FieldError(
      'eval_examples',
      config.eval_examples,
      f'{count:,} windows to evaluate on do not fit the device: try '
      f'--eval_examples={most}',
    )


def read_block(
  config: Config, data: Data, number: int, host: int = 0, hosts: int = 1
) -> dict[str, Any]:
  """Returns a block: the rows of HOST_BLOCK steps that a device needs.

  Args:
    config: of the trial.
    data: of the trial.
    number: of the block; block n has the HOST_BLOCK steps from n HOST_BLOCK on.
    host: index of the host; each reads its own share of every batch.
    hosts: number of hosts; it must divide --batch_size.
  """
  task = config.task
  assert isinstance(task, LongArrayTask)
  steps_S1 = (
    np.arange(HOST_BLOCK, dtype=np.int32)[:, None] + number * HOST_BLOCK
  )
  ids_SB = np.split(example_ids(steps_S1, config.batch_size), hosts, axis=1)[
    host
  ]
  with jax.default_device(_host_device()):
    key = key_of('data', jax.random.key(config.seed))
    rows = task.rows(data.arrays, key, ids_SB.ravel(), config.seq_len)
  return task.beside(data.arrays, _unflatten(ids_SB, rows))


def _host_device() -> Any:
  """Returns the device that draws offsets: the CPU, if JAX may use it."""
  try:
    return jax.local_devices(backend='cpu')[0]
  except RuntimeError:
    return jax.local_devices()[0]


def validation_batches(config: Config, data: Data) -> dict[str, Any]:
  """Returns the validation batches that a device needs, along a first axis."""
  available = config.task.evaluation_size(data.arrays, config.seq_len)
  size, wanted = config.batch_size, config.num_evaluated(data.arrays)
  return validation_rows(
    config, data, spaced_examples(available, wanted, size).reshape(-1, size)
  )


def validation_rows(
  config: Config, data: Data, ids_NB: np.ndarray
) -> dict[str, Any]:
  """Returns the rows that a device needs for these validation examples."""
  task = config.task
  assert isinstance(task, LongArrayTask)
  rows = task.evaluation_rows(data.arrays, ids_NB.ravel(), config.seq_len)
  return task.beside(data.arrays, _unflatten(ids_NB, rows))


def _unflatten(ids: np.ndarray, rows: Any) -> Any:
  """Returns rows with their first axis reshaped to the axes of `ids`."""
  return jax.tree.map(lambda x: x.reshape(*ids.shape, *x.shape[1:]), rows)


def open_feed(config: Config, data: Data, feed: Feeding | None) -> BlockReader:
  """Returns a reader of the blocks of a trial, which reads ahead."""
  read = functools.partial(read_block, config, data)
  reader = GrainReader if feed == 'grain' else ThreadReader
  return reader(read, max(0, config.steps - 1) // HOST_BLOCK)
