"""Scale: the factor of the attention logits."""

import abc
import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from model.core.field import FieldError, field
from model.core.limits import REAL
from model.core.parameter import (
  Dims,
  Param,
  ParametricVariant,
  ParamRole,
  PartParams,
  param,
)


class ScaleTraits(NamedTuple):
  """Properties of a scale that the rules read.

  Attributes:
    counts: the factor depends on the number of keys that a query sees.
    is_static: the factor is a number that is known at compile time.
  """

  counts: bool = False
  is_static: bool = False


class ScaleBase(ParametricVariant, abc.ABC):
  """Base of all scales."""

  traits: ClassVar[ScaleTraits] = ScaleTraits()

  def silent(self) -> FieldError | None:
    """Returns an error if all logits are 0, else `None`."""
    return None

  @abc.abstractmethod
  def factor(
    self, params: PartParams, head_dim: int, n_B1T1: jax.Array | None
  ) -> jax.Array | float:
    """Returns the factor of the logits.

    Args:
      params: the parameters that `params(dims)` lists.
      head_dim: width of a query.
      n_B1T1: number of keys that each query sees; `None` unless the traits have
        `counts`.
    """


@dataclasses.dataclass(frozen=True)
class Rsqrt(ScaleBase, tag='rsqrt'):
  """Logits / sqrt(head width) (Vaswani et al. 2017, section 3.2.1)."""

  traits: ClassVar[ScaleTraits] = ScaleTraits(is_static=True)

  def factor(
    self, params: PartParams, head_dim: int, n_B1T1: jax.Array | None
  ) -> jax.Array | float:
    """Returns 1 / sqrt(head width)."""
    del params, n_B1T1
    return head_dim**-0.5


@dataclasses.dataclass(frozen=True)
class NoScale(ScaleBase, tag='none'):
  """Logits as they are; their variance grows with the head width."""

  traits: ClassVar[ScaleTraits] = ScaleTraits(is_static=True)

  def factor(
    self, params: PartParams, head_dim: int, n_B1T1: jax.Array | None
  ) -> jax.Array | float:
    """Returns 1."""
    del params, head_dim, n_B1T1
    return 1.0


@dataclasses.dataclass(frozen=True)
class Constant(ScaleBase, tag='constant'):
  """Logits times a constant, whatever the head width."""

  value: float = field(0.125, 'The factor.', min=-1e30, max=REAL, traced=True)

  def silent(self) -> FieldError | None:
    """Returns an error if all logits are 0, else `None`."""
    if self.value != 0:
      return None
    return FieldError(
      'value', self.value, 'makes every score 0: queries and keys learn nothing'
    )

  def factor(
    self, params: PartParams, head_dim: int, n_B1T1: jax.Array | None
  ) -> jax.Array | float:
    """Returns the constant."""
    del params, head_dim, n_B1T1
    return self.value


@dataclasses.dataclass(frozen=True)
class Inverse(ScaleBase, tag='inverse'):
  """Logits / head width (Yang et al. 2022, arXiv:2203.03466, definition 4.1).

  The scale of muP, where queries and keys become correlated in training.
  """

  traits: ClassVar[ScaleTraits] = ScaleTraits(is_static=True)

  def factor(
    self, params: PartParams, head_dim: int, n_B1T1: jax.Array | None
  ) -> jax.Array | float:
    """Returns 1 / head width."""
    del params, n_B1T1
    return 1.0 / head_dim


@dataclasses.dataclass(frozen=True)
class LearnedScale(ScaleBase, tag='learned'):
  """A trained multiple of 1 / sqrt(head width) for each head (ours).

  A learned inverse temperature, as in Henry et al. 2020 (arXiv:2010.04245),
  but one for each head, starting from the usual scale.
  """

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns one multiplier per head, which starts at 1."""
    return {'head': param('->N', ParamRole.SCALE, dims)}

  def factor(
    self, params: PartParams, head_dim: int, n_B1T1: jax.Array | None
  ) -> jax.Array | float:
    """Returns the factor of each head, with shape [N, 1, 1]."""
    del n_B1T1
    return params['head'][:, None, None] * head_dim**-0.5


@dataclasses.dataclass(frozen=True)
class LogN(ScaleBase, tag='logn'):
  """log(n) / sqrt(head width) with n visible keys (Chiang & Cholak 2022).

  arXiv:2202.12172.  With `learned` it has a trained multiplier s for each head:
  Scalable-Softmax (Nakanishi 2025, arXiv:2501.19399), with n^(s z) for e^z.
  """

  traits: ClassVar[ScaleTraits] = ScaleTraits(counts=True)

  learned: bool = field(False, 'Multiply by a trained number for each head.')

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns one multiplier per head, which starts at 1, if `learned`."""
    return {'head': param('->N', ParamRole.SCALE, dims)} if self.learned else {}

  def factor(
    self, params: PartParams, head_dim: int, n_B1T1: jax.Array | None
  ) -> jax.Array | float:
    """Returns the factor of each query, with shape [B, N or 1, T, 1]."""
    assert n_B1T1 is not None
    # A query that sees nothing has no logit to scale.
    wide_B1T1 = jnp.maximum(n_B1T1, 1).astype(jnp.result_type(float))
    factor_BNT1 = jnp.log(wide_B1T1) * head_dim**-0.5
    if self.learned:
      factor_BNT1 = factor_BNT1 * params['head'][:, None, None]
    return factor_BNT1
