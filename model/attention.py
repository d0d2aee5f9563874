"""Attention as pure functions of queries and keys.

  weights = normalizer(mask(logits)),  out = weights v
  logits = cap(mix(scale * score(q, k))) + position bias + output biases

(Vaswani et al. 2017, section 3.2, where all but scale, mask and softmax is
nothing.)  Biases come behind the cap: they say how much a key counts, not what
it scores.  `logits` and `visible` take any chunk of queries and of keys, which
is what every backend is made of.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from model.dropout import dropout
from model.heads import Widths
from model.mask import Mask, Places, allowed
from model.normalizer import Normalizer
from model.output import Plain
from model.parameter import Params
from model.position import Position
from model.scale import Scale
from model.score import Score


class Parts(NamedTuple):
  """The choices that attention is composed of, what it drops, and widths."""

  score: Score
  scale: Scale
  logit_cap: float | None
  position: Position
  mask: tuple[Mask, ...]
  normalizer: Normalizer
  output: tuple[Plain, ...]
  dropout: float
  dtype: str
  widths: Widths

  @property
  def counts(self) -> bool:
    """Returns whether any part reads how many keys a query sees."""
    return self.scale.counts or self.normalizer.counts

  @property
  def maps(self) -> int:
    """Returns how many maps each head has."""
    return max(output.maps for output in self.output)


class Queries(NamedTuple):
  """What queries bring, axis T; `running` by the tag of its output.

  `place_BT` are places in documents; none where a row is one document.
  """

  q_BTNH: jax.Array
  x_BTD: jax.Array
  t_T: jax.Array
  segments_BT: jax.Array | None
  running_BTN: Mapping[str, jax.Array]
  place_BT: jax.Array | None = None


class Keys(NamedTuple):
  """What keys bring and a cache keeps, axis S; places as of queries."""

  k_BSKH: jax.Array
  v_BSKH: jax.Array
  s_S: jax.Array
  segments_BS: jax.Array | None
  running_BSN: Mapping[str, jax.Array]
  place_BS: jax.Array | None = None


class Attended(NamedTuple):
  """Values mixed, and by which weights, if the backend has them."""

  out_BTNH: jax.Array
  weights_BNTS: jax.Array | None


# The parameters of a block and of positions, by part.
Tables = Mapping[str, Params]


def part_of(output: Plain) -> str:
  """Returns the part under which the parameters of an output stand."""
  return f'output_{output.tag}'


def placed(
  call: Callable[[jax.Array, jax.Array], jax.Array],
  x_BTX: jax.Array,
  t_T: jax.Array,
  place_BT: jax.Array | None,
) -> jax.Array:
  """Returns call(x_BTX, t_T), with the places of each example if it has any.

  So nothing that reads positions knows of documents.
  """
  if place_BT is None:
    return call(x_BTX, t_T)
  return jax.vmap(lambda x_TX, t_T: call(x_TX[None], t_T)[0])(x_BTX, place_BT)


def visible(parts: Parts, queries: Queries, keys: Keys) -> jax.Array:
  """Returns mask_B1TS (B may be 1), True where a query may see a key."""
  segments_BT, segments_BS = queries.segments_BT, keys.segments_BS
  place_BS = keys.place_BS
  return allowed(
    parts.mask,
    Places(
      t=queries.t_T[None, None, :, None],
      s=keys.s_S[None, None, None, :],
      t_segment=None if segments_BT is None else segments_BT[:, None, :, None],
      s_segment=None if segments_BS is None else segments_BS[:, None, None, :],
      s_place=None if place_BS is None else place_BS[:, None, None, :],
    ),
  )


def logits(
  parts: Parts,
  tables: Tables,
  queries: Queries,
  keys: Keys,
  n_B1T1: jax.Array | None,
) -> jax.Array:
  """Returns logits_BNTS, not masked, in float32 at least.

  Args:
    parts: the choices.
    tables: their parameters.
    queries: some queries.
    keys: some keys.
    n_B1T1: how many keys each query sees, of all; none unless `parts.counts`.
  """
  q_BTNH, t_T, s_S = queries.q_BTNH, queries.t_T, keys.s_S
  logits_BNTS = _scores(parts.score, tables['score'], queries, keys)
  # A score that reads no queries is scaled by the width of a value.
  width = q_BTNH.shape[-1] or keys.v_BSKH.shape[-1]
  factor = parts.scale.factor(tables['scale'], width, n_B1T1)
  logits_BNTS = logits_BNTS * factor
  for output in parts.output:
    logits_BNTS = output.mix_logits(tables[part_of(output)], logits_BNTS)
  if parts.logit_cap is not None:
    logits_BNTS = parts.logit_cap * jnp.tanh(logits_BNTS / parts.logit_cap)
  num_heads = logits_BNTS.shape[1]
  # Of distances, which are the same in a row and in a document.
  bias_NTS = parts.position.bias(tables['position'], num_heads, t_T, s_S)
  if bias_NTS is not None:
    logits_BNTS = logits_BNTS + bias_NTS
  for output in parts.output:
    if output.fades:
      running_BTN = queries.running_BTN[output.tag]
      running_BSN = keys.running_BSN[output.tag]
      bias_BTSN = running_BTN[:, :, None] - running_BSN[:, None]
      logits_BNTS = logits_BNTS + jnp.moveaxis(bias_BTSN, -1, 1)
  return logits_BNTS


def _scores(
  score: Score, params: Params, queries: Queries, keys: Keys
) -> jax.Array:
  """Returns the score of each query and key, at places in documents if any."""
  q_BTNH, x_BTD, k_BSKH = queries.q_BTNH, queries.x_BTD, keys.k_BSKH
  t_BT, s_BS = queries.place_BT, keys.place_BS
  if t_BT is None or s_BS is None:
    return score.logits(params, q_BTNH, k_BSKH, x_BTD, queries.t_T, keys.s_S)

  def of_one(q_TNH, k_SKH, x_TD, t_T, s_S):
    q_BTNH, k_BSKH, x_BTD = q_TNH[None], k_SKH[None], x_TD[None]
    return score.logits(params, q_BTNH, k_BSKH, x_BTD, t_T, s_S)[0]

  return jax.vmap(of_one)(q_BTNH, k_BSKH, x_BTD, t_BT, s_BS)


def mix(
  weights_BNTS: jax.Array, v_BSKH: jax.Array, dtype: jnp.dtype
) -> jax.Array:
  """Returns out_BTNH, the values mixed, of a given type.

  Weights meet the values in the type of the values.  N / K query heads in a row
  share the values of one key head, which are not repeated in memory.
  """
  weights_BNTS = weights_BNTS.astype(v_BSKH.dtype)
  num_kv_heads = v_BSKH.shape[2]
  batch, num_heads, *pair = weights_BNTS.shape
  if num_heads == num_kv_heads:
    # Not as groups of one: XLA would sum those in another order.
    v_BSNH = v_BSKH
    return jnp.einsum(
      'BNTS,BSNH->BTNH', weights_BNTS, v_BSNH, preferred_element_type=dtype
    )
  weights_BKGTS = weights_BNTS.reshape(batch, num_kv_heads, -1, *pair)
  out_BTKGH = jnp.einsum(
    'BKGTS,BSKH->BTKGH', weights_BKGTS, v_BSKH, preferred_element_type=dtype
  )
  return out_BTKGH.reshape(*out_BTKGH.shape[:2], -1, out_BTKGH.shape[-1])


def reference(
  parts: Parts,
  tables: Tables,
  queries: Queries,
  keys: Keys,
  keys_B: jax.Array | None,
) -> Attended:
  """Returns attention with all logits at once: O(T S) memory, any choice.

  The weights returned are those before dropout.

  Args:
    parts: the choices.
    tables: their parameters.
    queries: all queries.
    keys: all keys.
    keys_B: one key an example for dropout; none switches it off.
  """
  mask_B1TS = visible(parts, queries, keys)
  n_B1T1 = mask_B1TS.sum(-1, keepdims=True) if parts.counts else None
  logits_BNTS = logits(parts, tables, queries, keys, n_B1T1)
  weights_BNTS = parts.normalizer.weights(
    tables['normalizer'], logits_BNTS, mask_B1TS, n_B1T1
  )
  for output in parts.output:
    weights_BNTS = output.mix_weights(tables[part_of(output)], weights_BNTS)
  kept_BNTS = dropout(weights_BNTS, parts.dropout, keys_B)
  out_BTNH = mix(kept_BNTS, keys.v_BSKH, keys.v_BSKH.dtype)
  return Attended(out_BTNH, weights_BNTS)
