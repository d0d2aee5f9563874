"""Rows of different lengths as one array: padding, begin and end tokens."""

import jax
import jax.numpy as jnp

from train.tasks.base import Arrays


def pad_rows(
  arrays: Arrays, name: str, rows_B: jax.Array, length: int, fill: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Reads rows of tokens, truncated or padded to a length.

  Args:
    arrays: arrays of the data.
    name: name of the array of tokens; `{name}_starts` has where rows begin.
    rows_B: numbers of the rows.
    length: tokens per row of the result.
    fill: id of the padding token.

  Returns:
    tokens_BT, and sizes_B, the number of tokens of each row without padding.
  """
  starts_X = arrays[f'{name}_starts']
  start_B1 = starts_X[rows_B][:, None]
  size_B1 = jnp.minimum(starts_X[rows_B + 1][:, None] - start_B1, length)
  t_1T = jnp.arange(length)[None]
  place_BT = jnp.minimum(start_B1 + t_1T, arrays[name].shape[0] - 1)
  tokens_BT = arrays[name][place_BT].astype(jnp.int32)
  return jnp.where(t_1T < size_B1, tokens_BT, fill), size_B1[:, 0]


def append_end(
  tokens_BT: jax.Array, sizes_B: jax.Array, end: jax.Array
) -> jax.Array:
  """Adds the token `end` after the last token of each row, if it fits."""
  t_1T = jnp.arange(tokens_BT.shape[1])[None]
  return jnp.where(t_1T == sizes_B[:, None], end, tokens_BT)


def shift_right(tokens_BT: jax.Array, begin: jax.Array) -> jax.Array:
  """Shifts each row by one to the right, behind the token `begin`."""
  begin_B1 = jnp.full_like(tokens_BT[:, :1], begin)
  return jnp.concatenate([begin_B1, tokens_BT[:, :-1]], 1)


def padding_segments(sizes_B: jax.Array, length: int) -> jax.Array:
  """Returns segments_BT: 1 up to the size of each row, and 0 for padding."""
  return (jnp.arange(length)[None] < sizes_B[:, None]).astype(jnp.int32)
