"""Decoding: from the logits of a next token to whole sequences.

Nothing here knows a model: `Step` runs one token of each example against a
cache and returns the logits of the next.  All shapes are fixed, so that one
compiled program serves every prompt of a bucket; an example's tokens depend on
its own prompt and key only, never on what else is in the batch.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.field import FieldError, Record, field
from model.limits import COUNT, SHARE, Limit

# (tokens_B, cache) -> (logits_BV, cache)
Step = Callable[[jax.Array, Any], tuple[jax.Array, Any]]
NEVER = -1e30  # a log-probability: finite, so that sums stay ordered


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
    None, 'Only the k most likely tokens (Fan et al. 2018).', min=1, max=COUNT
  )
  top_p: float | None = field(
    None,
    'Only the most likely tokens that hold this probability (Holtzman et al. '
    '2020).',
    min=0.0,
    max=SHARE,
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields what is wrong between fields."""
    for name, value in (('top_k', self.top_k), ('top_p', self.top_p)):
      if self.temperature == 0.0 and value is not None:
        yield FieldError(
          name, value, 'has no effect with --temperature=0, which draws nothing'
        )


def restrict(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
  """Returns logits / temperature, `NEVER` where a token may not be drawn.

  The nucleus of `top_p` is the smallest set of most likely tokens whose
  probability is at least top_p; the most likely token always belongs to it.
  """
  # From the largest down, and by a number that float32 has: a low temperature
  # would else make several of them infinite, and so equally likely.
  limits = jnp.finfo(jnp.float32)
  temperature = np.clip(sampling.temperature, limits.tiny, limits.max)
  logits_BV = (logits_BV - logits_BV.max(-1, keepdims=True)) / temperature
  if sampling.top_k is not None:
    kept = min(sampling.top_k, logits_BV.shape[-1])
    least_B1 = jax.lax.top_k(logits_BV, kept)[0][:, -1:]
    logits_BV = jnp.where(logits_BV >= least_B1, logits_BV, NEVER)
  if sampling.top_p is not None:
    sorted_BV = jnp.sort(logits_BV, -1, descending=True)
    p_BV = jax.nn.softmax(sorted_BV, -1)
    # A token belongs if those before it do not hold enough.
    inside_BV = jnp.cumsum(p_BV, -1) - p_BV < sampling.top_p
    inside_BV = inside_BV.at[:, 0].set(True)
    least_B1 = jnp.min(
      sorted_BV, -1, keepdims=True, where=inside_BV, initial=jnp.inf
    )
    logits_BV = jnp.where(logits_BV >= least_B1, logits_BV, NEVER)
  return logits_BV


def draw(
  keys_B: jax.Array, logits_BV: jax.Array, sampling: Sampling
) -> jax.Array:
  """Returns the next token of each example."""
  if sampling.temperature == 0.0:
    return jnp.argmax(logits_BV, -1)
  restricted_BV = restrict(logits_BV, sampling)
  return jax.vmap(jax.random.categorical)(keys_B, restricted_BV)


def generate(
  step: Step,
  cache: Any,
  tokens_BS: jax.Array,
  lengths_B: jax.Array,
  begin: jax.Array,
  keys_B: jax.Array,
  sampling: Sampling,
  end: int | None,
  stop: jax.Array | None = None,
) -> jax.Array:
  """Returns the prompts, continued to the end of the buffer or to `end`.

  Args:
    step: the model.
    cache: holds the positions before `begin`.
    tokens_BS: prompts, from position 0 on, in a buffer of S positions.
    lengths_B: of the prompts, at least 1.
    begin: first position to feed: the shortest prompt's last, or before it.
    keys_B: one key an example.
    sampling: how tokens are chosen.
    end: the token that ends a sequence and fills it up; none never ends.
    stop: position to stop before; none is S.
  """
  size = tokens_BS.shape[1]
  stop = jnp.asarray(size) if stop is None else jnp.minimum(stop, size)

  def more(carry: Any) -> jax.Array:
    t, _, _, ended_B = carry
    return (t < stop - 1) & ~jnp.all(ended_B)

  def body(carry: Any) -> Any:
    t, cache, tokens_BS, ended_B = carry
    logits_BV, cache = step(tokens_BS[:, t], cache)
    own_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, t)
    next_B = draw(own_B, logits_BV, sampling).astype(tokens_BS.dtype)
    given_B = t + 1 < lengths_B
    if end is not None:
      next_B = jnp.where(ended_B, end, next_B)
    next_B = jnp.where(given_B, tokens_BS[:, t + 1], next_B)
    if end is not None:
      ended_B |= ~given_B & (next_B == end)
    return t + 1, cache, tokens_BS.at[:, t + 1].set(next_B), ended_B

  nobody_B = jnp.zeros(tokens_BS.shape[:1], bool)
  start = jnp.asarray(begin, jnp.int32), cache, tokens_BS, nobody_B
  t, _, tokens_BS, _ = jax.lax.while_loop(more, body, start)
  if end is None:
    return tokens_BS
  return jnp.where(jnp.arange(size) > t, end, tokens_BS)
