"""Normalisers that give some keys no weight at all.

`Relu` and its square judge each key by itself, and so have an online form; the
others need all logits of a query at once.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from model.field import FieldError, field
from model.limits import COUNT
from model.online import LOWEST, Grown, Online, Rule, pinned
from model.parameter import Params


@dataclasses.dataclass(frozen=True)
class Relu(Online, tag='relu'):
  """max(0, logits) / n, each key by itself (Wortsman et al. 2023).

  arXiv:2309.08586, section 3.  Departure: n is the number of keys that the
  query sees and not the length of the context, as for `sigmoid`.
  """

  counts: ClassVar[bool] = True
  rectifies: ClassVar[bool] = True

  def grow(
    self,
    params: Params,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
    top_BNT1: jax.Array,
  ) -> Grown:
    """Returns max(0, logits) / n."""
    del params
    assert n_B1T1 is not None
    n_B1T1 = jnp.maximum(n_B1T1, 1).astype(logits_BNTS.dtype)
    seen_BNTS = jnp.where(mask_B1TS, jax.nn.relu(logits_BNTS), 0.0)
    return Grown(seen_BNTS / n_B1T1, top_BNT1, jnp.ones_like(top_BNT1))


@dataclasses.dataclass(frozen=True)
class Relu2(Relu, tag='relu2'):
  """max(0, logits)^2 / n (Hua et al. 2022, arXiv:2202.10447, section 2.2).

  The squared ReLU is that of So et al. 2021 (arXiv:2109.08668).  Departure: n
  as for `relu`.
  """

  def grow(
    self,
    params: Params,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
    top_BNT1: jax.Array,
  ) -> Grown:
    """Returns max(0, logits)^2 / n."""
    grown = super().grow(params, logits_BNTS, mask_B1TS, n_B1T1, top_BNT1)
    return grown._replace(
      weights_BNTS=grown.weights_BNTS * jax.nn.relu(logits_BNTS)
    )


@dataclasses.dataclass(frozen=True)
class Sparsemax(Rule, tag='sparsemax'):
  """The nearest probabilities to the logits (Martins & Astudillo 2016).

  max(0, z - tau), tau such that they add up to 1 (arXiv:1602.02068, algorithm
  1, by sorting).  A row in which every key is masked gives zeros.
  """

  def weights(
    self,
    params: Params,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
  ) -> jax.Array:
    """Returns max(0, z - tau)."""
    del params, n_B1T1
    return _nearest(logits_BNTS, mask_B1TS)


@dataclasses.dataclass(frozen=True)
class Entmax15(Rule, tag='entmax15'):
  """max(0, z / 2 - tau)^2 that adds up to 1 (Peters et al. 2019).

  Between softmax and sparsemax (arXiv:1905.05702, algorithm 2: exact, by
  sorting).  A row in which every key is masked gives zeros.
  """

  def weights(
    self,
    params: Params,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
  ) -> jax.Array:
    """Returns max(0, z / 2 - tau)^2."""
    del params, n_B1T1
    return _between(logits_BNTS, mask_B1TS)


@dataclasses.dataclass(frozen=True)
class TopK(Rule, tag='topk'):
  """The softmax over the k largest logits (Gupta et al. 2021).

  arXiv:2106.06899, section 2.  Of equals the first.
  """

  k: int = field(8, 'Keys that each query attends to.', min=1, max=COUNT)

  def problem(self, count: int, flag: str) -> FieldError | None:
    """Returns why this is the softmax over so few keys, if it is."""
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
    params: Params,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
  ) -> jax.Array:
    """Returns the softmax over the keys with the k largest logits."""
    del params, n_B1T1
    seen_BNTS = jnp.where(mask_B1TS, pinned(logits_BNTS), LOWEST)
    # By place: of equals, a comparison with the k-th would keep all.
    _, best_BNTX = jax.lax.top_k(
      jax.lax.stop_gradient(seen_BNTS), min(self.k, logits_BNTS.shape[-1])
    )
    chosen_BNTS = jnp.put_along_axis(
      jnp.zeros(seen_BNTS.shape, bool), best_BNTX, True, -1, inplace=False
    )
    return _softmax(seen_BNTS, mask_B1TS & chosen_BNTS)


@dataclasses.dataclass(frozen=True)
class Hard(Rule, tag='hard'):
  """1 for the largest logit, 0 for the others (Xu et al. 2015, section 4.1).

  Departure: no sampling; the gradient is that of the softmax, straight through
  the choice (Bengio et al. 2013, arXiv:1308.3432).  Of equals the first.
  """

  def weights(
    self,
    params: Params,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
  ) -> jax.Array:
    """Returns the choice, with the gradient of the softmax."""
    del params, n_B1T1
    soft_BNTS = _softmax(logits_BNTS, mask_B1TS)
    seen_BNTS = jnp.where(mask_B1TS, pinned(logits_BNTS), -jnp.inf)
    best_BNT = jnp.argmax(seen_BNTS, -1)
    hard_BNTS = jax.nn.one_hot(best_BNT, mask_B1TS.shape[-1], dtype=bool)
    hard_BNTS = (hard_BNTS & mask_B1TS).astype(soft_BNTS.dtype)
    # The difference first: it is exactly 0.
    return hard_BNTS + (soft_BNTS - jax.lax.stop_gradient(soft_BNTS))


# The two with a threshold.  Their gradients are functions of the weights alone
# (Martins & Astudillo 2016, equation 14; Peters et al. 2019, proposition 2), so
# that no second comparison of logits decides again which keys have weight.

_Two = tuple[jax.Array, jax.Array]


@jax.custom_jvp
def _nearest(logits_BNTS: jax.Array, mask_B1TS: jax.Array) -> jax.Array:
  """Returns the weights of sparsemax."""
  z_BNTS, order_BNTS = _descending(logits_BNTS, mask_B1TS)
  k_S = _ranks(z_BNTS)
  tau_BNTS = (jnp.cumsum(z_BNTS, -1) - 1.0) / k_S
  held_BNTS, k_BNT1 = _support(z_BNTS, tau_BNTS)
  sum_BNT1 = jnp.sum(z_BNTS, -1, keepdims=True, where=held_BNTS)
  above_BNTS = jnp.maximum(z_BNTS - (sum_BNT1 - 1.0) / k_BNT1, 0.0)
  weights_BNTS = jnp.where(held_BNTS, above_BNTS, 0.0)
  return _in_place(weights_BNTS, order_BNTS, mask_B1TS)


@_nearest.defjvp
def _nearest_jvp(primals: _Two, tangents: _Two) -> _Two:
  weights_BNTS = _nearest(*primals)
  moved_BNTS, _ = tangents
  held_BNTS = (weights_BNTS > 0.0).astype(weights_BNTS.dtype)
  return weights_BNTS, _apart(moved_BNTS, held_BNTS)


@jax.custom_jvp
def _between(logits_BNTS: jax.Array, mask_B1TS: jax.Array) -> jax.Array:
  """Returns the weights of entmax15."""
  z_BNTS, order_BNTS = _descending(logits_BNTS / 2.0, mask_B1TS)
  k_S = _ranks(z_BNTS)
  mean_BNTS = jnp.cumsum(z_BNTS, -1) / k_S
  # Sum of squares less k mean^2, of numbers between -1 and 0.
  spread_BNTS = jnp.cumsum(jnp.square(z_BNTS), -1)
  spread_BNTS -= k_S * jnp.square(mean_BNTS)
  root_BNTS = jnp.sqrt(jnp.maximum(1.0 - spread_BNTS, 0.0) / k_S)
  held_BNTS, k_BNT1 = _support(z_BNTS, mean_BNTS - root_BNTS)
  mean_BNT1 = jnp.sum(z_BNTS, -1, keepdims=True, where=held_BNTS) / k_BNT1
  apart_BNTS = jnp.where(held_BNTS, z_BNTS - mean_BNT1, 0.0)
  spread_BNT1 = jnp.sum(jnp.square(apart_BNTS), -1, keepdims=True)
  root_BNT1 = jnp.sqrt(jnp.maximum(1.0 - spread_BNT1, 0.0) / k_BNT1)
  above_BNTS = jnp.maximum(apart_BNTS + root_BNT1, 0.0)
  weights_BNTS = jnp.where(held_BNTS, jnp.square(above_BNTS), 0.0)
  return _in_place(weights_BNTS, order_BNTS, mask_B1TS)


@_between.defjvp
def _between_jvp(primals: _Two, tangents: _Two) -> _Two:
  weights_BNTS = _between(*primals)
  moved_BNTS, _ = tangents
  held_BNTS = weights_BNTS > 0.0
  # The slope of a root at 0 is infinite.
  root_BNTS = jnp.sqrt(jnp.where(held_BNTS, weights_BNTS, 1.0))
  return weights_BNTS, _apart(moved_BNTS, jnp.where(held_BNTS, root_BNTS, 0.0))


def _apart(moved_BNTS: jax.Array, slope_BNTS: jax.Array) -> jax.Array:
  """Returns how weights move: slope (moved - mean of moved by slope)."""
  total_BNT1 = slope_BNTS.sum(-1, keepdims=True)
  share_BNTS = slope_BNTS / jnp.where(total_BNT1 == 0.0, 1.0, total_BNT1)
  mean_BNT1 = jnp.sum(share_BNTS * moved_BNTS, -1, keepdims=True)
  return slope_BNTS * (moved_BNTS - mean_BNT1)


def _descending(logits_BNTS: jax.Array, mask_B1TS: jax.Array) -> _Two:
  """Returns logits less the largest that is seen, sorted, and their places.

  All that follows reads what was sorted, which is computed once.  Below -1 no
  key has weight, in `sparsemax` as in `entmax15`: so all are cut there, masked
  ones too, and no sum of them overflows.
  """
  seen_BNTS = jnp.where(mask_B1TS, pinned(logits_BNTS), LOWEST)
  place_BNTS = jax.lax.broadcasted_iota(
    jnp.int32, seen_BNTS.shape, seen_BNTS.ndim - 1
  )
  falling_BNTS, order_BNTS = jax.lax.sort(
    (-seen_BNTS, place_BNTS), dimension=-1, num_keys=1, is_stable=True
  )
  shifted_BNTS = falling_BNTS[..., :1] - falling_BNTS
  return jnp.maximum(shifted_BNTS, -1.0), order_BNTS


def _in_place(
  weights_BNTS: jax.Array, order_BNTS: jax.Array, mask_B1TS: jax.Array
) -> jax.Array:
  """Returns weights of sorted keys where the keys stand; 0 if masked."""
  weights_BNTS = jnp.put_along_axis(
    jnp.zeros_like(weights_BNTS), order_BNTS, weights_BNTS, -1, inplace=False
  )
  return jnp.where(mask_B1TS, weights_BNTS, 0.0)


def _ranks(z_BNTS: jax.Array) -> jax.Array:
  """Returns k = 1 ... S."""
  return jnp.arange(1, z_BNTS.shape[-1] + 1, dtype=z_BNTS.dtype)


def _support(z_BNTS: jax.Array, tau_BNTS: jax.Array) -> _Two:
  """Returns which of the sorted keys have weight, and how many, at least 1.

  tau holds the threshold if the k largest had weight: k is right if they are
  above it, and the largest such k is the one.  A key at the cut has none.
  """
  above_BNTS = (z_BNTS > tau_BNTS) & (z_BNTS > -1.0)
  k_BNT1 = jnp.maximum(above_BNTS.sum(-1, keepdims=True), 1)
  held_BNTS = _ranks(z_BNTS) <= k_BNT1
  return held_BNTS, k_BNT1.astype(z_BNTS.dtype)


def _softmax(logits_BNTS: jax.Array, mask_B1TS: jax.Array) -> jax.Array:
  """Returns the softmax over what is seen; zeros where nothing is."""
  logits_BNTS = pinned(logits_BNTS)
  largest_BNT1 = jnp.max(
    logits_BNTS, -1, keepdims=True, where=mask_B1TS, initial=LOWEST
  )
  largest_BNT1 = jax.lax.stop_gradient(largest_BNT1)
  shifted_BNTS = jnp.where(mask_B1TS, logits_BNTS - largest_BNT1, 0.0)
  exp_BNTS = jnp.where(mask_B1TS, jnp.exp(shifted_BNTS), 0.0)
  total_BNT1 = exp_BNTS.sum(-1, keepdims=True)
  return exp_BNTS / jnp.where(total_BNT1 == 0.0, 1.0, total_BNT1)
