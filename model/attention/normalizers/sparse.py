"""Sparse normalisers, which compare the logits of all keys of a query.

They have no online form; those that have one are in `dense.py`.
"""

import dataclasses

import jax
import jax.numpy as jnp

from model.attention.normalizers.base import (
  LOWEST,
  NormalizerBase,
  fusion_barrier,
)
from model.core.field import FieldError, field
from model.core.limits import COUNT
from model.core.parameter import PartParams


@dataclasses.dataclass(frozen=True)
class Sparsemax(NormalizerBase, tag='sparsemax'):
  """The nearest probabilities to the logits (Martins & Astudillo 2016).

  max(0, z - tau), with tau such that weights sum to 1 (arXiv:1602.02068,
  algorithm 1, by sorting).  A query whose keys are all masked gets zeros.
  """

  def weights(
    self,
    params: PartParams,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
  ) -> jax.Array:
    """Returns max(0, z - tau)."""
    del params, n_B1T1
    return _sparsemax(logits_BNTS, mask_B1TS)


@dataclasses.dataclass(frozen=True)
class Entmax15(NormalizerBase, tag='entmax15'):
  """max(0, z / 2 - tau)^2 that sums to 1 (Peters et al. 2019).

  Between softmax and sparsemax (arXiv:1905.05702, algorithm 2: exact, by
  sorting).  A query whose keys are all masked gets zeros.
  """

  def weights(
    self,
    params: PartParams,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
  ) -> jax.Array:
    """Returns max(0, z / 2 - tau)^2."""
    del params, n_B1T1
    return _entmax15(logits_BNTS, mask_B1TS)


@dataclasses.dataclass(frozen=True)
class TopK(NormalizerBase, tag='topk'):
  """The softmax over the k largest logits (Gupta et al. 2021).

  arXiv:2106.06899, section 2.  Among equal logits, the first keys count.
  """

  k: int = field(8, 'Keys that each query attends to.', min=1, max=COUNT)

  def problem(self, count: int, flag: str) -> FieldError | None:
    """Returns an error if k covers all keys, as the softmax does, or `None`."""
    if self.k < count:
      return None
    return FieldError(
      'normalizer.k',
      self.k,
      f'leaves nothing out at {flag}: make it smaller, or try '
      '--normalizer=softmax',
    )

  def weights(
    self,
    params: PartParams,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
  ) -> jax.Array:
    """Returns the softmax over the keys with the k largest logits."""
    del params, n_B1T1
    seen_BNTS = jnp.where(mask_B1TS, fusion_barrier(logits_BNTS), LOWEST)
    # By index: a comparison with the k-th logit would keep all equal ones.
    _, best_BNTX = jax.lax.top_k(
      jax.lax.stop_gradient(seen_BNTS), min(self.k, logits_BNTS.shape[-1])
    )
    chosen_BNTS = jnp.put_along_axis(
      jnp.zeros(seen_BNTS.shape, bool), best_BNTX, True, -1, inplace=False
    )
    return _softmax(seen_BNTS, mask_B1TS & chosen_BNTS)


@dataclasses.dataclass(frozen=True)
class Hard(NormalizerBase, tag='hard'):
  """1 for the largest logit, 0 for the others (Xu et al. 2015, section 4.1).

  Departure: no sampling; the gradient is that of the softmax (straight-through
  estimator, Bengio et al. 2013, arXiv:1308.3432).  The first of equals wins.
  """

  def weights(
    self,
    params: PartParams,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
  ) -> jax.Array:
    """Returns the one-hot choice, with the gradient of the softmax."""
    del params, n_B1T1
    soft_BNTS = _softmax(logits_BNTS, mask_B1TS)
    seen_BNTS = jnp.where(mask_B1TS, fusion_barrier(logits_BNTS), -jnp.inf)
    best_BNT = jnp.argmax(seen_BNTS, -1)
    hard_BNTS = jax.nn.one_hot(best_BNT, mask_B1TS.shape[-1], dtype=bool)
    hard_BNTS = (hard_BNTS & mask_B1TS).astype(soft_BNTS.dtype)
    # The difference in parentheses is exactly 0.
    return hard_BNTS + (soft_BNTS - jax.lax.stop_gradient(soft_BNTS))


