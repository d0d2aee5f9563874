"""Rows of different lengths as one array: filled up, begun, ended."""

import jax
import jax.numpy as jnp

from train.task import Arrays


def padded(
  arrays: Arrays, name: str, rows_B: jax.Array, length: int, fill: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """Returns tokens_BT, cut or filled up to a length, and sizes_B."""
  starts_X = arrays[f'{name}_starts']
  start_B1 = starts_X[rows_B][:, None]
  size_B1 = jnp.minimum(starts_X[rows_B + 1][:, None] - start_B1, length)
  t_1T = jnp.arange(length)[None]
  place_BT = jnp.minimum(start_B1 + t_1T, arrays[name].shape[0] - 1)
  tokens_BT = arrays[name][place_BT].astype(jnp.int32)
  return jnp.where(t_1T < size_B1, tokens_BT, fill), size_B1[:, 0]


def ended(
  tokens_BT: jax.Array, sizes_B: jax.Array, end: jax.Array
) -> jax.Array:
  """Returns the tokens with another behind the last of each row."""
  t_1T = jnp.arange(tokens_BT.shape[1])[None]
  return jnp.where(t_1T == sizes_B[:, None], end, tokens_BT)


def begun(tokens_BT: jax.Array, begin: jax.Array) -> jax.Array:
  """Returns the tokens but the last of each row, behind another."""
  begin_B1 = jnp.full_like(tokens_BT[:, :1], begin)
  return jnp.concatenate([begin_B1, tokens_BT[:, :-1]], 1)


def real(sizes_B: jax.Array, length: int) -> jax.Array:
  """Returns segments_BT: 1 up to the size of each row, and 0 for padding."""
  return (jnp.arange(length)[None] < sizes_B[:, None]).astype(jnp.int32)
