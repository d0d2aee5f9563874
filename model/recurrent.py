"""Linear attention as a recurrence: a matrix a head instead of all past keys.

Where weights are logits, and logits products of queries and keys, all keys of
the past add up (Katharopoulos et al. 2020, arXiv:2006.16236, section 3.4):

  out_t = f q_t (k_1 v_1^T + ... + k_t v_t^T) / divisor(f q_t (k_1 + ... + k_t))
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from model.attention import Attended, Keys, Parts, Queries, Tables, mix, visible
from model.attention import logits as all_logits
from model.mask import Causal
from model.online import Online
from model.score import Dot, grouped


class State(NamedTuple):
  """Sums over the past, in float32: of k v^T (H times U) and of k."""

  kv_BKHU: jax.Array
  k_BKH: jax.Array


def recurs(parts: Parts) -> bool:
  """Returns whether attention is a recurrence over such a state."""
  return (
    parts.normalizer.linear
    and type(parts.score) is Dot
    and all(isinstance(mask, Causal) for mask in parts.mask)
    and parts.logit_cap is None
    and not parts.position.biases
    and not parts.counts
    and not any(output.fades or output.mixes_heads for output in parts.output)
    and parts.maps == 1
  )


def recur(
  parts: Parts, tables: Tables, queries: Queries, keys: Keys, past: State
) -> tuple[Attended, State]:
  """Returns attention to the past and to new keys, and the state behind them.

  Among the new positions all logits are computed, so give a long prompt in
  several steps.
  """
  normalizer = parts.normalizer
  assert isinstance(normalizer, Online)
  wide, num_kv_heads = past.k_BKH.dtype, keys.k_BSKH.shape[2]
  logits_BNTS = all_logits(parts, tables, queries, keys, None)
  mask_B1TS = visible(parts, queries, keys)
  weights_BNTS = jnp.where(mask_B1TS, logits_BNTS, 0.0)
  factor = parts.scale.factor(tables['scale'], queries.q_BTNH.shape[-1], None)
  q_BTKGH = grouped(queries.q_BTNH, num_kv_heads).astype(wide)
  old_BTKGU = jnp.einsum('BTKGH,BKHU->BTKGU', q_BTKGH, past.kv_BKHU)
  total_BTKG = jnp.einsum('BTKGH,BKH->BTKG', q_BTKGH, past.k_BKH)
  old_BNTU = _by_head(old_BTKGU) * factor
  total_BNT1 = _by_head(total_BTKG[..., None]) * factor
  total_BNT1 += weights_BNTS.sum(-1, keepdims=True)
  out_BTNU = mix(weights_BNTS, keys.v_BSKH, wide) + jnp.moveaxis(old_BNTU, 1, 2)
  out_BTNU /= jnp.moveaxis(normalizer.divisor(total_BNT1), 1, 2)
  k_BSKH, v_BSKU = keys.k_BSKH.astype(wide), keys.v_BSKH.astype(wide)
  new = State(
    past.kv_BKHU + jnp.einsum('BSKH,BSKU->BKHU', k_BSKH, v_BSKU),
    past.k_BKH + k_BSKH.sum(1),
  )
  return Attended(out_BTNU.astype(keys.v_BSKH.dtype), None), new


def _by_head(x_BTKGU: jax.Array) -> jax.Array:
  """Returns x_BNTU."""
  batch, length, _, _, width = x_BTKGU.shape
  return jnp.moveaxis(x_BTKGU.reshape(batch, length, -1, width), 2, 1)