# Sparsemax and entmax15 have a threshold.  Their gradients are functions of the
# weights alone (Martins & Astudillo 2016, equation 14; Peters et al. 2019,
# proposition 2), so the support is not computed a second time.

_Pair = tuple[jax.Array, jax.Array]


@jax.custom_jvp
def _sparsemax(logits_BNTS: jax.Array, mask_B1TS: jax.Array) -> jax.Array:
  """Returns the weights of `sparsemax`."""
  z_BNTS, order_BNTS = _sort_descending(logits_BNTS, mask_B1TS)
  k_S = _ranks(z_BNTS)
  tau_BNTS = (jnp.cumsum(z_BNTS, -1) - 1.0) / k_S
  support_BNTS, k_BNT1 = _support(z_BNTS, tau_BNTS)
  sum_BNT1 = jnp.sum(z_BNTS, -1, keepdims=True, where=support_BNTS)
  above_BNTS = jnp.maximum(z_BNTS - (sum_BNT1 - 1.0) / k_BNT1, 0.0)
  weights_BNTS = jnp.where(support_BNTS, above_BNTS, 0.0)
  return _unsort(weights_BNTS, order_BNTS, mask_B1TS)


@_sparsemax.defjvp
def _sparsemax_jvp(primals: _Pair, tangents: _Pair) -> _Pair:
  weights_BNTS = _sparsemax(*primals)
  tangent_BNTS, _ = tangents
  support_BNTS = (weights_BNTS > 0.0).astype(weights_BNTS.dtype)
  return weights_BNTS, _threshold_jvp(tangent_BNTS, support_BNTS)


@jax.custom_jvp
def _entmax15(logits_BNTS: jax.Array, mask_B1TS: jax.Array) -> jax.Array:
  """Returns the weights of `entmax15`."""
  z_BNTS, order_BNTS = _sort_descending(logits_BNTS / 2.0, mask_B1TS)
  k_S = _ranks(z_BNTS)
  mean_BNTS = jnp.cumsum(z_BNTS, -1) / k_S
  # Sum of squared deviations, of numbers between -1 and 0.
  spread_BNTS = jnp.cumsum(jnp.square(z_BNTS), -1)
  spread_BNTS -= k_S * jnp.square(mean_BNTS)
  root_BNTS = jnp.sqrt(jnp.maximum(1.0 - spread_BNTS, 0.0) / k_S)
  support_BNTS, k_BNT1 = _support(z_BNTS, mean_BNTS - root_BNTS)
  mean_BNT1 = jnp.sum(z_BNTS, -1, keepdims=True, where=support_BNTS) / k_BNT1
  centred_BNTS = jnp.where(support_BNTS, z_BNTS - mean_BNT1, 0.0)
  spread_BNT1 = jnp.sum(jnp.square(centred_BNTS), -1, keepdims=True)
  root_BNT1 = jnp.sqrt(jnp.maximum(1.0 - spread_BNT1, 0.0) / k_BNT1)
  above_BNTS = jnp.maximum(centred_BNTS + root_BNT1, 0.0)
  weights_BNTS = jnp.where(support_BNTS, jnp.square(above_BNTS), 0.0)
  return _unsort(weights_BNTS, order_BNTS, mask_B1TS)


@_entmax15.defjvp
def _entmax15_jvp(primals: _Pair, tangents: _Pair) -> _Pair:
  weights_BNTS = _entmax15(*primals)
  tangent_BNTS, _ = tangents
  support_BNTS = weights_BNTS > 0.0
  # Avoid the root of 0, whose gradient is infinite.
  root_BNTS = jnp.sqrt(jnp.where(support_BNTS, weights_BNTS, 1.0))
  return weights_BNTS, _threshold_jvp(
    tangent_BNTS, jnp.where(support_BNTS, root_BNTS, 0.0)
  )


