"""Queries, keys and values split into heads, as projections return them."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from model.core.field import FieldError
from model.core.parameter import Dims, PartParams, add_bias


class Heads(NamedTuple):
  """Queries, keys and values by head; those that are not read have H = 0."""

  q_BTNH: jax.Array
  k_BSKH: jax.Array
  v_BSKH: jax.Array


class Widths(NamedTuple):
  """Widths of a head: of its queries and keys, and of its values.

  Attributes:
    query: width of a query, and of a key.
    rotary: number of units of these that may be rotated, which are the last.
    value: width of a value.
  """

  query: int
  rotary: int
  value: int


def shared_head_problems(tag: str, dims: Dims) -> Iterator[FieldError]:
  """Yields an error if there are fewer key heads than query heads."""
  if dims.num_kv_heads != dims.num_heads:
    yield FieldError(
      'num_kv_heads',
      dims.num_kv_heads,
      f'must be none with --projections={tag}, whose queries and keys are one '
      'array',
    )


def empty_heads(x_BTD: jax.Array, num_heads: int) -> jax.Array:
  """Returns queries or keys of width 0, in place of unread ones."""
  return jnp.zeros((*x_BTD.shape[:2], num_heads, 0), x_BTD.dtype)


def merge_heads(params: PartParams, heads_BTNH: jax.Array) -> jax.Array:
  """Merges the heads: concat(heads) W_O."""
  # Not as one axis of N H: heads that start equal would not stay so, as one
  # product adds up some rows of a matrix in another order than others.
  out_BTD = jnp.einsum('BTNH,NHD->BTD', heads_BTNH, params['out'])
  return add_bias(out_BTD, params, 'out_bias')
