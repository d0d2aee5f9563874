"""Readers that prefetch blocks of data: with a thread, or with Grain."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from model.core.field import FieldError

GRAIN_HINT = 'pip install -r requirements-grain.txt'
PREFETCH_BLOCKS = 2  # blocks that Grain prefetches

RowBlock = dict[str, Any]


class BlockReader(Protocol):
  """A reader of numbered blocks, fastest when they are read in order."""

  def block(self, number: int) -> RowBlock:
    """Returns a block."""
    ...

  def close(self) -> None:
    """Stops reading."""
    ...


class ThreadReader:
  """Reads the next block in a thread."""

  def __init__(self, read: Callable[[int], RowBlock], last: int):
    self._source, self._last = read, last
    self._pool = ThreadPoolExecutor(1, 'feed')
    self._read: dict[int, Future[RowBlock]] = {}

  def block(self, number: int) -> RowBlock:
    """Returns a block."""
    wanted = [n for n in (number, number + 1) if n <= self._last]
    for n in wanted:
      if n not in self._read:
        self._read[n] = self._pool.submit(self._source, n)
    self._read = {n: self._read[n] for n in wanted}
    return self._read[number].result()

  def close(self) -> None:
    """Ends the reading."""
    self._pool.shutdown(cancel_futures=True)


class GrainReader:
  """Reads ahead with Grain and its threads (google/grain)."""

  def __init__(self, read: Callable[[int], RowBlock], last: int):
    self._source, self._last = read, last
    self._blocks: Iterator[RowBlock] = iter(())
    self._held: tuple[int, RowBlock] = (-1, {})
    self._at = -1  # number of the next block of the iterator

  def block(self, number: int) -> RowBlock:
    """Returns a block."""
    if number == self._held[0]:
      return self._held[1]
    if number != self._at:
      self._blocks = self._from(number)
    self._held = number, next(self._blocks)
    self._at = number + 1
    return self._held[1]

  def _from(self, number: int) -> Iterator[RowBlock]:
    import grain  # pyright: ignore[reportMissingImports]  # optional

    blocks = grain.MapDataset.range(number, self._last + 1).map(self._source)
    ahead = grain.ReadOptions(
      num_threads=PREFETCH_BLOCKS, prefetch_buffer_size=PREFETCH_BLOCKS
    )
    return iter(blocks.to_iter_dataset(ahead))

  def close(self) -> None:
    """Ends the reading."""
    self._blocks = iter(())


def check_grain() -> None:
  """Raises a FieldError if Grain is not installed."""
  try:
    import grain  # noqa: F401  # pyright: ignore[reportMissingImports]
  except ImportError as e:
    raise FieldError('feed', 'grain', f'needs grain: {GRAIN_HINT}') from e
