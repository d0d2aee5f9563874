"""Decoding: from the logits of a next token to whole sequences.

Nothing here knows a model: `Step` runs one token of each example against a
cache and returns the logits of the next.  All shapes are fixed, so that one
compiled program serves every prompt of a bucket; an example's tokens depend on
its own prompt and key only, never on what else is in the batch.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model.field import Record, field

# (tokens_B, cache) -> (logits_BV, cache)
Step = Callable[[jax.Array, Any], tuple[jax.Array, Any]]
NEVER = -1e30  # a log-probability: finite, so that sums stay ordered


@dataclasses.dataclass(frozen=True)
class Sampling(Record):
  """Sampling: how the next token is chosen from its logits."""

  temperature: float = field(
    1.0, 'Divides the logits; 0 takes the most likely token.', min=0.0
  )
  top_k: int | None = field(
    None, 'Only the k most likely tokens (Fan et al. 2018).', min=1
  )
  top_p: float | None = field(
    None,
    'Only the most likely tokens that hold this probability (Holtzman et al. '
    '2020).',
    min=0.0,
    max=1.0,
  )


def restrict(logits_BV: jax.Array, sampling: Sampling) -> jax.Array:
  """Returns logits / temperature, `NEVER` where a token may not be drawn.

  The nucleus of `top_p` is the smallest set of most likely tokens whose
  probability is at least top_p; the most likely token always belongs to it.
  """
  logits_BV = logits_BV / sampling.temperature
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
    end: the token after which a sequence has ended, and with which it is
      filled up; none never ends.
  """
  size = tokens_BS.shape[1]

  def more(carry: Any) -> jax.Array:
    t, _, _, ended_B = carry
    return (t < size - 1) & ~jnp.all(ended_B)

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

  ended_B = jnp.zeros(tokens_BS.shape[:1], bool)
  carry = (jnp.asarray(begin, jnp.int32), cache, tokens_BS, ended_B)
  t, _, tokens_BS, _ = jax.lax.while_loop(more, body, carry)
  if end is not None:
    late_S = jnp.arange(size) > t
    tokens_BS = jnp.where(late_S, end, tokens_BS)
  return tokens_BS


# Beam search. -----------------------------------------------------------------


class Beams(NamedTuple):
  """Hypotheses of each example, the best first, W of them.

  Attributes:
    tokens_BWS: filled up with the end token.
    scores_BW: log-probability / length^penalty, the end token counted.
  """

  tokens_BWS: jax.Array
  scores_BW: jax.Array


class _Search(NamedTuple):
  """W open hypotheses of each example, and up to W that ended."""

  t: jax.Array
  cache: Any
  open_BWS: jax.Array
  logp_BW: jax.Array
  ended: Beams
  count_B: jax.Array


def beam_search(
  step: Step,
  reorder: Callable[[Any, jax.Array], Any],
  cache: Any,
  first_B: jax.Array,
  width: int,
  size: int,
  end: int,
  penalty: float = 1.0,
) -> Beams:
  """Returns the best hypotheses, as Sutskever et al. 2014, section 3.2.

  Of the 2 W best extensions of an example's W hypotheses, those among the first
  W that end are done, and the first W that do not go on; an example stops when
  W are done, and what is open at the last position ends there.  A width of 1 is
  greedy decoding.

  Args:
    step: the model, on B * W examples: the W of an example side by side.
    reorder: (cache, index_X) -> the cache of these of its examples.
    cache: before the first token, of B * W examples.
    first_B: what each sequence begins with.
    width: W.
    size: S, positions of a hypothesis after the first token, the end's too.
    end: the token that ends a hypothesis.
    penalty: exponent of the length (Wu et al. 2016 has another form).
  """
  batch = first_B.shape[0]
  start = _Search(
    jnp.zeros((), jnp.int32),
    cache,
    jnp.full((batch, width, size), end, jnp.int32),
    jnp.full((batch, width), NEVER).at[:, 0].set(0.0),
    Beams(
      jnp.full((batch, width, size), end, jnp.int32),
      jnp.full((batch, width), NEVER),
    ),
    jnp.zeros((batch,), jnp.int32),
  )

  def more(at: _Search) -> jax.Array:
    return (at.t < size) & ~jnp.all(at.count_B >= width)

  def body(at: _Search) -> _Search:
    before_BW = jnp.where(
      at.t == 0, first_B[:, None], at.open_BWS[:, :, jnp.maximum(at.t - 1, 0)]
    )
    logits_XV, cache = step(before_BW.reshape(-1), at.cache)
    return _extend(at, logits_XV, cache, reorder, end, penalty)

  done = jax.lax.while_loop(more, body, start)
  order_BW = jnp.argsort(-done.ended.scores_BW, axis=1)
  return jax.tree.map(
    lambda x: jax.vmap(lambda own, order: own[order])(x, order_BW), done.ended
  )


def _extend(
  at: _Search,
  logits_XV: jax.Array,
  cache: Any,
  reorder: Callable[[Any, jax.Array], Any],
  end: int,
  penalty: float,
) -> _Search:
  """Returns the search one position on."""
  batch, width, size = at.open_BWS.shape
  vocabulary = logits_XV.shape[-1]
  logp_BWV = jax.nn.log_softmax(logits_XV, -1).reshape(batch, width, -1)
  # At the last position only the end may follow.
  only_V = jnp.where(jnp.arange(vocabulary) == end, 0.0, NEVER)
  logp_BWV = logp_BWV + jnp.where(at.t == size - 1, only_V, 0.0)
  total_BX = (at.logp_BW[:, :, None] + logp_BWV).reshape(batch, -1)
  most = min(2 * width, total_BX.shape[1])
  logp_BM, index_BM = jax.lax.top_k(total_BX, most)
  source_BM, token_BM = index_BM // vocabulary, index_BM % vocabulary
  ends_BM = token_BM == end

  # Those that end, among the first W, as long as there is room.
  known_BM = logp_BM > NEVER / 2
  done_BM = ends_BM & known_BM & (jnp.arange(most) < width)
  slot_BM = at.count_B[:, None] + jnp.cumsum(done_BM, 1) - 1
  slot_BM = jnp.where(done_BM & (slot_BM < width), slot_BM, width)
  history_BMS = jax.vmap(lambda own, source: own[source])(
    at.open_BWS, source_BM
  )
  scores_BM = logp_BM / (at.t + 1.0) ** penalty

  def put(kept: jax.Array, slots: jax.Array, new: jax.Array) -> jax.Array:
    return kept.at[slots].set(new, mode='drop')

  ended = Beams(
    jax.vmap(put)(at.ended.tokens_BWS, slot_BM, history_BMS),
    jax.vmap(put)(at.ended.scores_BW, slot_BM, scores_BM),
  )
  count_B = jnp.minimum(at.count_B + done_BM.sum(1), width)

  # The first W that do not end go on.
  onward_BM = jnp.where(ends_BM, NEVER, logp_BM)
  logp_BW, pick_BW = jax.lax.top_k(onward_BM, width)
  token_BW = jnp.take_along_axis(token_BM, pick_BW, 1)
  source_BW = jnp.take_along_axis(source_BM, pick_BW, 1)
  open_BWS = jax.vmap(lambda own, pick: own[pick])(history_BMS, pick_BW)
  index_BW = jnp.arange(batch)[:, None] * width + source_BW
  return _Search(
    at.t + 1,
    reorder(cache, index_BW.reshape(-1)),
    open_BWS.at[:, :, at.t].set(token_BW),
    logp_BW,
    ended,
    count_B,
  )
