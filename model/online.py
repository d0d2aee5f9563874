"""What a normaliser is: from attention logits to attention weights.

A normaliser gives `weights(params, logits_BNTS, mask, n)`.  One whose weights
are a sum over keys divided by a number of the query has an *online form*
besides (Milakov & Gimelshein 2018, arXiv:1805.02867), which the chunked backend
runs along the keys without ever holding all logits:

  top, total = start
  for each chunk of keys:
    weights, top, fade = grow(logits, mask, n, top)
    out, total = fade * (out, total) + weights (v, 1)
  out / divisor(total)

`Online` derives `weights` from that form with all keys in one chunk, so that
both are one piece of mathematics.  Others give `weights` alone.  The members
stand in `model/normalizer.py`.
"""

import abc
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from model.field import FieldError
from model.parameter import Params, Part

# A logit below all others whose exponential is exactly 0, but whose difference
# from another such is 0 and not NaN.
LOWEST = -1e30


@jax.custom_jvp
def pinned(logits_BNTS: jax.Array) -> jax.Array:
  """Returns the logits, rounded alike wherever they are computed.

  XLA computes logits again in each loop that reads them, and there makes one
  instruction of their last product and what is subtracted from it, which
  rounds once and not twice.  The largest of them is then not equal to itself:
  by 1e-6 at logits of 10, and by 500 at 1e10, where exp overflows.  No
  instruction reaches across a maximum, which changes no logit.
  """
  return jnp.maximum(logits_BNTS, LOWEST)


@pinned.defjvp
def _pinned_jvp(
  primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
  return pinned(*primals), tangents[0]


class Rule(Part, abc.ABC):
  """Base of all normalisers.

  Attributes:
    counts: they read how many keys each query sees.
    exponential: a bias of the logits is a factor of the weights.
    linear: the weights, before they are divided, are the masked logits, so that
      with a dot score all keys of the past add up to one matrix.
    similarity: the weights are products of features of queries and keys over
      their sum, and must stay positive: nothing else may be done to logits.
    rectifies: a key whose logit is not above 0 has no weight, whatever the
      other logits are.
  """

  counts: ClassVar[bool] = False
  exponential: ClassVar[bool] = False
  linear: ClassVar[bool] = False
  similarity: ClassVar[bool] = False
  rectifies: ClassVar[bool] = False

  def features(self, x_BTNH: jax.Array) -> jax.Array:
    """Returns queries or keys, after rotation, as the score is to see them."""
    return x_BTNH

  def problem(self, count: int, flag: str) -> FieldError | None:
    """Returns why the variant has no effect, if it has none.

    Args:
      count: keys that a query sees at most.
      flag: that says so.
    """
    del count, flag
    return None

  @abc.abstractmethod
  def weights(
    self,
    params: Params,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
  ) -> jax.Array:
    """Returns the attention weights; those of masked keys are 0.

    Args:
      params: as `params(dims)` lists them.
      logits_BNTS: scaled, capped and biased, in float32 at least.
      mask_B1TS: True where a query sees a key; a row may see none.
      n_B1T1: how many keys each query sees; none unless `counts`.
    """


class Grown(NamedTuple):
  """What a chunk of keys adds, and what is left of the chunks before it."""

  weights_BNTS: jax.Array
  top_BNT1: jax.Array
  fade_BNT1: jax.Array


class Online(Rule):
  """Base of normalisers with an online form."""

  def start(self, params: Params, row_BNT1: jax.Array) -> tuple[jax.Array, ...]:
    """Returns (top, total) before the first key, in the shape of a row."""
    del params
    return jnp.full_like(row_BNT1, LOWEST), jnp.zeros_like(row_BNT1)

  @abc.abstractmethod
  def grow(
    self,
    params: Params,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
    top_BNT1: jax.Array,
  ) -> Grown:
    """Returns the weights of further keys, not divided yet; 0 if masked."""

  def divisor(self, total_BNT1: jax.Array) -> jax.Array:
    """Returns what the sum over all keys is divided by."""
    return jnp.ones_like(total_BNT1)

  def weights(
    self,
    params: Params,
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
