"""Attention as pure functions of queries and keys.

  weights = normalizer(mask(logits)),  out = weights v
  logits = cap(mix(scale * score(q, k))) + position bias + output biases

(Vaswani et al. 2017, section 3.2, which has only score, scale, mask and
softmax.)  Biases are added after the cap, which bounds scores alone.  `logits`
and `visible` accept any chunk of queries and of keys; the reference and the
chunked backend are built from them.
"""

import functools

import jax
import jax.numpy as jnp

from model.attention.mask import allowed
from model.attention.parts import (
  AttentionParts,
  HeadOutputs,
  Keys,
  ParamTables,
  Queries,
  part_of,
)
from model.attention.scores.base import ScoreBase
from model.core.dropout import dropout
from model.core.inputs import broadcast_positions
from model.core.parameter import PartParams


def visible(parts: AttentionParts, queries: Queries, keys: Keys) -> jax.Array:
  """Returns mask_B1TS (B may be 1): True where a query may see a key."""
  return allowed(parts.mask, *broadcast_positions(queries.at, keys.at))


def logits(
  parts: AttentionParts,
  tables: ParamTables,
  queries: Queries,
  keys: Keys,
  n_B1T1: jax.Array | None,
) -> jax.Array:
  """Computes logits_BNTS before the mask, in float32 or wider.

  Args:
    parts: the choices.
    tables: their parameters.
    queries: a chunk of queries.
    keys: a chunk of keys.
    n_B1T1: number of keys, of all chunks, that each query sees; `None` unless
      `parts.counts`.
  """
  q_BTNH, t_T, s_S = queries.q_BTNH, queries.at.t, keys.at.t
  logits_BNTS = _scores(parts.score, tables['score'], queries, keys)
  # Without queries, the scale takes the width of a value.
  width = q_BTNH.shape[-1] or keys.v_BSKH.shape[-1]
  factor = parts.scale.factor(tables['scale'], width, n_B1T1)
  logits_BNTS = logits_BNTS * factor
  for output in parts.output:
    logits_BNTS = output.mix_logits(tables[part_of(output)], logits_BNTS)
  if parts.logit_cap is not None:
    logits_BNTS = parts.logit_cap * jnp.tanh(logits_BNTS / parts.logit_cap)
  position, num_heads = parts.position, logits_BNTS.shape[1]
  bias_of = functools.partial(position.bias, tables['position'], num_heads)
  t_BT, s_BS = queries.at.place, keys.at.place
  if position.traits.biases_by_place and t_BT is not None and s_BS is not None:
    bias_BNTS = jax.vmap(bias_of)(t_BT, s_BS)
  else:  # a function of distances, which are equal in row and document
    bias_BNTS = bias_of(t_T, s_S)
  if bias_BNTS is not None:
    logits_BNTS = logits_BNTS + bias_BNTS
  for output in parts.output:
    if output.traits.decays:
      running_BTN = queries.running_BTN[output.tag]
      running_BSN = keys.running_BSN[output.tag]
      bias_BTSN = running_BTN[:, :, None] - running_BSN[:, None]
      logits_BNTS = logits_BNTS + jnp.moveaxis(bias_BTSN, -1, 1)
  return logits_BNTS


def _scores(
  score: ScoreBase, params: PartParams, queries: Queries, keys: Keys
) -> jax.Array:
  """Returns the scores, by positions in documents if the row has several."""
  q_BTNH, x_BTD, k_BSKH = queries.q_BTNH, queries.x_BTD, keys.k_BSKH
  t_BT, s_BS = queries.at.place, keys.at.place
  if t_BT is None or s_BS is None:
    t_T, s_S = queries.at.t, keys.at.t
    return score.logits(params, q_BTNH, k_BSKH, x_BTD, t_T, s_S)

  def score_one(q_TNH, k_SKH, x_TD, t_T, s_S):
    q_BTNH, k_BSKH, x_BTD = q_TNH[None], k_SKH[None], x_TD[None]
    return score.logits(params, q_BTNH, k_BSKH, x_BTD, t_T, s_S)[0]

  return jax.vmap(score_one)(q_BTNH, k_BSKH, x_BTD, t_BT, s_BS)


def weighted_sum(
  weights_BNTS: jax.Array, v_BSKH: jax.Array, dtype: jnp.dtype
) -> jax.Array:
  """Returns out_BTNH, the sum of the values by their weights.

  Weights are cast to the type of the values, and the result has type `dtype`.
  Groups of N / K query heads share the values of one key head, which are not
  repeated in memory.
  """
  weights_BNTS = weights_BNTS.astype(v_BSKH.dtype)
  num_kv_heads = v_BSKH.shape[2]
  batch, num_heads, *pair = weights_BNTS.shape
  if num_heads == num_kv_heads:
    # Not as groups of one head, which XLA would sum in another order.
    v_BSNH = v_BSKH
    return jnp.einsum(
      'BNTS,BSNH->BTNH', weights_BNTS, v_BSNH, preferred_element_type=dtype
    )
  weights_BKGTS = weights_BNTS.reshape(batch, num_kv_heads, -1, *pair)
  out_BTKGH = jnp.einsum(
    'BKGTS,BSKH->BTKGH', weights_BKGTS, v_BSKH, preferred_element_type=dtype
  )
  return out_BTKGH.reshape(*out_BTKGH.shape[:2], -1, out_BTKGH.shape[-1])


def reference_attention(
  parts: AttentionParts,
  tables: ParamTables,
  queries: Queries,
  keys: Keys,
  rngs_B: jax.Array | None,
) -> HeadOutputs:
  """Computes attention with all logits at once: any choice, O(T S) memory.

  The weights that it returns are those before dropout.

  Args:
    parts: the choices.
    tables: their parameters.
    queries: all queries.
    keys: all keys.
    rngs_B: one PRNG key per example, for dropout; `None` disables it.
  """
  mask_B1TS = visible(parts, queries, keys)
  n_B1T1 = mask_B1TS.sum(-1, keepdims=True) if parts.counts else None
  logits_BNTS = logits(parts, tables, queries, keys, n_B1T1)
  weights_BNTS = parts.normalizer.weights(
    tables['normalizer'], logits_BNTS, mask_B1TS, n_B1T1
  )
  for output in parts.output:
    weights_BNTS = output.mix_weights(tables[part_of(output)], weights_BNTS)
  dropped_BNTS = dropout(weights_BNTS, parts.dropout, rngs_B)
  out_BTNH = weighted_sum(dropped_BNTS, keys.v_BSKH, keys.v_BSKH.dtype)
  return HeadOutputs(out_BTNH, weights_BNTS)
