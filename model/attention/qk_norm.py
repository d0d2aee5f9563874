"""Norms of queries and keys, head by head, before rotation."""

import abc
import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from model.core.field import FieldError, field
from model.core.limits import EPSILON, REAL
from model.core.parameter import (
  Dims,
  Param,
  ParametricVariant,
  ParamRole,
  PartParams,
  param,
)
from model.layers.norm import LayerNorm, RmsNorm


class QkNormTraits(NamedTuple):
  """Properties of a norm of queries and keys that the rules read.

  Attributes:
    changes: it changes queries and keys, so the score must read both.
  """

  changes: bool = True


class QkNormBase(ParametricVariant, abc.ABC):
  """Base of all norms of queries and keys."""

  traits: ClassVar[QkNormTraits] = QkNormTraits()

  def problem(self, width: int) -> FieldError | None:
    """Returns an error if the norm makes queries of this width constant."""
    del width
    return None

  def silent(self) -> FieldError | None:
    """Returns an error if all logits are 0, else `None`."""
    return None

  @abc.abstractmethod
  def query(self, params: PartParams, q_BTNH: jax.Array) -> jax.Array:
    """Returns the normalised queries."""

  @abc.abstractmethod
  def key(self, params: PartParams, k_BSKH: jax.Array) -> jax.Array:
    """Returns the normalised keys."""


@dataclasses.dataclass(frozen=True)
class NoQkNorm(QkNormBase, tag='none'):
  """No norm: queries and keys as they are."""

  traits: ClassVar[QkNormTraits] = QkNormTraits(changes=False)

  def query(self, params: PartParams, q_BTNH: jax.Array) -> jax.Array:
    """Returns the queries."""
    del params
    return q_BTNH

  def key(self, params: PartParams, k_BSKH: jax.Array) -> jax.Array:
    """Returns the keys."""
    del params
    return k_BSKH


@dataclasses.dataclass(frozen=True)
class _GainQkNorm(QkNormBase, abc.ABC):
  """Base of norms with one gain for q and one for k, shared by all heads."""

  eps: float = field(1e-6, 'Added to the mean square.', min=0.0, max=EPSILON)

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the gains; H is the width of a query."""
    return {
      'query': param('->H', ParamRole.SCALE, dims),
      'key': param('->H', ParamRole.SCALE, dims),
    }


@dataclasses.dataclass(frozen=True)
class RmsQkNorm(_GainQkNorm, tag='rms'):
  """Root mean square of each head, with a gain for q and one for k.

  (Henry et al. 2020, arXiv:2010.04245, with the norm of Zhang & Sennrich 2019,
  as in Qwen3 and Gemma 3.)  Heads share the gains.
  """

  def query(self, params: PartParams, q_BTNH: jax.Array) -> jax.Array:
    """Returns g q / rms(q)."""
    return RmsNorm(self.eps).apply({'scale': params['query']}, q_BTNH)

  def key(self, params: PartParams, k_BSKH: jax.Array) -> jax.Array:
    """Returns g k / rms(k)."""
    return RmsNorm(self.eps).apply({'scale': params['key']}, k_BSKH)


@dataclasses.dataclass(frozen=True)
class LayerQkNorm(_GainQkNorm, tag='layernorm'):
  """Layer normalisation of each head, with gains and no biases, as in ViT-22B.

  (Dehghani et al. 2023, arXiv:2302.05442, section 2.)  Heads share the gains.
  """

  def problem(self, width: int) -> FieldError | None:
    """Returns an error if the norm makes queries of this width constant."""
    if width > 1:
      return None
    return FieldError(
      'qk_norm',
      self,
      'subtracts the mean, which leaves 0 of a single unit: try --qk_norm=rms',
    )

  def query(self, params: PartParams, q_BTNH: jax.Array) -> jax.Array:
    """Returns g (q - mean) / std."""
    return LayerNorm(self.eps).apply({'scale': params['query']}, q_BTNH)

  def key(self, params: PartParams, k_BSKH: jax.Array) -> jax.Array:
    """Returns g (k - mean) / std."""
    return LayerNorm(self.eps).apply({'scale': params['key']}, k_BSKH)


@dataclasses.dataclass(frozen=True)
class L2QkNorm(QkNormBase, tag='l2'):
  """Unit length: logits are cosines times a trained g (Henry et al. 2020).

  arXiv:2010.04245, equation 4, with --scale=none.  Departure: g starts from
  `start`, not from log2(L^2 - L), where L is the 97.5th percentile of lengths
  (for L = 90 that is 13).
  """

  start: float = field(
    10.0, 'Initial value of g.', min=0.0, max=REAL, traced=True
  )
  eps: float = field(1e-6, 'Added to the squared length.', min=0.0, max=EPSILON)

  def silent(self) -> FieldError | None:
    """Returns an error if all logits are 0, else `None`."""
    if self.start != 0:
      return None
    return FieldError(
      'start', self.start, 'makes every score 0: queries and keys learn nothing'
    )

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the gain g / `start`, shared by all heads."""
    return {'gain': param('->', ParamRole.SCALE, dims)}

  def query(self, params: PartParams, q_BTNH: jax.Array) -> jax.Array:
    """Returns g q / |q|."""
    gain = self.start * params['gain']
    return self._normalize(q_BTNH) * jnp.asarray(gain, q_BTNH.dtype)

  def key(self, params: PartParams, k_BSKH: jax.Array) -> jax.Array:
    """Returns k / |k|."""
    del params
    return self._normalize(k_BSKH)

  def _normalize(self, x_BTNH: jax.Array) -> jax.Array:
    wide_BTNH = x_BTNH.astype(jnp.promote_types(x_BTNH.dtype, jnp.float32))
    square_BTN1 = jnp.square(wide_BTNH).sum(-1, keepdims=True)
    return (wide_BTNH * jax.lax.rsqrt(square_BTN1 + self.eps)).astype(
      x_BTNH.dtype
    )
