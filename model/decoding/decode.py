"""Generates sequences by sampling one token after another.

Nothing depends on a particular model: `DecodeStep` runs one token of each
example with a cache and returns the logits of the next token.  All shapes are
fixed, so one compiled program serves every prompt of a bucket.  An example's
tokens depend only on its own prompt and key, not on the rest of the batch.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.core.field import FieldError, Record, field
from model.core.limits import COUNT, SHARE, Limit

# (tokens_B, cache) -> (logits_BV, cache)
DecodeStep = Callable[[jax.Array, Any], tuple[jax.Array, Any]]
NEVER = -1e30  # log-probability of 0; finite, so that sums stay ordered


@dataclasses.dataclass(frozen=True)
class Sampling(Record):
  """Sampling: how the next token is chosen from its logits."""

  temperature: float = field(
    1.0,
    'Divides the logits; 0 takes the most likely token.',
    min=0.0,
    max=Limit(1e300, 'all tokens are then equally likely'),
  )
  top_k: int | None = field(
    None,
    'Sample from the k most likely tokens (Fan et al. 2018).',
    min=1,
    max=COUNT,
  )
  top_p: float | None = field(
    None,
    'Sample from the most likely tokens that together have this probability '
    '(Holtzman et al. 2020).',
    min=0.0,
    max=SHARE,
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields an error for each rule that the fields break together."""
    for name, value in (('top_k', self.top_k), ('top_p', self.top_p)):
      if self.temperature == 0.0 and value is not None:
        yield FieldError(
          name, value, 'has no effect with --temperature=0, which draws nothing'
        )


def restrict(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
  """Returns logits / temperature, or `NEVER` where a token may not be drawn.

  The nucleus of `top_p` is the smallest set of most likely tokens whose total
  probability is at least top_p.  It always includes the most likely token.
  """
  # Subtract the maximum, and clip the temperature to float32: otherwise a low
  # temperature makes several logits infinite, and so equally likely.
  limits = jnp.finfo(jnp.float32)
  temperature = np.clip(sampling.temperature, limits.tiny, limits.max)
  logits_BV = (logits_BV - logits_BV.max(-1, keepdims=True)) / temperature
  if sampling.top_k is not None:
    k = min(sampling.top_k, logits_BV.shape[-1])
    least_B1 = jax.lax.top_k(logits_BV, k)[0][:, -1:]
    logits_BV = jnp.where(logits_BV >= least_B1, logits_BV, NEVER)
  if sampling.top_p is not None:
    sorted_BV = jnp.sort(logits_BV, -1, descending=True)
    p_BV = jax.nn.softmax(sorted_BV, -1)
    # A token is in the nucleus if the likelier ones have less than top_p.
    inside_BV = jnp.cumsum(p_BV, -1) - p_BV < sampling.top_p
    inside_BV = inside_BV.at[:, 0].set(True)
    least_B1 = jnp.min(
      sorted_BV, -1, keepdims=True, where=inside_BV, initial=jnp.inf
    )
    logits_BV = jnp.where(logits_BV >= least_B1, logits_BV, NEVER)
  return logits_BV


def draw(
  rngs_B: jax.Array, logits_BV: jax.Array, sampling: Sampling
) -> jax.Array:
  """Draws the next token of each example."""
  if sampling.temperature == 0.0:
    return jnp.argmax(logits_BV, -1)
  restricted_BV = restrict(logits_BV, sampling)
  return jax.vmap(jax.random.categorical)(rngs_B, restricted_BV)


def generate(
  step: DecodeStep,
  cache: Any,
  tokens_BS: jax.Array,
  lengths_B: jax.Array,
  begin: jax.Array,
  rngs_B: jax.Array,
  sampling: Sampling,
  end: int | None,
  stop: jax.Array | None = None,
) -> jax.Array:
  """Returns the buffer, each prompt continued to its end or to the token `end`.

  Args:
    step: the model.
    cache: cache with the positions before `begin`.
    tokens_BS: prompts, from position 0 on, in a buffer of S positions.
    lengths_B: lengths of the prompts, at least 1.
    begin: first position to run, at most the last one of the shortest prompt.
    rngs_B: one PRNG key per example.
    sampling: how tokens are chosen.
    end: token that ends a sequence and pads it; `None` never ends one.
    stop: position to stop before; `None` is S.
  """
  size = tokens_BS.shape[1]
  stop = jnp.asarray(size) if stop is None else jnp.minimum(stop, size)

  def is_running(carry: Any) -> jax.Array:
    t, _, _, ended_B = carry
    return (t < stop - 1) & ~jnp.all(ended_B)

  def body(carry: Any) -> Any:
    t, cache, tokens_BS, ended_B = carry
    logits_BV, cache = step(tokens_BS[:, t], cache)
    own_B = jax.vmap(jax.random.fold_in, (0, None))(rngs_B, t)
    next_B = draw(own_B, logits_BV, sampling).astype(tokens_BS.dtype)
    in_prompt_B = t + 1 < lengths_B
    if end is not None:
      next_B = jnp.where(ended_B, end, next_B)
    next_B = jnp.where(in_prompt_B, tokens_BS[:, t + 1], next_B)
    if end is not None:
      ended_B |= ~in_prompt_B & (next_B == end)
    return t + 1, cache, tokens_BS.at[:, t + 1].set(next_B), ended_B

  ended_B = jnp.zeros(tokens_BS.shape[:1], bool)
  start = jnp.asarray(begin, jnp.int32), cache, tokens_BS, ended_B
  t, _, tokens_BS, _ = jax.lax.while_loop(is_running, body, start)
  if end is None:
    return tokens_BS
  return jnp.where(jnp.arange(size) > t, end, tokens_BS)
