"""Blocks that are read while a device works: by a thread, or by Grain."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from model.field import FieldError

HINT = 'pip install -r requirements-grain.txt'
AHEAD = 2  # blocks that Grain holds

Block = dict[str, Any]


class Feed(Protocol):
  """Blocks by their number; quick where the one before was asked for last."""

  def block(self, number: int) -> Block:
    """Returns a block."""
    ...

  def close(self) -> None:
    """Ends the reading."""
    ...


class Thread:
  """Reads the next block in a thread."""

  def __init__(self, read: Callable[[int], Block], last: int):
    self._source, self._last = read, last
    self._pool = ThreadPoolExecutor(1, 'feed')
    self._read: dict[int, Future[Block]] = {}

  def block(self, number: int) -> Block:
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


class Grain:
  """Lets Grain read ahead, with threads of its own (google/grain)."""

  def __init__(self, read: Callable[[int], Block], last: int):
    self._source, self._last = read, last
    self._blocks: Iterator[Block] = iter(())
    self._held: tuple[int, Block] = (-1, {})
    self._at = -1  # number of the next block of the iterator

  def block(self, number: int) -> Block:
    """Returns a block."""
    if number == self._held[0]:
      return self._held[1]
    if number != self._at:
      self._blocks = self._from(number)
    self._held = number, next(self._blocks)
    self._at = number + 1
    return self._held[1]

  def _from(self, number: int) -> Iterator[Block]:
    import grain  # pyright: ignore[reportMissingImports]  # optional

    blocks = grain.MapDataset.range(number, self._last + 1).map(self._source)
    ahead = grain.ReadOptions(num_threads=AHEAD, prefetch_buffer_size=AHEAD)
    return iter(blocks.to_iter_dataset(ahead))

  def close(self) -> None:
    """Ends the reading."""
    self._blocks = iter(())


def check_grain() -> None:
  """Raises a FieldError where Grain is not installed."""
  try:
    import grain  # noqa: F401  # pyright: ignore[reportMissingImports]
  except ImportError as e:
    raise FieldError('feed', 'grain', f'needs grain: {HINT}') from e
