"""Toy models whose next symbols are a table, for tests of decoding."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.decoding.decode import DecodeStep

END = 0


def bigram(seed: int, vocabulary: int = 4) -> np.ndarray:
  """Returns the logits of the next symbol after each, at each position."""
  draw = np.random.default_rng(seed)
  return draw.normal(size=(16, vocabulary, vocabulary)) * 1.5


def step_of(logits_TVV: np.ndarray) -> DecodeStep:
  """Returns a model that reads its first symbol again from its cache."""
  table = jnp.asarray(logits_TVV)

  def step(tokens_B: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
    t, seen_BS = cache
    seen_BS = seen_BS.at[:, t].set(tokens_B)
    logits_BV = table[t, tokens_B] + 0.3 * table[t, seen_BS[:, 0]]
    return logits_BV, (t + 1, seen_BS)

  return step


def cache_of(batch: int) -> tuple[jax.Array, jax.Array]:
  return jnp.zeros((), jnp.int32), jnp.zeros((batch, 16), jnp.int32)
