"""Base classes of normalisers, from attention logits to attention weights.

A normaliser has a method `weights(params, logits_BNTS, mask, n)`.  If a weight
is a function of its own logit, divided by one number per query, it also has an
*online form* (Milakov & Gimelshein 2018, arXiv:1805.02867).  The chunked
backend runs that form along the keys, and never holds all logits:

  top, total = start
  for each chunk of keys:
    weights, top, fade = grow(logits, mask, n, top)
    out, total = fade * (out, total) + weights (v, 1)
  out / divisor(total)

`OnlineNormalizer` derives `weights` from this form, with all keys in one chunk,
so that both agree.  Other normalisers define `weights` alone.  Those with an
online form are in `dense.py`, the others in `sparse.py`.
"""

import abc
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from model.core.field import FieldError
from model.core.parameter import ParametricVariant, PartParams

# A logit below all others, whose exponential is exactly 0.  Unlike with -inf,
# its difference from itself is 0 and not NaN.
LOWEST = -1e30


@jax.custom_jvp
def fusion_barrier(logits_BNTS: jax.Array) -> jax.Array:
  """Returns the logits unchanged, but keeps XLA from fusing across them.

  XLA recomputes logits in each loop that reads them, and may fuse their last
  product with a subtraction that follows, which then rounds once in place of
  twice.  So the largest logit may differ from itself: by 1e-6 at logits of 10,
  and by 500 at 1e10, where exp overflows.  XLA does not fuse a product with a
  subtraction across a maximum, and this maximum changes no logit.
  """
  return jnp.maximum(logits_BNTS, LOWEST)


@fusion_barrier.defjvp
def _fusion_barrier_jvp(
  primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
  return fusion_barrier(*primals), tangents[0]


class NormalizerTraits(NamedTuple):
  """Properties of a normaliser that the rules read.

  Attributes:
    counts: it depends on the number of keys that a query sees.
    exponential: adding to a logit multiplies its weight.
    linear: weights, before they are divided, are the masked logits, so with a
      dot score the past can be summed in one matrix.
    similarity: weights are products of features of queries and keys over their
      sum; they must be positive, so nothing else may change the logits.
    rectifies: a key whose logit is at most 0 has no weight.
    is_softmax: it is the softmax, which kernels compute.
  """

  counts: bool = False
  exponential: bool = False
  linear: bool = False
  similarity: bool = False
  rectifies: bool = False
  is_softmax: bool = False


class NormalizerBase(ParametricVariant, abc.ABC):
  """Base of all normalisers."""

  traits: ClassVar[NormalizerTraits] = NormalizerTraits()

  def features(self, x_BTNH: jax.Array) -> jax.Array:
    """Maps rotated queries or keys to the features that the score reads."""
    return x_BTNH

  def problem(self, count: int, flag: str) -> FieldError | None:
    """Returns an error if the variant has no effect, else `None`.

    Args:
      count: largest number of keys that a query sees.
      flag: flag that sets this number, for the message.
    """
    del count, flag
    return None

  @abc.abstractmethod
  def weights(
    self,
    params: PartParams,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
  ) -> jax.Array:
    """Returns the attention weights; those of masked keys are 0.

    Args:
      params: the parameters that `params(dims)` lists.
      logits_BNTS: scaled, capped and biased logits, in float32 or wider.
      mask_B1TS: True where a query sees a key; a query may see none.
      n_B1T1: number of keys that each query sees; `None` unless the traits have
        `counts`.
    """


class ChunkUpdate(NamedTuple):
  """Update of the online form by one chunk of keys.

  Attributes:
    weights_BNTS: weights of the keys of the chunk, before division.
    top_BNT1: largest logit so far.
    fade_BNT1: factor of the weights of earlier chunks.
  """

  weights_BNTS: jax.Array
  top_BNT1: jax.Array
  fade_BNT1: jax.Array


class OnlineNormalizer(NormalizerBase):
  """Base of normalisers with an online form."""

  def start(
    self, params: PartParams, row_BNT1: jax.Array
  ) -> tuple[jax.Array, ...]:
    """Returns the initial (top, total), in the shape of `row_BNT1`."""
    del params
    return jnp.full_like(row_BNT1, LOWEST), jnp.zeros_like(row_BNT1)

  @abc.abstractmethod
  def grow(
    self,
    params: PartParams,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
    top_BNT1: jax.Array,
  ) -> ChunkUpdate:
    """Returns the update by a chunk of keys; weights of masked keys are 0."""

  def divisor(self, total_BNT1: jax.Array) -> jax.Array:
    """Returns the divisor of the sum over all keys, given the total weight."""
    return jnp.ones_like(total_BNT1)

  def weights(
    self,
    params: PartParams,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
  ) -> jax.Array:
    """Returns the attention weights; those of masked keys are 0."""
    top_BNT1, total_BNT1 = self.start(params, logits_BNTS[..., :1])
    grown = self.grow(params, logits_BNTS, mask_B1TS, n_B1T1, top_BNT1)
    total_BNT1 = total_BNT1 * grown.fade_BNT1
    total_BNT1 += grown.weights_BNTS.sum(-1, keepdims=True)
    return grown.weights_BNTS / self.divisor(total_BNT1)
