"""Scale: the factor of the attention logits."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp

from model.field import FieldError, field
from model.limits import REAL
from model.parameter import Dims, Kind, Param, Params, Part, param


@dataclasses.dataclass(frozen=True)
class Rsqrt(Part, tag='rsqrt'):
  """Logits / sqrt(head width) (Vaswani et al. 2017, section 3.2.1).

  Attributes:
    counts: the factor reads how many keys each query sees.
  """

  counts: ClassVar[bool] = False

  def silent(self) -> FieldError | None:
    """Returns why no logit says anything, if none does."""
    return None

  def factor(
    self, params: Params, head_dim: int, n_B1T1: jax.Array | None
  ) -> jax.Array | float:
    """Returns what the logits are multiplied by.

    Args:
      params: as `params(dims)` lists them.
      head_dim: width of a query.
      n_B1T1: number of keys that each query sees; none unless `counts`.
    """
    del params, n_B1T1
    return head_dim**-0.5


@dataclasses.dataclass(frozen=True)
class NoScale(Rsqrt, tag='none'):
  """Logits as they are; their variance grows with the head width."""

  def factor(
    self, params: Params, head_dim: int, n_B1T1: jax.Array | None
  ) -> jax.Array | float:
    """Returns 1."""
    del params, head_dim, n_B1T1
    return 1.0


@dataclasses.dataclass(frozen=True)
class Constant(Rsqrt, tag='constant'):
  """Logits times a constant, whatever the head width."""

  value: float = field(0.125, 'The factor.', min=-1e30, max=REAL, traced=True)

  def silent(self) -> FieldError | None:
    """Returns why no logit says anything, if none does."""
    if self.value != 0:
      return None
    return FieldError(
      'value', self.value, 'makes every score 0: queries and keys learn nothing'
    )

  def factor(
    self, params: Params, head_dim: int, n_B1T1: jax.Array | None
  ) -> jax.Array | float:
    """Returns the constant."""
    del params, head_dim, n_B1T1
    return self.value


@dataclasses.dataclass(frozen=True)
class Inverse(Rsqrt, tag='inverse'):
  """Logits / head width (Yang et al. 2022, arXiv:2203.03466, definition 4.1).

  The scale of muP, where queries and keys become correlated in training.
  """

  def factor(
    self, params: Params, head_dim: int, n_B1T1: jax.Array | None
  ) -> jax.Array | float:
    """Returns 1 / head width."""
    del params, n_B1T1
    return 1.0 / head_dim


@dataclasses.dataclass(frozen=True)
class Learned(Rsqrt, tag='learned'):
  """A trained multiple of 1 / sqrt(head width) for each head (ours).

  A learned inverse temperature, as in Henry et al. 2020 (arXiv:2010.04245),
  but one for each head, starting from the usual scale.
  """

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the multiple of each head, from 1."""
    return {'head': param('->N', Kind.SCALE, dims)}

  def factor(
    self, params: Params, head_dim: int, n_B1T1: jax.Array | None
  ) -> jax.Array | float:
    """Returns the factor of each head, [N, 1, 1]."""
    del n_B1T1
    return params['head'][:, None, None] * head_dim**-0.5


@dataclasses.dataclass(frozen=True)
class LogN(Rsqrt, tag='logn'):
  """log(n) / sqrt(head width), n keys in sight (Chiang & Cholak 2022).

  arXiv:2202.12172.  With `learned`, times a multiplier of each
  head: Scalable-Softmax (Nakanishi 2025, arXiv:2501.19399), n^(s z) for e^z.
  """

  counts: ClassVar[bool] = True

  learned: bool = field(False, 'Multiply by a trained number for each head.')

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the multiplier of each head, from 1, if it is learned."""
    return {'head': param('->N', Kind.SCALE, dims)} if self.learned else {}

  def factor(
    self, params: Params, head_dim: int, n_B1T1: jax.Array | None
  ) -> jax.Array | float:
    """Returns the factor of each query, [B, N or 1, T, 1]."""
    assert n_B1T1 is not None
    # A query that sees nothing has no logit to scale.
    wide_B1T1 = jnp.maximum(n_B1T1, 1).astype(jnp.result_type(float))
    factor_BNT1 = jnp.log(wide_B1T1) * head_dim**-0.5
    if self.learned:
      factor_BNT1 = factor_BNT1 * params['head'][:, None, None]
    return factor_BNT1


Scale = Rsqrt | NoScale | Constant | Inverse | Learned | LogN
