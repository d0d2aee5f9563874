"""Scores: the logit of a query and a key, before scale, cap and biases."""

import abc
import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from model.core.field import FieldError
from model.core.parameter import (
  Dims,
  Param,
  ParametricVariant,
  ParamRole,
  PartParams,
  param,
)


class ScoreInputs(NamedTuple):
  """Whether a score reads queries and keys; others are not computed."""

  query: bool = True
  key: bool = True


class ScoreTraits(NamedTuple):
  """Properties of a score that the rules read.

  Attributes:
    reads: whether it depends on queries and on keys.
    positive: a logit may be above 0.
    is_product: a logit is q . k, as kernels, the recurrence and normalisers
      with positive features need it.
  """

  reads: ScoreInputs = ScoreInputs()
  positive: bool = True
  is_product: bool = False


class ScoreBase(ParametricVariant, abc.ABC):
  """Base of all scores."""

  traits: ClassVar[ScoreTraits] = ScoreTraits()

  def for_direction(self, sees_future: bool) -> 'ScoreBase':
    """Returns the variant to use in a stack that does or does not see ahead."""
    del sees_future
    return self

  def problem(self, dims: Dims) -> FieldError | None:
    """Returns an error if the variant does not fit these sizes, or `None`."""
    del dims
    return None

  @abc.abstractmethod
  def logits(
    self,
    params: PartParams,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    x_BTD: jax.Array,
    t_T: jax.Array,
    s_S: jax.Array,
  ) -> jax.Array:
    """Returns logits_BNTS of queries and keys, in float32 or wider.

    It is called with chunks of queries and of keys, so it must not depend on
    their number.  Queries or keys that are not in `reads` have H = 0.

    Args:
      params: the parameters that `params(dims)` lists, where H is the width of
        a query.
      q_BTNH: rotated queries.
      k_BSKH: rotated keys; groups of N / K query heads share a key head.
      x_BTD: input that the queries were computed from.
      t_T: positions of the queries.
      s_S: positions of the keys.
    """


@dataclasses.dataclass(frozen=True)
class Dot(ScoreBase, tag='dot'):
  """q . k (Luong et al. 2015; Vaswani et al. 2017, section 3.2.1)."""

  traits: ClassVar[ScoreTraits] = ScoreTraits(is_product=True)

  def logits(
    self,
    params: PartParams,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    x_BTD: jax.Array,
    t_T: jax.Array,
    s_S: jax.Array,
  ) -> jax.Array:
    """Returns q . k."""
    del params, x_BTD, t_T, s_S
    return _products(q_BTNH, k_BSKH)


@dataclasses.dataclass(frozen=True)
class Additive(ScoreBase, tag='additive'):
  """v . tanh(q + k), with a trained v per head (Bahdanau et al. 2015, A.1.2).

  W_Q and W_K are the paper's W_a and U_a.  The paper has --scale=none.
  """

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns v of each head."""
    return {'vector': param('H->N', ParamRole.MATRIX, dims)}

  def logits(
    self,
    params: PartParams,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    x_BTD: jax.Array,
    t_T: jax.Array,
    s_S: jax.Array,
  ) -> jax.Array:
    """Returns v . tanh(q + k)."""
    del x_BTD, t_T, s_S
    q_BTKGH = group_heads(q_BTNH, k_BSKH.shape[2])
    q_BT1KGH, k_B1SK1H = q_BTKGH[:, :, None], k_BSKH[:, None, :, :, None]
    hidden_BTSKGH = jnp.tanh(q_BT1KGH + k_B1SK1H)
    vector_HKG = params['vector'].reshape(
      *params['vector'].shape[:1], *q_BTKGH.shape[2:4]
    )
    wide = jnp.promote_types(q_BTNH.dtype, jnp.float32)
    logits_BKGTS = jnp.einsum(
      'BTSKGH,HKG->BKGTS',
      hidden_BTSKGH,
      vector_HKG,
      preferred_element_type=wide,
    )
    return merge_groups(logits_BKGTS)


@dataclasses.dataclass(frozen=True)
class L2(ScoreBase, tag='l2'):
  """-|q - k|^2, the squared distance (Kim et al. 2021, arXiv:2006.04710).

  Equation 10, with --scale=rsqrt.  Departures: W_Q = W_K, which the paper's
  Lipschitz bound needs, is a choice of its own, --projections=shared_qk; and
  values are not multiplied by W_Q W_Q^T.
  """

  traits: ClassVar[ScoreTraits] = ScoreTraits(positive=False)

  def logits(
    self,
    params: PartParams,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    x_BTD: jax.Array,
    t_T: jax.Array,
    s_S: jax.Array,
  ) -> jax.Array:
    """Returns 2 q . k - |q|^2 - |k|^2."""
    del params, x_BTD, t_T, s_S
    dot_BNTS = _products(q_BTNH, k_BSKH)
    q_BNT = jnp.moveaxis(_square(q_BTNH, dot_BNTS.dtype), 1, -1)
    k_BKS = jnp.moveaxis(_square(k_BSKH, dot_BNTS.dtype), 1, -1)
    k_BNS = jnp.repeat(k_BKS, q_BNT.shape[1] // k_BKS.shape[1], axis=1)
    return 2.0 * dot_BNTS - q_BNT[..., None] - k_BNS[:, :, None]


def _products(q_BTNH: jax.Array, k_BSKH: jax.Array) -> jax.Array:
  """Returns q . k of each query and key, in float32 or wider."""
  wide = jnp.promote_types(q_BTNH.dtype, jnp.float32)
  if q_BTNH.shape[2] == k_BSKH.shape[2]:
    # Not as groups of one head, which XLA would sum in another order.
    k_BSNH = k_BSKH
    return jnp.einsum(
      'BTNH,BSNH->BNTS', q_BTNH, k_BSNH, preferred_element_type=wide
    )
  logits_BKGTS = jnp.einsum(
    'BTKGH,BSKH->BKGTS',
    group_heads(q_BTNH, k_BSKH.shape[2]),
    k_BSKH,
    preferred_element_type=wide,
  )
  return merge_groups(logits_BKGTS)


def _square(x_BTNH: jax.Array, dtype: jnp.dtype) -> jax.Array:
  """Returns |x|^2 of each head."""
  return jnp.square(x_BTNH.astype(dtype)).sum(-1)


def group_heads(x_BTNH: jax.Array, num_kv_heads: int) -> jax.Array:
  """Returns x_BTKGH; query head n is number n % G of group n // G."""
  *front, num_heads, width = x_BTNH.shape
  return x_BTNH.reshape(*front, num_kv_heads, num_heads // num_kv_heads, width)


def merge_groups(logits_BKGTS: jax.Array) -> jax.Array:
  """Returns logits_BNTS, with groups merged into one axis of heads."""
  return logits_BKGTS.reshape(len(logits_BKGTS), -1, *logits_BKGTS.shape[3:])
