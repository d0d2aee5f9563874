"""How fast the rows of steps are read from a long text on the disk."""

import os
import pathlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from train.config.config import Config
from train.files.durable import cache_folder
from train.flags.schema import override
from train.host_feed import read_block
from train.tasks.long_arrays import HOST_BLOCK

BLOCKS = 24


def measure(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
  """Yields tokens per second: of tokenizing, from disk, and from memory."""
  config = override(Config(), given['flags'])
  size = pathlib.Path(given['flags']['task.path']).stat().st_size
  begun = time.perf_counter()
  data = config.task.load()
  seconds = time.perf_counter() - begun
  yield {
    'what': 'tokenizing the text, once',
    'tokens_per_second': size / seconds,
    'in_steps': False,
  }
  read_block(config, data, BLOCKS)  # compiles what draws the offsets
  tokens = HOST_BLOCK * config.batch_size * config.seq_len
  for what in ('rows of steps, from disk', 'the same rows, from memory'):
    if what.endswith('disk'):
      drop_from_memory(cache_folder() / 'tokens')
    begun = time.perf_counter()
    for number in range(BLOCKS):
      read_block(config, data, number)
    seconds = time.perf_counter() - begun
    rate = BLOCKS * tokens / seconds
    yield {'what': what, 'tokens_per_second': rate, 'in_steps': True}


def drop_from_memory(folder: pathlib.Path) -> None:
  """Tells the kernel to forget what it holds of the files below a folder."""
  if not hasattr(os, 'posix_fadvise'):
    return
  for path in folder.rglob('*.bin'):
    with path.open('rb') as f:
      os.fsync(f.fileno())
      os.posix_fadvise(f.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
