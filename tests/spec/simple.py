"""Attention of given queries, keys and values, without a block around it."""

from typing import Any

import jax
import jax.numpy as jnp

from model.attention.composed import weighted_sum
from model.attention.parts import HeadOutputs
from model.attention.scale import ScaleBase
from model.attention.scores.base import Dot


def attend(
  q_BTNH: Any,
  k_BSKH: Any,
  v_BSKH: Any,
  mask_TS: Any,
  scale: ScaleBase,
  normalizer: Any,
) -> HeadOutputs:
  """Returns normalizer(mask(scale * q k^T)) v; a sink has the logit 0."""
  num_heads, head_dim = q_BTNH.shape[2:]
  mask_B1TS = jnp.asarray(mask_TS)[None, None]
  n_B1T1 = mask_B1TS.sum(-1, keepdims=True)
  position_T = jnp.arange(q_BTNH.shape[1])
  position_S = jnp.arange(k_BSKH.shape[1])
  logits_BNTS = Dot().logits({}, q_BTNH, k_BSKH, q_BTNH, position_T, position_S)
  logits_BNTS = logits_BNTS * scale.factor({}, head_dim, n_B1T1)
  params = {'sink': jnp.zeros(num_heads)}
  weights_BNTS = normalizer.weights(params, logits_BNTS, mask_B1TS, n_B1T1)
  v: jax.Array = jnp.asarray(v_BSKH)
  return HeadOutputs(weighted_sum(weights_BNTS, v, v.dtype), weights_BNTS)
