"""Score: the logit of a query and a key, before scale, cap and biases."""

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from model.parameter import Dims, Kind, Param, Params, Part, param


class Reads(NamedTuple):
  """What a score is a function of; projections make nothing else."""

  query: bool = True
  key: bool = True


@dataclasses.dataclass(frozen=True)
class Dot(Part, tag='dot'):
  """q . k (Luong et al. 2015; Vaswani et al. 2017, section 3.2.1)."""

  reads: ClassVar[Reads] = Reads()

  def logits(
    self,
    params: Params,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    x_BTD: jax.Array,
    t_T: jax.Array,
    s_S: jax.Array,
  ) -> jax.Array:
    """Returns logits_BNTS of some queries and some keys, at least float32.

    It is called with chunks of both, so that nothing may depend on how many
    there are.  What is not in `reads` comes with H = 0.

    Args:
      params: as `params(dims)` lists them; H is there the width of a query.
      q_BTNH: queries, rotated.
      k_BSKH: keys, rotated; N / K query heads in a row share one.
      x_BTD: what the queries were made of.
      t_T: positions of the queries.
      s_S: positions of the keys.
    """
    del params, x_BTD, t_T, s_S
    wide = jnp.promote_types(q_BTNH.dtype, jnp.float32)
    if q_BTNH.shape[2] == k_BSKH.shape[2]:
      # Not as groups of one: XLA would sum those in another order.
      k_BSNH = k_BSKH
      return jnp.einsum(
        'BTNH,BSNH->BNTS', q_BTNH, k_BSNH, preferred_element_type=wide
      )
    logits_BKGTS = jnp.einsum(
      'BTKGH,BSKH->BKGTS',
      grouped(q_BTNH, k_BSKH.shape[2]),
      k_BSKH,
      preferred_element_type=wide,
    )
    return ungrouped(logits_BKGTS)


@dataclasses.dataclass(frozen=True)
class Additive(Dot, tag='additive'):
  """v . tanh(q + k), v of a head trained (Bahdanau et al. 2015, A.1.2).

  W_Q and W_K are the paper's W_a and U_a.  The paper has --scale=none.
  """

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns v."""
    return {'vector': param('H->N', Kind.MATRIX, dims)}

  def logits(
    self,
    params: Params,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    x_BTD: jax.Array,
    t_T: jax.Array,
    s_S: jax.Array,
  ) -> jax.Array:
    """Returns v . tanh(q + k)."""
    del x_BTD, t_T, s_S
    q_BTKGH = grouped(q_BTNH, k_BSKH.shape[2])
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
    return ungrouped(logits_BKGTS)


Score = Dot | Additive


def grouped(x_BTNH: jax.Array, num_kv_heads: int) -> jax.Array:
  """Returns x_BTKGH: query head n stands in group n // G, at n % G."""
  *front, num_heads, width = x_BTNH.shape
  return x_BTNH.reshape(*front, num_kv_heads, num_heads // num_kv_heads, width)


def ungrouped(logits_BKGTS: jax.Array) -> jax.Array:
  """Returns logits_BNTS."""
  batch, _, _, *pair = logits_BKGTS.shape
  return logits_BKGTS.reshape(batch, -1, *pair)
