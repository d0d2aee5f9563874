"""Forgetting attention: a decay of the past that depends on the data."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from model.attention.outputs.base import OutputBase, OutputTraits
from model.core.linear import linear
from model.core.parameter import Dims, Param, ParamRole, PartParams, param


@dataclasses.dataclass(frozen=True)
class Forget(OutputBase, tag='forget'):
  """Logits + sum of log f between key and query (Lin et al. 2025).

  The Forgetting Transformer, arXiv:2503.02130, equations 5 to 8.  Each head has
  a gate f_t = sigmoid(w . x_t + b), and the bias of query t and key s is
  log f_(s+1) + ... + log f_t = c_t - c_s, where c is the running sum of log f.
  """

  traits: ClassVar[OutputTraits] = OutputTraits(decays=True)

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns w and b of each head."""
    return {
      'kernel': param('D->N', ParamRole.MATRIX, dims),
      'bias': param('->N', ParamRole.BIAS, dims),
    }

  def running(
    self,
    params: PartParams,
    x_BTD: jax.Array,
    before_BN: jax.Array,
    place_BT: jax.Array | None = None,
  ) -> jax.Array:
    """Returns c; bfloat16 would lose a small term beside a long sum."""
    wide = jnp.promote_types(x_BTD.dtype, jnp.float32)
    gate_BTN = linear(x_BTD, params['kernel'], dtype=wide)
    log_BTN = jax.nn.log_sigmoid(gate_BTN + params['bias'])
    if place_BT is None:
      return before_BN[:, None] + jnp.cumsum(log_BTN, axis=1)
    return _document_cumsum(log_BTN, before_BN, place_BT)


def _document_cumsum(
  x_BTN: jax.Array, before_BN: jax.Array, place_BT: jax.Array
) -> jax.Array:
  """Returns running sums that restart with each document.

  The difference of two sums over the whole row would lose digits.
  """
  first_BT1 = (place_BT == 0)[..., None]
  carried_BN = jnp.where(first_BT1[:, 0], 0.0, before_BN)
  x_BTN = x_BTN.at[:, 0].add(carried_BN)

  def join(
    left: tuple[jax.Array, jax.Array], right: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    (resets_left, sum_left), (resets, own) = left, right
    return resets_left | resets, jnp.where(resets, own, sum_left + own)

  _, sums_BTN = jax.lax.associative_scan(join, (first_BT1, x_BTN), axis=1)
  return sums_BTN
