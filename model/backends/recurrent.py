"""Linear attention as a recurrence: one matrix per head replaces past keys.

If weights are logits, and logits are products of queries and keys, then all
past keys can be summed (Katharopoulos et al. 2020, arXiv:2006.16236, section
3.4):

  out_t = f q_t (k_1 v_1^T + ... + k_t v_t^T) / divisor(f q_t (k_1 + ... + k_t))
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from model.attention.composed import logits as all_logits
from model.attention.composed import visible, weighted_sum
from model.attention.normalizers.base import OnlineNormalizer
from model.attention.parts import (
  AttentionParts,
  HeadOutputs,
  Keys,
  ParamTables,
  Queries,
)
from model.attention.scores.base import group_heads


class RecurrentState(NamedTuple):
  """Recurrent state: the sums of k v^T (H x U) and of k over the past.

  They are in float32 or wider.
  """

  kv_BKHU: jax.Array
  k_BKH: jax.Array


def is_recurrence(parts: AttentionParts) -> bool:
  """Returns whether attention with these parts is a recurrence."""
  return (
    parts.normalizer.traits.linear
    and parts.score.traits.is_product
    and all(mask.traits.shape == 'past' for mask in parts.mask)
    and parts.logit_cap is None
    and not parts.position.traits.biases
    and not parts.counts
    and not any(o.traits.decays or o.traits.mixes_heads for o in parts.output)
    and parts.maps == 1
  )


def recurrent_attention(
  parts: AttentionParts,
  tables: ParamTables,
  queries: Queries,
  keys: Keys,
  past: RecurrentState,
) -> tuple[HeadOutputs, RecurrentState]:
  """Computes attention to past and new keys, and the state after the new keys.

  Memory is quadratic in the number of new positions, whose logits are all
  computed at once: a long prompt should come in several steps.
  """
  normalizer = parts.normalizer
  assert isinstance(normalizer, OnlineNormalizer)
  wide, num_kv_heads = past.k_BKH.dtype, keys.k_BSKH.shape[2]
  logits_BNTS = all_logits(parts, tables, queries, keys, None)
  mask_B1TS = visible(parts, queries, keys)
  weights_BNTS = jnp.where(mask_B1TS, logits_BNTS, 0.0)
  factor = parts.scale.factor(tables['scale'], queries.q_BTNH.shape[-1], None)
  q_BTKGH = group_heads(queries.q_BTNH, num_kv_heads).astype(wide)
  old_BTKGU = jnp.einsum('BTKGH,BKHU->BTKGU', q_BTKGH, past.kv_BKHU)
  total_BTKG = jnp.einsum('BTKGH,BKH->BTKG', q_BTKGH, past.k_BKH)
  old_BNTU = _by_head(old_BTKGU) * factor
  total_BNT1 = _by_head(total_BTKG[..., None]) * factor
  total_BNT1 += weights_BNTS.sum(-1, keepdims=True)
  out_BTNU = weighted_sum(weights_BNTS, keys.v_BSKH, wide) + jnp.moveaxis(
    old_BNTU, 1, 2
  )
  out_BTNU /= jnp.moveaxis(normalizer.divisor(total_BNT1), 1, 2)
  k_BSKH, v_BSKU = keys.k_BSKH.astype(wide), keys.v_BSKH.astype(wide)
  new = RecurrentState(
    past.kv_BKHU + jnp.einsum('BSKH,BSKU->BKHU', k_BSKH, v_BSKU),
    past.k_BKH + k_BSKH.sum(1),
  )
  return HeadOutputs(out_BTNU.astype(keys.v_BSKH.dtype), None), new


def _by_head(x_BTKGU: jax.Array) -> jax.Array:
  """Merges groups and heads, and returns x_BNTU."""
  batch, length, _, _, width = x_BTKGU.shape
  return jnp.moveaxis(x_BTKGU.reshape(batch, length, -1, width), 2, 1)
