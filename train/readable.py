"""Tasks whose examples lie in long arrays, which a device or the host reads.

Where the data do not fit a device, the host reads the rows of some batches, and
they stand in place of the data; all else happens on the device in either case.
"""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from train.task import Arrays, Batch, Draw, Task, examples

Ids = Any  # jax.Array or np.ndarray: where the arrays are numpy's, so is all

BLOCK = 16  # steps whose rows are on a device at a time
ROWS = 'rows'  # name of rows that the host read, a batch of them or several


class Readable(Task, abc.ABC):
  """A task whose batches are made of rows that can be read on either side.

  Attributes:
    long: names of the arrays that need not lie on a device.
  """

  long: ClassVar[frozenset[str]]

  @abc.abstractmethod
  def rows(
    self, arrays: Arrays, key: jax.Array, ids_B: Ids, seq_len: int
  ) -> Any:
    """Returns what training examples hold; of numpy arrays, numpy's.

    Of an array that is mapped into memory, only this is read.
    """

  @abc.abstractmethod
  def evaluation_rows(self, arrays: Arrays, ids_B: Ids, seq_len: int) -> Any:
    """Returns what validation examples hold; of numpy arrays, numpy's."""

  @abc.abstractmethod
  def made(
    self,
    rows: Any,
    arrays: Arrays,
    key: jax.Array | None,
    ids_B: jax.Array,
  ) -> Batch:
    """Returns the batch of some rows; jittable.

    Args:
      rows: of the batch.
      arrays: those that are not long.
      key: of the data; none to evaluate.
      ids_B: of the examples.
    """

  def batch(self, arrays: Arrays, draw: Draw, bucket: int = 0) -> Batch:
    """Returns the examples of a step, drawn for each from (key, its id)."""
    del bucket
    key, ids_B = draw.key, examples(draw.step, draw.batch_size)
    rows = (
      arrays[ROWS]
      if ROWS in arrays
      else self.rows(arrays, key, ids_B, draw.seq_len)
    )
    return self.made(rows, arrays, key, ids_B)

  def evaluation_batch(
    self, arrays: Arrays, ids_B: jax.Array, seq_len: int
  ) -> Batch:
    """Returns the validation examples with these numbers."""
    rows = (
      arrays[ROWS]
      if ROWS in arrays
      else self.evaluation_rows(arrays, ids_B, seq_len)
    )
    return self.made(rows, arrays, None, ids_B)

  def beside(
    self, arrays: Mapping[str, np.ndarray], rows: Any
  ) -> dict[str, Any]:
    """Returns what a device needs where the host has read the rows."""
    short = {k: v for k, v in arrays.items() if k not in self.long}
    return {**short, ROWS: rows}


def at(arrays: Arrays, n: Any) -> Arrays:
  """Returns the arrays, with the n-th of the batches that the host read."""
  if ROWS not in arrays:
    return arrays
  return {**arrays, ROWS: jax.tree.map(lambda x: x[n], arrays[ROWS])}
