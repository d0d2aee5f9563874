"""Queries, keys and values as heads: what all projections return."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp

from model.field import FieldError
from model.parameter import Dims, Params, add_bias


class Heads(NamedTuple):
  """Queries, keys and values, split into heads; what nobody reads has H = 0."""

  q_BTNH: jax.Array
  k_BSKH: jax.Array
  v_BSKH: jax.Array


class Widths(NamedTuple):
  """Units of a query or key, how many of them are rotated, and of a value.

  Those that are rotated are the last.
  """

  query: int
  rotary: int
  value: int


def one_array(tag: str, dims: Dims) -> Iterator[FieldError]:
  """Yields that key heads cannot be fewer, if they are."""
  if dims.num_kv_heads != dims.num_heads:
    yield FieldError(
      'num_kv_heads',
      dims.num_kv_heads,
      f'must be none with --projections={tag}, whose queries and keys are one '
      'array',
    )


def unread(x_BTD: jax.Array, num_heads: int) -> jax.Array:
  """Returns queries or keys of width 0."""
  return jnp.zeros((*x_BTD.shape[:2], num_heads, 0), x_BTD.dtype)


def merged(params: Params, heads_BTNH: jax.Array) -> jax.Array:
  """Returns concat(heads) W_O."""
  out_BTD = jnp.einsum('BTNH,NHD->BTD', heads_BTNH, params['out'])
  return add_bias(out_BTD, params, 'out_bias')
