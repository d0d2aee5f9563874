"""Normalisers with an online form, which weigh each key by its own logit.

The online form is explained in `base.py`.  Normalisers that compare the logits
of all keys are in `sparse.py`.
"""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from model.attention.normalizers.base import (
  LOWEST,
  ChunkUpdate,
  NormalizerTraits,
  OnlineNormalizer,
  fusion_barrier,
)
from model.core.parameter import Dims, Param, ParamRole, PartParams, param


class _Exponential(OnlineNormalizer):
  """Base of softmaxes; `start` may add logits before the first key."""

  traits: ClassVar[NormalizerTraits] = NormalizerTraits(exponential=True)

  def grow(
    self,
    params: PartParams,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
    top_BNT1: jax.Array,
  ) -> ChunkUpdate:
    """Returns exp(logits - top), with top the largest logit so far."""
    del params, n_B1T1
    logits_BNTS = fusion_barrier(logits_BNTS)
    largest_BNT1 = jnp.max(
      logits_BNTS, -1, keepdims=True, where=mask_B1TS, initial=LOWEST
    )
    new_BNT1 = jax.lax.stop_gradient(jnp.maximum(top_BNT1, largest_BNT1))
    # The exponent of a masked logit must be finite: 0 times inf is not 0.
    shifted_BNTS = jnp.where(mask_B1TS, logits_BNTS - new_BNT1, 0.0)
    exp_BNTS = jnp.where(mask_B1TS, jnp.exp(shifted_BNTS), 0.0)
    return ChunkUpdate(exp_BNTS, new_BNT1, jnp.exp(top_BNT1 - new_BNT1))

  def divisor(self, total_BNT1: jax.Array) -> jax.Array:
    """Returns the sum, or 1 where a query sees no key."""
    return _nonzero(total_BNT1)


@dataclasses.dataclass(frozen=True)
class Softmax(_Exponential, tag='softmax'):
  """exp(logits) / sum exp(logits) over the keys (Bahdanau et al. 2015).

  A query whose keys are all masked gets zeros, with finite gradients.
  """

  traits: ClassVar[NormalizerTraits] = NormalizerTraits(
    exponential=True, is_softmax=True
  )


@dataclasses.dataclass(frozen=True)
class Softmax1(_Exponential, tag='softmax1'):
  """exp(logits) / (1 + sum exp(logits)): a head may do nothing (Miller 2023).

  A softmax with one more key, of logit 0 and value 0.
  """

  def start(
    self, params: PartParams, row_BNT1: jax.Array
  ) -> tuple[jax.Array, ...]:
    """Returns the state after one key of logit 0."""
    del params
    return jnp.zeros_like(row_BNT1), jnp.ones_like(row_BNT1)


