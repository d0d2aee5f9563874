"""Beam search for the most likely sequences of a decoder.

As in `decode.py`, nothing depends on a particular model, and shapes are fixed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model.decoding.decode import NEVER, DecodeStep


class Beams(NamedTuple):
  """W hypotheses for each example, the best one first.

  Attributes:
    tokens_BWS: tokens, padded with the end token, or with 0 if there is none.
    scores_BW: log-probability / length^penalty, where the length includes the
      end token; missing hypotheses come last, with -1e30.
  """

  tokens_BWS: jax.Array
  scores_BW: jax.Array


class BeamSettings(NamedTuple):
  """Settings of a beam search.

  Attributes:
    width: W, number of hypotheses per example.
    size: S, largest number of tokens after the first one, end token included.
    end: token that ends a hypothesis; `None` ends all at their last position.
    penalty: exponent of the length (Wu et al. 2016 have another form).
    least: smallest number of tokens before the end token.
    open: whether a hypothesis may reach its last position without an end token.
  """

  width: int
  size: int
  end: int | None
  penalty: float = 1.0
  least: int = 0
  open: bool = False


class _Search(NamedTuple):
  """State of the search: W open and up to W ended hypotheses per example.

  Attributes:
    t: position of the next token.
    cache: cache of the model, for the open hypotheses.
    open_BWS: tokens of the open hypotheses.
    logp_BW: log-probabilities of the open hypotheses.
    ended: ended hypotheses.
    count_B: number of ended hypotheses.
    limits_B: largest number of tokens of each example's hypotheses.
  """

  t: jax.Array
  cache: Any
  open_BWS: jax.Array
  logp_BW: jax.Array
  ended: Beams
  count_B: jax.Array
  limits_B: jax.Array


def beam_search(
  step: DecodeStep,
  reorder: Callable[[Any, jax.Array], Any],
  cache: Any,
  first_B: jax.Array,
  rules: BeamSettings,
  limits_B: jax.Array | None = None,
) -> Beams:
  """Returns the best hypotheses (Sutskever et al. 2014, section 3.2).

  Each step ranks the 2 W best extensions of an example's W open hypotheses.
  Extensions that end, among the first W, are ended hypotheses; the first W
  extensions that do not end stay open.  An example stops as soon as W have
  ended, or at its last position, where open hypotheses end.

  These are the rules of fairseq, whose `min_len` is `least` and whose `max_len`
  is one less than a limit.  A width of 1 is greedy decoding.

  Args:
    step: the model, on B * W examples, the W of an example side by side.
    reorder: (cache, index_X) -> cache with the examples at these indices.
    cache: cache before the first token, for B * W examples.
    first_B: first token of each sequence.
    rules: settings of the search.
    limits_B: largest number of tokens of each example's hypotheses, at most S;
      `None` is S.
  """
  start = _first_search(cache, len(first_B), rules, limits_B)

  def is_running(at: _Search) -> jax.Array:
    return jnp.any((at.count_B < rules.width) & (at.t < at.limits_B))

  def body(at: _Search) -> _Search:
    before_BW = at.open_BWS[:, :, jnp.maximum(at.t - 1, 0)]
    tokens_BW = jnp.where(at.t == 0, first_B[:, None], before_BW)
    logits_XV, cache = step(tokens_BW.reshape(-1), at.cache)
    found, source_X = _extend(at, logits_XV, rules)
    return found._replace(cache=reorder(cache, source_X))

  ended = jax.lax.while_loop(is_running, body, start).ended
  order_BW = jnp.argsort(-ended.scores_BW, axis=1)
  return jax.tree.map(lambda x: _gather(x, order_BW), ended)


def _first_search(
  cache: Any, batch: int, rules: BeamSettings, limits_B: jax.Array | None
) -> _Search:
  """Returns the initial state, with one empty hypothesis per example."""
  front = (batch, rules.width)
  nothing = Beams(
    jnp.full((*front, rules.size), rules.end or 0, jnp.int32),
    jnp.full(front, NEVER),
  )
  size_B = jnp.full(batch, rules.size)
  return _Search(
    t=jnp.zeros((), jnp.int32),
    cache=cache,
    open_BWS=nothing.tokens_BWS,
    logp_BW=nothing.scores_BW.at[:, 0].set(0.0),
    ended=nothing,
    count_B=jnp.zeros(batch, jnp.int32),
    limits_B=size_B if limits_B is None else jnp.minimum(limits_B, size_B),
  )


def _extend(
  at: _Search, logits_XV: jax.Array, rules: BeamSettings
) -> tuple[_Search, jax.Array]:
  """Extends all hypotheses by a token.

  Returns:
    The new state, and for each open hypothesis the index of the one it extends.
  """
  batch, width, _ = at.open_BWS.shape
  vocabulary = logits_XV.shape[-1]
  logp_XV = jax.nn.log_softmax(logits_XV.astype(jnp.float32), -1)
  logp_BWV = logp_XV.reshape(batch, width, vocabulary)
  if rules.end is not None:
    logp_BWV = jnp.where(_forbidden(at, vocabulary, rules), NEVER, logp_BWV)
  total_BX = (at.logp_BW[:, :, None] + logp_BWV).reshape(batch, -1)
  most = min(2 * width, total_BX.shape[1])
  logp_BM, index_BM = jax.lax.top_k(total_BX, most)
  source_BM, token_BM = index_BM // vocabulary, index_BM % vocabulary
  ends_BM = token_BM == rules.end
  if rules.end is None:
    ends_BM = jnp.broadcast_to(_at_limit(at)[:, None], token_BM.shape)
  elif rules.open:
    ends_BM |= _at_limit(at)[:, None]

  # Extensions that end, among the first W, are stored while there is room.
  done_BM = ends_BM & (logp_BM > NEVER / 2) & (jnp.arange(most) < width)
  slot_BM = at.count_B[:, None] + jnp.cumsum(done_BM, 1) - 1
  slot_BM = jnp.where(done_BM & (slot_BM < width), slot_BM, width)
  history_BMS = _gather(at.open_BWS, source_BM).at[:, :, at.t].set(token_BM)
  scores_BM = logp_BM / (at.t + 1.0) ** rules.penalty
  ended = jax.tree.map(
    lambda rows, new: jax.vmap(_scatter)(rows, slot_BM, new),
    at.ended,
    Beams(history_BMS, scores_BM),
  )

  # The first W extensions that do not end stay open.
  onward_BM = jnp.where(ends_BM, NEVER, logp_BM)
  logp_BW, pick_BW = jax.lax.top_k(onward_BM, width)
  open_BWS = _gather(history_BMS, pick_BW)
  source_BW = _gather(source_BM, pick_BW) + jnp.arange(batch)[:, None] * width
  found = at._replace(
    t=at.t + 1,
    open_BWS=open_BWS,
    logp_BW=logp_BW,
    ended=ended,
    count_B=jnp.minimum(at.count_B + done_BM.sum(1), width),
  )
  return found, source_BW.reshape(-1)


def _forbidden(at: _Search, vocabulary: int, rules: BeamSettings) -> jax.Array:
  """Returns which tokens may not come next, with shape (B, 1, V).

  The end token is forbidden too early, and all others at the last position.
  """
  end_V = jnp.arange(vocabulary) == rules.end
  early_V = end_V & (at.t < rules.least)
  if rules.open:
    return early_V[None, None]
  return jnp.where(_at_limit(at)[:, None, None], ~end_V, early_V)


def _at_limit(at: _Search) -> jax.Array:
  """Returns which examples are at their last position."""
  return at.t >= at.limits_B - 1


def _gather(x: jax.Array, index_BW: jax.Array) -> jax.Array:
  """Gathers rows by index, separately for each example."""
  return jax.vmap(lambda own, index: own[index])(x, index_BW)


def _scatter(rows: jax.Array, slots: jax.Array, new: jax.Array) -> jax.Array:
  """Writes rows into slots; a slot beyond the end of the array is dropped."""
  return rows.at[slots].set(new, mode='drop')
