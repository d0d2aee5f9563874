"""Tasks that read rows of long arrays, on the device or on the host.

If the data do not fit on a device, the host reads the rows of some batches and
passes these in place of the data; everything else happens on the device in both
cases.
"""

import abc
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from train.tasks.base import Arrays, Batch, Draw, Task, example_ids

Ids = Any  # a jax.Array, or an np.ndarray if the data are numpy arrays

HOST_BLOCK = 16  # steps whose rows the host puts on a device at a time
ROWS = 'rows'  # name under which the host passes the rows of batches


class LongArrayTask(Task, abc.ABC):
  """A task whose batches are made from rows that device or host can read.

  Attributes:
    long: names of the arrays that may stay on the host.
  """

  long: ClassVar[frozenset[str]]

  @abc.abstractmethod
  def rows(
    self, arrays: Arrays, key: jax.Array, ids_B: Ids, seq_len: int
  ) -> Any:
    """Reads the rows of training examples; numpy arrays give numpy arrays.

    Only these rows of a memory-mapped array are read.
    """

  @abc.abstractmethod
  def evaluation_rows(self, arrays: Arrays, ids_B: Ids, seq_len: int) -> Any:
    """Reads the rows of validation examples; numpy arrays give numpy arrays."""

  @abc.abstractmethod
  def make_batch(
    self,
    rows: Any,
    arrays: Arrays,
    key: jax.Array | None,
    ids_B: jax.Array,
  ) -> Batch:
    """Makes a batch from its rows; jittable.

    Args:
      rows: the rows of the batch.
      arrays: the arrays that are not long.
      key: random key of the training data; None for validation.
      ids_B: numbers of the examples.
    """

  def batch(self, arrays: Arrays, draw: Draw, bucket: int = 0) -> Batch:
    """Returns the examples of a step, each drawn from (key, its number)."""
    del bucket
    key, ids_B = draw.key, example_ids(draw.step, draw.batch_size)
    rows = (
      arrays[ROWS]
      if ROWS in arrays
      else self.rows(arrays, key, ids_B, draw.seq_len)
    )
    return self.make_batch(rows, arrays, key, ids_B)

  def evaluation_batch(
    self, arrays: Arrays, ids_B: jax.Array, seq_len: int
  ) -> Batch:
    """Returns the validation examples with these numbers."""
    rows = (
      arrays[ROWS]
      if ROWS in arrays
      else self.evaluation_rows(arrays, ids_B, seq_len)
    )
    return self.make_batch(rows, arrays, None, ids_B)

  def beside(
    self, arrays: Mapping[str, np.ndarray], rows: Any
  ) -> dict[str, Any]:
    """Returns the arrays for a device after the host has read the rows."""
    short = {k: v for k, v in arrays.items() if k not in self.long}
    return {**short, ROWS: rows}


def nth_batch(arrays: Arrays, n: Any) -> Arrays:
  """Returns the arrays for the n-th of the batches whose rows the host read."""
  if ROWS not in arrays:
    return arrays
  return {**arrays, ROWS: jax.tree.map(lambda x: x[n], arrays[ROWS])}
