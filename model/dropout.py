"""Dropout whose mask depends on (step, example, layer, place) alone."""

import zlib

import jax
import jax.numpy as jnp


def site_keys(
  keys_B: jax.Array | None, layer: jax.Array | int, place: str
) -> jax.Array | None:
  """Returns one key an example for a place in a layer; none in evaluation."""
  if keys_B is None:
    return None
  site = zlib.crc32(place.encode())
  return jax.vmap(
    lambda key: jax.random.fold_in(jax.random.fold_in(key, layer), site)
  )(keys_B)


def dropout(x_B: jax.Array, rate: float, keys_B: jax.Array | None) -> jax.Array:
  """Returns x / (1 - rate) where kept, else 0 (Srivastava et al. 2014).

  Flax's own refuses a traced rate, and its mask depends on how the batch lies
  on the devices.  One key an example makes the mask the same in every layout.

  Args:
    x_B: array whose first axis is the batch.
    rate: probability of 0; may be traced.  A static 0 compiles to nothing.
    keys_B: one key an example; none switches dropout off.
  """
  if keys_B is None or (isinstance(rate, float) and rate == 0.0):
    return x_B
  keep_B = jax.vmap(
    lambda key: jax.random.bernoulli(key, 1.0 - rate, x_B.shape[1:])
  )(keys_B)
  scaled_B = x_B / jnp.asarray(1.0 - rate, x_B.dtype)
  return jnp.where(keep_B, scaled_B, jnp.zeros((), x_B.dtype))
