"""Beam search: the most likely sequences that a decoder can be led to.

As in `model.decode` nothing here knows a model, and all shapes are fixed.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from model.decode import NEVER, Step


class Beams(NamedTuple):
  """Hypotheses of each example, the best first, W of them.

  Attributes:
    tokens_BWS: filled up with the end token, or with 0.
    scores_BW: log-probability / length^penalty, the end token counted; those
      that were not found are last and have -1e30.
  """

  tokens_BWS: jax.Array
  scores_BW: jax.Array


class Rules(NamedTuple):
  """How hypotheses grow, end, and are compared.

  Attributes:
    width: W, hypotheses of an example.
    size: S, positions of a hypothesis after the first token, the end's too.
    end: the token that ends a hypothesis; none ends all at their last position.
    penalty: exponent of the length (Wu et al. 2016 has another form).
    least: tokens before the end.
    open: what is at its last position has no need of the end.
  """

  width: int
  size: int
  end: int | None
  penalty: float = 1.0
  least: int = 0
  open: bool = False


class _Search(NamedTuple):
  """W open hypotheses of each example, and up to W that ended."""

  t: jax.Array
  cache: Any
  open_BWS: jax.Array
  logp_BW: jax.Array
  ended: Beams
  count_B: jax.Array
  limits_B: jax.Array


def beam_search(
  step: Step,
  reorder: Callable[[Any, jax.Array], Any],
  cache: Any,
  first_B: jax.Array,
  rules: Rules,
  limits_B: jax.Array | None = None,
) -> Beams:
  """Returns the best hypotheses (Sutskever et al. 2014, section 3.2).

  Of the 2 W best extensions of an example's W hypotheses, those among the first
  W that end are done, and the first W that do not go on; an example stops when
  W are done, and what is open at its last position ends there.  These are the
  rules of fairseq, whose `min_len` is `least` and whose `max_len` is one less
  than a limit.  A width of 1 is greedy decoding.

  Args:
    step: the model, on B * W examples: the W of an example side by side.
    reorder: (cache, index_X) -> the cache of these of its examples.
    cache: before the first token, of B * W examples.
    first_B: what each sequence begins with.
    rules: how hypotheses grow, end, and are compared.
    limits_B: positions of each example's hypotheses, at most S; none is S.
  """
  start = _start(cache, len(first_B), rules, limits_B)

  def more(at: _Search) -> jax.Array:
    return jnp.any((at.count_B < rules.width) & (at.t < at.limits_B))

  def body(at: _Search) -> _Search:
    before_BW = at.open_BWS[:, :, jnp.maximum(at.t - 1, 0)]
    tokens_BW = jnp.where(at.t == 0, first_B[:, None], before_BW)
    logits_XV, cache = step(tokens_BW.reshape(-1), at.cache)
    found, source_X = _extended(at, logits_XV, rules)
    return found._replace(cache=reorder(cache, source_X))

  ended = jax.lax.while_loop(more, body, start).ended
  order_BW = jnp.argsort(-ended.scores_BW, axis=1)
  return jax.tree.map(lambda x: _taken(x, order_BW), ended)


def _start(
  cache: Any, batch: int, rules: Rules, limits_B: jax.Array | None
) -> _Search:
  """Returns the search before the first position: one hypothesis, empty."""
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


def _extended(
  at: _Search, logits_XV: jax.Array, rules: Rules
) -> tuple[_Search, jax.Array]:
  """Returns the search one position on, and where its hypotheses come from."""
  batch, width, _ = at.open_BWS.shape
  vocabulary = logits_XV.shape[-1]
  logp_XV = jax.nn.log_softmax(logits_XV.astype(jnp.float32), -1)
  logp_BWV = logp_XV.reshape(batch, width, vocabulary)
  if rules.end is not None:
    logp_BWV = jnp.where(_barred(at, vocabulary, rules), NEVER, logp_BWV)
  total_BX = (at.logp_BW[:, :, None] + logp_BWV).reshape(batch, -1)
  most = min(2 * width, total_BX.shape[1])
  logp_BM, index_BM = jax.lax.top_k(total_BX, most)
  source_BM, token_BM = index_BM // vocabulary, index_BM % vocabulary
  ends_BM = token_BM == rules.end
  if rules.end is None:
    ends_BM = jnp.broadcast_to(_last(at)[:, None], token_BM.shape)
  elif rules.open:
    ends_BM |= _last(at)[:, None]

  # Those that end, among the first W, as long as there is room.
  done_BM = ends_BM & (logp_BM > NEVER / 2) & (jnp.arange(most) < width)
  slot_BM = at.count_B[:, None] + jnp.cumsum(done_BM, 1) - 1
  slot_BM = jnp.where(done_BM & (slot_BM < width), slot_BM, width)
  history_BMS = _taken(at.open_BWS, source_BM).at[:, :, at.t].set(token_BM)
  scores_BM = logp_BM / (at.t + 1.0) ** rules.penalty
  ended = jax.tree.map(
    lambda kept, new: jax.vmap(_put)(kept, slot_BM, new),
    at.ended,
    Beams(history_BMS, scores_BM),
  )

  # The first W that do not end go on.
  onward_BM = jnp.where(ends_BM, NEVER, logp_BM)
  logp_BW, pick_BW = jax.lax.top_k(onward_BM, width)
  open_BWS = _taken(history_BMS, pick_BW)
  source_BW = _taken(source_BM, pick_BW) + jnp.arange(batch)[:, None] * width
  found = at._replace(
    t=at.t + 1,
    open_BWS=open_BWS,
    logp_BW=logp_BW,
    ended=ended,
    count_B=jnp.minimum(at.count_B + done_BM.sum(1), width),
  )
  return found, source_BW.reshape(-1)


def _barred(at: _Search, vocabulary: int, rules: Rules) -> jax.Array:
  """Returns which tokens cannot follow: at the last position all but the end.

  Shaped (B, 1, V).
  """
  end_V = jnp.arange(vocabulary) == rules.end
  early_V = end_V & (at.t < rules.least)
  if rules.open:
    return early_V[None, None]
  return jnp.where(_last(at)[:, None, None], ~end_V, early_V)


def _last(at: _Search) -> jax.Array:
  """Returns which examples are at their last position."""
  return at.t >= at.limits_B - 1


def _taken(x: jax.Array, index_BW: jax.Array) -> jax.Array:
  """Returns the rows of each example that the index names."""
  return jax.vmap(lambda own, index: own[index])(x, index_BW)


def _put(kept: jax.Array, slots: jax.Array, new: jax.Array) -> jax.Array:
  """Returns an array with new rows in these slots; slots beyond it are none."""
  return kept.at[slots].set(new, mode='drop')
