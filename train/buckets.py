"""Which rows of a table a step has: epochs, and buckets of similar length.

An epoch visits every row once.  Rows of similar length share a batch: the k-th
bucket, from 1 on, holds k times --batch_size rows of at most --seq_len / k
tokens, so that all batches cost the same.  Which rows a step has is a function
of (seed, step) alone: each epoch puts its batches, and the rows of each bucket,
in an order that is drawn anew from both.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LAST = np.uint32(2**32 - 1)


class Shape(NamedTuple):
  """Rows of a batch, and tokens of a row."""

  rows: int
  length: int


class Turn(NamedTuple):
  """Which batch a step has: the epoch, its bucket, its number in the bucket."""

  epoch: jax.Array
  bucket: jax.Array
  row: jax.Array


def _bounds(
  lengths_X: jax.Array, shapes: Sequence[Shape]
) -> tuple[jax.Array, jax.Array]:
  """Returns the first row of each bucket, and the one behind its last."""
  longest = jnp.array([shape.length for shape in shapes])
  last = jnp.searchsorted(lengths_X, longest, side='right')
  return jnp.append(last[1:], 0), last


def turn(
  lengths_X: jax.Array,
  key: jax.Array,
  step: jax.Array,
  shapes: Sequence[Shape],
) -> Turn:
  """Returns which batch a step has."""
  first, last = _bounds(lengths_X, shapes)
  rows = jnp.array([shape.rows for shape in shapes])
  counts = -(-(last - first) // rows)
  ends = jnp.cumsum(counts)
  epoch, number = step // ends[-1], step % ends[-1]
  # The number of batches depends on the data; its bound on their size alone.
  bound = sum(-(-lengths_X.shape[0] // shape.rows) for shape in shapes)
  own = jax.random.fold_in(jax.random.fold_in(key, epoch), len(shapes))
  chosen = _shuffled(own, jnp.arange(bound) < ends[-1])[number]
  bucket = jnp.searchsorted(ends, chosen, side='right')
  return Turn(epoch, bucket, chosen - (ends - counts)[bucket])


def _shuffled(key: jax.Array, inside_X: jax.Array) -> jax.Array:
  """Returns the indices that are inside in random order, then the others."""
  bits_X = jax.random.bits(key, inside_X.shape) >> 1
  return jnp.argsort(jnp.where(inside_X, bits_X, LAST))


def rows(
  lengths_X: jax.Array,
  key: jax.Array,
  place: Turn,
  shapes: Sequence[Shape],
  bucket: int,
) -> tuple[jax.Array, jax.Array]:
  """Returns rows_B of a batch of this bucket, and which of them are real.

  The last batch of a bucket in an epoch is filled up with rows that are not.

  Args:
    lengths_X: of all rows, in ascending order.
    key: of the data.
    place: of the step.
    shapes: of all buckets.
    bucket: of the step.
  """
  size = shapes[bucket].rows
  first, last = _bounds(lengths_X, shapes)
  index_X = jnp.arange(lengths_X.shape[0])
  inside_X = (index_X >= first[bucket]) & (index_X < last[bucket])
  own = jax.random.fold_in(jax.random.fold_in(key, place.epoch), bucket)
  order_X = jnp.pad(_shuffled(own, inside_X), (0, size))
  begin = place.row * size
  rows_B = jax.lax.dynamic_slice_in_dim(order_X, begin, size)
  return rows_B, begin + jnp.arange(size) < last[bucket] - first[bucket]
