"""Normalisers: from attention logits to attention weights.

What one is, and which have an online form, stands in `model/online.py`; those
with weights that are exactly 0 in `model/sparse.py`.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from model.online import LOWEST, Grown, Online, pinned
from model.parameter import Dims, Kind, Param, Params, param
from model.sparse import Entmax15, Hard, Relu, Relu2, Sparsemax, TopK


@dataclasses.dataclass(frozen=True)
class Softmax(Online, tag='softmax'):
  """exp(logits) / sum exp(logits) over the keys (Bahdanau et al. 2015).

  A row in which every key is masked gives zeros, with finite gradients.
  """

  exponential: ClassVar[bool] = True

  def grow(
    self,
    params: Params,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
    top_BNT1: jax.Array,
  ) -> Grown:
    """Returns exp(logits - the largest so far)."""
    del params, n_B1T1
    logits_BNTS = pinned(logits_BNTS)
    largest_BNT1 = jnp.max(
      logits_BNTS, -1, keepdims=True, where=mask_B1TS, initial=LOWEST
    )
    new_BNT1 = jax.lax.stop_gradient(jnp.maximum(top_BNT1, largest_BNT1))
    # The exponent of a masked logit must be finite: 0 times inf is not 0.
    shifted_BNTS = jnp.where(mask_B1TS, logits_BNTS - new_BNT1, 0.0)
    exp_BNTS = jnp.where(mask_B1TS, jnp.exp(shifted_BNTS), 0.0)
    return Grown(exp_BNTS, new_BNT1, jnp.exp(top_BNT1 - new_BNT1))

  def divisor(self, total_BNT1: jax.Array) -> jax.Array:
    """Returns the sum; 1 where nothing is seen."""
    return _or_1(total_BNT1)


@dataclasses.dataclass(frozen=True)
class Softmax1(Softmax, tag='softmax1'):
  """exp(logits) / (1 + sum exp(logits)): a head may do nothing (Miller 2023).

  A softmax with one more key, of logit 0 and value 0.
  """

  def start(self, params: Params, row_BNT1: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the logit 0, seen once."""
    del params
    return jnp.zeros_like(row_BNT1), jnp.ones_like(row_BNT1)


@dataclasses.dataclass(frozen=True)
class Sink(Softmax, tag='sink'):
  """exp(logits) / (exp(b) + sum exp(logits)), b of a head (arXiv:2508.10925).

  A learned sink (Xiao et al. 2024, arXiv:2309.17453, section 3.3) without a
  value, as in gpt-oss (OpenAI 2025).
  """

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the logit of the sink of each head, from 0."""
    return {'sink': param('->N', Kind.BIAS, dims)}

  def start(self, params: Params, row_BNT1: jax.Array) -> tuple[jax.Array, ...]:
    """Returns the logit of the sink, seen once."""
    sink_N11 = params['sink'][:, None, None].astype(row_BNT1.dtype)
    sink_BNT1 = jnp.broadcast_to(sink_N11, row_BNT1.shape)
    top_BNT1 = jax.lax.stop_gradient(sink_BNT1)
    return top_BNT1, jnp.exp(sink_BNT1 - top_BNT1)


@dataclasses.dataclass(frozen=True)
class Sigmoid(Online, tag='sigmoid'):
  """sigmoid(logits - log n), each key by itself (Ramapuram et al. 2024).

  arXiv:2409.04431, section 3.1.  Departure: n is the number of keys that the
  query sees and not the length of the context, so that what follows a position
  does not change it.
  """

  counts: ClassVar[bool] = True
  exponential: ClassVar[bool] = True

  def grow(
    self,
    params: Params,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
    top_BNT1: jax.Array,
  ) -> Grown:
    """Returns sigmoid(logits - log n)."""
    del params
    assert n_B1T1 is not None
    log_n_B1T1 = jnp.log(jnp.maximum(n_B1T1, 1).astype(logits_BNTS.dtype))
    weights_BNTS = jax.nn.sigmoid(logits_BNTS - log_n_B1T1)
    return Grown(
      jnp.where(mask_B1TS, weights_BNTS, 0.0), top_BNT1, jnp.ones_like(top_BNT1)
    )


@dataclasses.dataclass(frozen=True)
class Unnormalized(Online, tag='none'):
  """The logits themselves are the weights: linear attention.

  (von Oswald et al. 2023, arXiv:2212.07677.)
  """

  linear: ClassVar[bool] = True

  def grow(
    self,
    params: Params,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
    top_BNT1: jax.Array,
  ) -> Grown:
    """Returns the logits."""
    del params, n_B1T1
    return Grown(
      jnp.where(mask_B1TS, logits_BNTS, 0.0), top_BNT1, jnp.ones_like(top_BNT1)
    )


@dataclasses.dataclass(frozen=True)
class Elu(Unnormalized, tag='elu'):
  """phi(q) . phi(k) / sum, phi = elu + 1 (Katharopoulos et al. 2020).

  Linear attention (arXiv:2006.16236, equations 4 and 7).  phi is of queries and
  keys after rotation, so that no similarity is negative.
  """

  similarity: ClassVar[bool] = True

  def features(self, x_BTNH: jax.Array) -> jax.Array:
    """Returns phi(x), which is exp(x) below 0 and x + 1 above."""
    return jnp.where(x_BTNH > 0, x_BTNH + 1, jnp.exp(jnp.minimum(x_BTNH, 0)))

  def divisor(self, total_BNT1: jax.Array) -> jax.Array:
    """Returns the sum; 1 where nothing is seen."""
    return _or_1(total_BNT1)


def _or_1(total_BNT1: jax.Array) -> jax.Array:
  """Returns a sum to divide by; of nothing it is 0."""
  return jnp.where(total_BNT1 == 0.0, 1.0, total_BNT1)


Normalizer = (
  Softmax
  | Softmax1
  | Sink
  | Sigmoid
  | Unnormalized
  | Elu
  | Relu
  | Relu2
  | Sparsemax
  | Entmax15
  | TopK
  | Hard
)