def _threshold_jvp(tangent_BNTS: jax.Array, slope_BNTS: jax.Array) -> jax.Array:
  """Returns slope * (tangent - mean), with the mean weighted by the slope."""
  total_BNT1 = slope_BNTS.sum(-1, keepdims=True)
  share_BNTS = slope_BNTS / jnp.where(total_BNT1 == 0.0, 1.0, total_BNT1)
  mean_BNT1 = jnp.sum(share_BNTS * tangent_BNTS, -1, keepdims=True)
  return slope_BNTS * (tangent_BNTS - mean_BNT1)


def _sort_descending(logits_BNTS: jax.Array, mask_B1TS: jax.Array) -> _Pair:
  """Returns logits minus the largest visible one, sorted, and their indices.

  Logits below -1 have no weight in either normaliser, so they are raised to -1,
  masked ones too; then no sum overflows.  Callers only read the sorted logits,
  which XLA computes once.
  """
  seen_BNTS = jnp.where(mask_B1TS, fusion_barrier(logits_BNTS), LOWEST)
  place_BNTS = jax.lax.broadcasted_iota(
    jnp.int32, seen_BNTS.shape, seen_BNTS.ndim - 1
  )
  negative_BNTS, order_BNTS = jax.lax.sort(
    (-seen_BNTS, place_BNTS), dimension=-1, num_keys=1, is_stable=True
  )
  shifted_BNTS = negative_BNTS[..., :1] - negative_BNTS
  return jnp.maximum(shifted_BNTS, -1.0), order_BNTS


def _unsort(
  weights_BNTS: jax.Array, order_BNTS: jax.Array, mask_B1TS: jax.Array
) -> jax.Array:
  """Moves weights from sorted order back to their keys; 0 if masked."""
  weights_BNTS = jnp.put_along_axis(
    jnp.zeros_like(weights_BNTS), order_BNTS, weights_BNTS, -1, inplace=False
  )
  return jnp.where(mask_B1TS, weights_BNTS, 0.0)


def _ranks(z_BNTS: jax.Array) -> jax.Array:
  """Returns k = 1 ... S."""
  return jnp.arange(1, z_BNTS.shape[-1] + 1, dtype=z_BNTS.dtype)


def _support(z_BNTS: jax.Array, tau_BNTS: jax.Array) -> _Pair:
  """Returns which of the sorted keys have weight, and their number, at least 1.

  Entry k of tau is the threshold if the k largest logits have weight.  The
  support is the largest k whose logit is above its threshold.  Logits that were
  raised to -1 have no weight.
  """
  above_BNTS = (z_BNTS > tau_BNTS) & (z_BNTS > -1.0)
  k_BNT1 = jnp.maximum(above_BNTS.sum(-1, keepdims=True), 1)
  support_BNTS = _ranks(z_BNTS) <= k_BNT1
  return support_BNTS, k_BNT1.astype(z_BNTS.dtype)


def _softmax(logits_BNTS: jax.Array, mask_B1TS: jax.Array) -> jax.Array:
  """Returns the softmax over visible keys; zeros if there are none."""
  logits_BNTS = fusion_barrier(logits_BNTS)
  largest_BNT1 = jnp.max(
    logits_BNTS, -1, keepdims=True, where=mask_B1TS, initial=LOWEST
  )
  largest_BNT1 = jax.lax.stop_gradient(largest_BNT1)
  shifted_BNTS = jnp.where(mask_B1TS, logits_BNTS - largest_BNT1, 0.0)
  exp_BNTS = jnp.where(mask_B1TS, jnp.exp(shifted_BNTS), 0.0)
  total_BNT1 = exp_BNTS.sum(-1, keepdims=True)
  return exp_BNTS / jnp.where(total_BNT1 == 0.0, 1.0, total_BNT1)