@dataclasses.dataclass(frozen=True)
class SinkSoftmax(_Exponential, tag='sink'):
  """exp(logits) / (exp(b) + sum exp(logits)), a b per head (arXiv:2508.10925).

  b is a trained sink (Xiao et al. 2024, arXiv:2309.17453, section 3.3) without
  a value, as in gpt-oss (OpenAI 2025).
  """

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the logit b of the sink of each head, which starts at 0."""
    return {'sink': param('->N', ParamRole.BIAS, dims)}

  def start(
    self, params: PartParams, row_BNT1: jax.Array
  ) -> tuple[jax.Array, ...]:
    """Returns the state after one key, the sink."""
    sink_N11 = params['sink'][:, None, None].astype(row_BNT1.dtype)
    sink_BNT1 = jnp.broadcast_to(sink_N11, row_BNT1.shape)
    top_BNT1 = jax.lax.stop_gradient(sink_BNT1)
    return top_BNT1, jnp.exp(sink_BNT1 - top_BNT1)


@dataclasses.dataclass(frozen=True)
class Sigmoid(OnlineNormalizer, tag='sigmoid'):
  """sigmoid(logits - log n), each key by itself (Ramapuram et al. 2024).

  arXiv:2409.04431, section 3.1.  Departure: n is the number of keys that the
  query sees, not the length of the context, so that later positions do not
  change the output.
  """

  traits: ClassVar[NormalizerTraits] = NormalizerTraits(
    counts=True, exponential=True
  )

  def grow(
    self,
    params: PartParams,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
    top_BNT1: jax.Array,
  ) -> ChunkUpdate:
    """Returns sigmoid(logits - log n)."""
    del params
    assert n_B1T1 is not None
    log_n_B1T1 = jnp.log(jnp.maximum(n_B1T1, 1).astype(logits_BNTS.dtype))
    weights_BNTS = jax.nn.sigmoid(logits_BNTS - log_n_B1T1)
    return ChunkUpdate(
      jnp.where(mask_B1TS, weights_BNTS, 0.0), top_BNT1, jnp.ones_like(top_BNT1)
    )


class _Linear(OnlineNormalizer):
  """Base of normalisers whose weights are the logits, before division."""

  traits: ClassVar[NormalizerTraits] = NormalizerTraits(linear=True)

  def grow(
    self,
    params: PartParams,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
    top_BNT1: jax.Array,
  ) -> ChunkUpdate:
    """Returns the logits, 0 where masked."""
    del params, n_B1T1
    return ChunkUpdate(
      jnp.where(mask_B1TS, logits_BNTS, 0.0), top_BNT1, jnp.ones_like(top_BNT1)
    )


@dataclasses.dataclass(frozen=True)
class Unnormalized(_Linear, tag='none'):
  """The logits themselves are the weights: linear attention.

  (von Oswald et al. 2023, arXiv:2212.07677.)
  """


@dataclasses.dataclass(frozen=True)
class Elu(_Linear, tag='elu'):
  """phi(q) . phi(k) / sum, phi = elu + 1 (Katharopoulos et al. 2020).

  Linear attention (arXiv:2006.16236, equations 4 and 7).  phi is applied after
  rotation, so that no product is negative.
  """

  traits: ClassVar[NormalizerTraits] = NormalizerTraits(
    linear=True, similarity=True
  )

  def features(self, x_BTNH: jax.Array) -> jax.Array:
    """Returns phi(x): exp(x) below 0, x + 1 above."""
    return jnp.where(x_BTNH > 0, x_BTNH + 1, jnp.exp(jnp.minimum(x_BTNH, 0)))

  def divisor(self, total_BNT1: jax.Array) -> jax.Array:
    """Returns the sum, or 1 where a query sees no key."""
    return _nonzero(total_BNT1)


class _Rectified(OnlineNormalizer):
  """Base of normalisers that give negative logits no weight."""

  traits: ClassVar[NormalizerTraits] = NormalizerTraits(
    counts=True, rectifies=True
  )

  def grow(
    self,
    params: PartParams,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
    top_BNT1: jax.Array,
  ) -> ChunkUpdate:
    """Returns max(0, logits) / n."""
    del params
    assert n_B1T1 is not None
    n_B1T1 = jnp.maximum(n_B1T1, 1).astype(logits_BNTS.dtype)
    seen_BNTS = jnp.where(mask_B1TS, jax.nn.relu(logits_BNTS), 0.0)
    return ChunkUpdate(seen_BNTS / n_B1T1, top_BNT1, jnp.ones_like(top_BNT1))


@dataclasses.dataclass(frozen=True)
class Relu(_Rectified, tag='relu'):
  """max(0, logits) / n, each key by itself (Wortsman et al. 2023).

  arXiv:2309.08586, section 3.  Departure: n is the number of keys that the
  query sees, not the length of the context, as for `sigmoid`.
  """


@dataclasses.dataclass(frozen=True)
class Relu2(_Rectified, tag='relu2'):
  """max(0, logits)^2 / n (Hua et al. 2022, arXiv:2202.10447, section 2.2).

  The squared ReLU is that of So et al. 2021 (arXiv:2109.08668).  Departure: n
  as for `relu`.
  """

  def grow(
    self,
    params: PartParams,
    logits_BNTS: jax.Array,
    mask_B1TS: jax.Array,
    n_B1T1: jax.Array | None,
    top_BNT1: jax.Array,
  ) -> ChunkUpdate:
    """Returns max(0, logits)^2 / n."""
    grown = super().grow(params, logits_BNTS, mask_B1TS, n_B1T1, top_BNT1)
    return grown._replace(
      weights_BNTS=grown.weights_BNTS * jax.nn.relu(logits_BNTS)
    )


def _nonzero(total_BNT1: jax.Array) -> jax.Array:
  """Replaces 0, the sum over no keys, by 1."""
  return jnp.where(total_BNT1 == 0.0, 1.0, total_BNT1)
