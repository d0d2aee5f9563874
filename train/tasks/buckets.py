"""Batches of rows of a table: epochs, and buckets of similar length.

An epoch visits every row once.  Rows of similar length share a batch: a batch
of the k-th bucket, k = 1, 2, ..., has k * --batch_size rows of at most
--seq_len / k tokens, so that all batches cost the same.  The rows of a step are
a function of (seed, step) alone: the order of the batches of an epoch, and of
the rows within each bucket, is drawn from the seed and the number of the epoch.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LAST = np.uint32(2**32 - 1)


class BatchShape(NamedTuple):
  """The shape of a batch: rows, and tokens per row."""

  rows: int
  length: int


class BucketBatch(NamedTuple):
  """The batch of a step: epoch, bucket, and number of the batch within it."""

  epoch: jax.Array
  bucket: jax.Array
  row: jax.Array


def _bounds(
  lengths_X: jax.Array, shapes: Sequence[BatchShape]
) -> tuple[jax.Array, jax.Array]:
  """Returns the first row of each bucket, and the row after its last."""
  longest = jnp.array([shape.length for shape in shapes])
  last = jnp.searchsorted(lengths_X, longest, side='right')
  return jnp.append(last[1:], 0), last


def batch_at(
  lengths_X: jax.Array,
  key: jax.Array,
  step: jax.Array,
  shapes: Sequence[BatchShape],
) -> BucketBatch:
  """Returns the batch of a step.

  Args:
    lengths_X: length of each row, in ascending order.
    key: random key of the data.
    step: the step.
    shapes: shape of the batches of each bucket, the longest first.
  """
  first, last = _bounds(lengths_X, shapes)
  rows = jnp.array([shape.rows for shape in shapes])
  counts = -(-(last - first) // rows)
  ends = jnp.cumsum(counts)
  epoch, number = step // ends[-1], step % ends[-1]
  # The number of batches depends on the lengths; this upper bound does not, so
  # it can be the static size of an array.
  bound = sum(-(-lengths_X.shape[0] // shape.rows) for shape in shapes)
  own = jax.random.fold_in(jax.random.fold_in(key, epoch), len(shapes))
  chosen = _shuffle(own, jnp.arange(bound) < ends[-1])[number]
  bucket = jnp.searchsorted(ends, chosen, side='right')
  return BucketBatch(epoch, bucket, chosen - (ends - counts)[bucket])


def _shuffle(key: jax.Array, inside_X: jax.Array) -> jax.Array:
  """Returns the indices where a mask is true in random order, then the rest."""
  bits_X = jax.random.bits(key, inside_X.shape) >> 1
  return jnp.argsort(jnp.where(inside_X, bits_X, LAST))


def batch_rows(
  lengths_X: jax.Array,
  key: jax.Array,
  place: BucketBatch,
  shapes: Sequence[BatchShape],
  bucket: int,
) -> tuple[jax.Array, jax.Array]:
  """Returns rows_B, the rows of a batch, and a mask of those that count.

  The last batch of a bucket in an epoch is filled up with rows that do not
  count.

  Args:
    lengths_X: length of each row, in ascending order.
    key: random key of the data.
    place: the batch.
    shapes: shape of the batches of each bucket.
    bucket: the bucket of the batch; static.
  """
  size = shapes[bucket].rows
  first, last = _bounds(lengths_X, shapes)
  index_X = jnp.arange(lengths_X.shape[0])
  inside_X = (index_X >= first[bucket]) & (index_X < last[bucket])
  own = jax.random.fold_in(jax.random.fold_in(key, place.epoch), bucket)
  order_X = jnp.pad(_shuffle(own, inside_X), (0, size))
  begin = place.row * size
  rows_B = jax.lax.dynamic_slice_in_dim(order_X, begin, size)
  return rows_B, begin + jnp.arange(size) < last[bucket] - first[bucket]
