"""Schedules: the learning rate after the warm-up, as a fraction of its peak."""

import dataclasses

import jax
import jax.numpy as jnp

from model.core.field import Variant, field
from model.core.limits import SHARE


@dataclasses.dataclass(frozen=True)
class Cosine(Variant, tag='cosine'):
  """A half cosine down to a fraction of the peak (arXiv:1608.03983)."""

  final: float = field(
    0.1, 'Fraction of the peak at the end.', min=0.0, max=SHARE, traced=True
  )

  def shape(
    self, step: jax.Array, warmup: jax.Array, total: jax.Array
  ) -> jax.Array:
    """Returns the fraction of the peak after the warm-up."""
    done = (step - warmup) / jnp.maximum(total - warmup, 1)
    curve = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0.0, 1.0)))
    return self.final + (1 - self.final) * curve


@dataclasses.dataclass(frozen=True)
class ConstantRate(Variant, tag='constant'):
  """The peak learning rate, from the end of the warm-up on."""

  def shape(
    self, step: jax.Array, warmup: jax.Array, total: jax.Array
  ) -> jax.Array:
    """Returns the fraction of the peak after the warm-up."""
    del warmup, total
    return jnp.ones_like(step, jnp.float32)


@dataclasses.dataclass(frozen=True)
class InverseSqrt(Variant, tag='inverse_sqrt'):
  """sqrt(warmup / step) times the peak (Vaswani et al. 2017, section 5.3)."""

  def shape(
    self, step: jax.Array, warmup: jax.Array, total: jax.Array
  ) -> jax.Array:
    """Returns the fraction of the peak after the warm-up."""
    del total
    start = jnp.maximum(warmup, 1)
    return jnp.sqrt(start / jnp.maximum(step, start))


Schedule = Cosine | ConstantRate | InverseSqrt
