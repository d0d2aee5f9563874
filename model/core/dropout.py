"""Dropout whose mask depends only on the step, example, layer and site."""

import zlib

import jax
import jax.numpy as jnp


def site_keys(
  rngs_B: jax.Array | None, layer: jax.Array | int, site: str
) -> jax.Array | None:
  """Returns one PRNG key per example for a site in a layer.

  In evaluation, where `rngs_B` is `None`, it returns `None`.
  """
  if rngs_B is None:
    return None
  number = zlib.crc32(site.encode())
  return jax.vmap(
    lambda key: jax.random.fold_in(jax.random.fold_in(key, layer), number)
  )(rngs_B)


def dropout(x_B: jax.Array, rate: float, rngs_B: jax.Array | None) -> jax.Array:
  """Sets units to 0 at random and scales up the rest (Srivastava et al. 2014).

  A unit that is kept becomes x / (1 - rate).  Flax's own dropout does not
  accept a traced rate, and its mask depends on how the batch is laid out on
  devices.  With one key per example the mask is the same in every layout.

  Args:
    x_B: array whose first axis is the batch.
    rate: probability of 0; may be traced.  A static 0 compiles to nothing.
    rngs_B: one PRNG key per example; `None` disables dropout.
  """
  if rngs_B is None or (isinstance(rate, float) and rate == 0.0):
    return x_B
  keep_B = jax.vmap(
    lambda key: jax.random.bernoulli(key, 1.0 - rate, x_B.shape[1:])
  )(rngs_B)
  scaled_B = x_B / jnp.asarray(1.0 - rate, x_B.dtype)
  return jnp.where(keep_B, scaled_B, jnp.zeros((), x_B.dtype))
