"""Attention as pure functions, then its parts as variants.

  weights = normalizer(mask(scale * q k^T)),  out = weights v

(Vaswani et al. 2017, section 3.2.)  Arrays in, arrays out: no framework, no
parameters of its own.  What the queries, keys and values are made of stands in
`model/projections.py`.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from model.dropout import dropout
from model.field import Variant, field


@dataclasses.dataclass(frozen=True)
class Rsqrt(Variant, tag='rsqrt'):
  """Logits / sqrt(head width) (Vaswani et al. 2017, section 3.2.1)."""

  def factor(self, head_dim: int) -> jax.Array | float:
    """Returns what the logits are multiplied by."""
    return head_dim**-0.5


@dataclasses.dataclass(frozen=True)
class NoScale(Variant, tag='none'):
  """Logits as they are; their variance grows with the head width."""

  def factor(self, head_dim: int) -> jax.Array | float:
    """Returns what the logits are multiplied by."""
    del head_dim
    return 1.0


@dataclasses.dataclass(frozen=True)
class Constant(Variant, tag='constant'):
  """Logits times a constant, whatever the head width."""

  value: float = field(0.125, 'The factor.', traced=True)

  def factor(self, head_dim: int) -> jax.Array | float:
    """Returns what the logits are multiplied by."""
    del head_dim
    return self.value


Scale = Rsqrt | NoScale | Constant


@dataclasses.dataclass(frozen=True)
class Softmax(Variant, tag='softmax'):
  """exp(logits) / sum exp(logits) over the keys (Bahdanau et al. 2015).

  A row in which every key is masked gives zeros, with finite gradients.
  """

  def weights(self, logits_BNTS: jax.Array, mask_TS: jax.Array) -> jax.Array:
    """Returns the attention weights."""
    top_BNT1 = jnp.max(
      logits_BNTS, -1, keepdims=True, where=mask_TS, initial=-1e30
    )
    # The exponent of a masked logit must be finite: 0 times inf is not 0.
    shifted_BNTS = jnp.where(
      mask_TS, logits_BNTS - jax.lax.stop_gradient(top_BNT1), 0.0
    )
    exp_BNTS = jnp.where(mask_TS, jnp.exp(shifted_BNTS), 0.0)
    total_BNT1 = exp_BNTS.sum(-1, keepdims=True)
    return exp_BNTS / jnp.where(total_BNT1 == 0.0, 1.0, total_BNT1)


@dataclasses.dataclass(frozen=True)
class Unnormalized(Variant, tag='none'):
  """The logits themselves are the weights: linear attention.

  (von Oswald et al. 2023, arXiv:2212.07677.)
  """

  def weights(self, logits_BNTS: jax.Array, mask_TS: jax.Array) -> jax.Array:
    """Returns the attention weights."""
    return jnp.where(mask_TS, logits_BNTS, 0.0)


Normalizer = Softmax | Unnormalized


class Attended(NamedTuple):
  """What attention returns: values mixed, and by which weights."""

  out_BTNH: jax.Array
  weights_BNTS: jax.Array


def attend(
  q_BTNH: jax.Array,
  k_BSNH: jax.Array,
  v_BSNH: jax.Array,
  mask_TS: jax.Array,
  scale: Scale,
  normalizer: Normalizer,
  dropout_rate: float = 0.0,
  keys_B: jax.Array | None = None,
) -> Attended:
  """Returns normalizer(mask(scale * q k^T)) v.

  Logits and weights are in float32 at least; weights meet the values in the
  type of the values.  The weights returned are those before dropout.

  Args:
    q_BTNH: queries.
    k_BSNH: keys.
    v_BSNH: values.
    mask_TS: True where the query at t may attend to the key at s.
    scale: factor of the logits.
    normalizer: logits to weights.
    dropout_rate: dropout of the weights, by `keys_B`, one key an example.
    keys_B: none switches dropout off.
  """
  wide = jnp.promote_types(q_BTNH.dtype, jnp.float32)
  logits_BNTS = jnp.einsum(
    'BTNH,BSNH->BNTS', q_BTNH, k_BSNH, preferred_element_type=wide
  )
  logits_BNTS = logits_BNTS * scale.factor(q_BTNH.shape[-1])
  weights_BNTS = normalizer.weights(logits_BNTS, mask_TS)
  kept_BNTS = dropout(weights_BNTS, dropout_rate, keys_B).astype(v_BSNH.dtype)
  out_BTNH = jnp.einsum('BNTS,BSNH->BTNH', kept_BNTS, v_BSNH)
  return Attended(out_BTNH, weights_BNTS)
