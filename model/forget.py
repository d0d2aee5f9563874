"""Forgetting attention: a decay of the past that depends on the data."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from model.output import Plain
from model.parameter import Dims, Kind, Param, Params, param


@dataclasses.dataclass(frozen=True)
class Forget(Plain, tag='forget'):
  """Logits + sum of log f between key and query (Lin et al. 2025).

  The Forgetting Transformer, arXiv:2503.02130, equations 5 to 8: f_t =
  sigmoid(w . x_t + b) of each head; the bias of query t and key s is
  log f_(s+1) + ... + log f_t = c_t - c_s, c the running sum.
  """

  fades: ClassVar[bool] = True

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns w and b of each head."""
    return {
      'kernel': param('D->N', Kind.MATRIX, dims),
      'bias': param('->N', Kind.BIAS, dims),
    }

  def running(
    self,
    params: Params,
    x_BTD: jax.Array,
    before_BN: jax.Array,
    place_BT: jax.Array | None = None,
  ) -> jax.Array:
    """Returns c; in float32, since bfloat16 loses a step beside a long sum."""
    wide = jnp.promote_types(x_BTD.dtype, jnp.float32)
    gate_BTN = jnp.einsum(
      'BTD,DN->BTN', x_BTD, params['kernel'], preferred_element_type=wide
    )
    log_BTN = jax.nn.log_sigmoid(gate_BTN + params['bias'])
    if place_BT is None:
      return before_BN[:, None] + jnp.cumsum(log_BTN, axis=1)
    return _sums_of_documents(log_BTN, before_BN, place_BT)


def _sums_of_documents(
  x_BTN: jax.Array, before_BN: jax.Array, place_BT: jax.Array
) -> jax.Array:
  """Returns running sums that begin anew with each document.

  A sum over all of them, less what it was before, would lose digits.
  """
  first_BT1 = (place_BT == 0)[..., None]
  begun_BN = jnp.where(first_BT1[:, 0], 0.0, before_BN)
  x_BTN = x_BTN.at[:, 0].add(begun_BN)

  def join(
    left: tuple[jax.Array, jax.Array], right: tuple[jax.Array, jax.Array]
  ) -> tuple[jax.Array, jax.Array]:
    (anew_left, sum_left), (anew, own) = left, right
    return anew_left | anew, jnp.where(anew, own, sum_left + own)

  _, sums_BTN = jax.lax.associative_scan(join, (first_BT1, x_BTN), axis=1)
  return sums_BTN
