"""Optimisers, schedules, decay and freezing: the update as one chain."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from model.field import Record, Variant, field
from model.limits import COUNT, DECAY, EPSILON, REAL, SHARE
from model.parameter import Kind, Param
from train.average import Average, NoAverage
from train.rules import matching


@dataclasses.dataclass(frozen=True)
class AdamW(Variant, tag='adamw'):
  """Adam with decoupled decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

  b1: float = field(
    0.9, 'Decay of the mean gradient.', min=0.0, max=DECAY, traced=True
  )
  b2: float = field(
    0.99, 'Decay of the mean square.', min=0.0, max=DECAY, traced=True
  )
  eps: float = field(
    1e-8, 'Added to the root.', min=1e-16, max=EPSILON, traced=True
  )

  def scale(self) -> optax.GradientTransformation:
    """Returns the step before decay and learning rate."""
    return optax.scale_by_adam(self.b1, self.b2, self.eps)


@dataclasses.dataclass(frozen=True)
class Sgd(Variant, tag='sgd'):
  """Gradient descent with momentum (Sutskever et al. 2013)."""

  momentum: float = field(
    0.9, 'Decay of the accumulated gradient.', min=0.0, max=SHARE, traced=True
  )

  def scale(self) -> optax.GradientTransformation:
    """Returns the step before decay and learning rate."""
    return optax.trace(self.momentum)


Optimizer = AdamW | Sgd


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
  """The peak, from the end of the warm-up on."""

  def shape(
    self, step: jax.Array, warmup: jax.Array, total: jax.Array
  ) -> jax.Array:
    """Returns the fraction of the peak after the warm-up."""
    del warmup, total
    return jnp.ones_like(step, jnp.float32)


@dataclasses.dataclass(frozen=True)
class InverseSqrt(Variant, tag='inverse_sqrt'):
  """sqrt(warmup / step) of the peak (Vaswani et al. 2017, section 5.3)."""

  def shape(
    self, step: jax.Array, warmup: jax.Array, total: jax.Array
  ) -> jax.Array:
    """Returns the fraction of the peak after the warm-up."""
    del total
    start = jnp.maximum(warmup, 1)
    return jnp.sqrt(start / jnp.maximum(step, start))


Schedule = Cosine | ConstantRate | InverseSqrt


@dataclasses.dataclass(frozen=True)
class Optimization(Record):
  """Optimization: how the parameters move."""

  learning_rate: float = field(
    1e-3, 'Peak learning rate.', min=0.0, max=REAL, traced=True
  )
  warmup_steps: int = field(
    100, 'Steps of linear warm-up to the peak.', min=0, max=COUNT, traced=True
  )
  schedule: Schedule = field(Cosine(), 'Learning rate after the warm-up:')
  optimizer: Optimizer = field(AdamW(), 'Optimiser:')
  weight_decay: float = field(
    0.1,
    'Decoupled weight decay, times the learning rate.',
    min=0.0,
    max=REAL,
    traced=True,
  )
  decay: Literal['matrices', 'all'] = field(
    'matrices', 'What decays; matrices includes embeddings:'
  )
  clip: float | None = field(
    1.0, 'Largest global norm of the gradient.', min=0.0, max=REAL, traced=True
  )
  freeze: str | None = field(
    None, 'Regular expression over parameter paths that are not trained.'
  )
  average: Average = field(NoAverage(), 'What is evaluated and kept:')

  def frozen(self, table: Mapping[str, Param]) -> frozenset[str]:
    """Returns the paths of the parameters that are not trained."""
    if self.freeze is None:
      return frozenset()
    return matching('freeze', self.freeze, table)

  def rate(self, step: jax.Array, total: jax.Array) -> jax.Array:
    """Returns the learning rate of a step, the first of which is 0.

    learning_rate * min(1, (step + 1) / (warmup_steps + 1)) * shape(step)
    """
    warm = jnp.minimum(1.0, (step + 1) / (self.warmup_steps + 1))
    shape = self.schedule.shape(step, jnp.asarray(self.warmup_steps), total)
    return self.learning_rate * warm * shape

  def transform(
    self, table: Mapping[str, Param], total: jax.Array
  ) -> optax.GradientTransformation:
    """Returns the update: clip, scale, decay, minus the learning rate.

    Gradients of frozen parameters arrive as zeros; they do not decay, so their
    update is exactly zero.
    """
    frozen = self.frozen(table)
    decays = {
      path: path not in frozen
      and (self.decay == 'all' or what.init not in (Kind.SCALE, Kind.BIAS))
      for path, what in table.items()
    }
    chain = [] if self.clip is None else [optax.clip_by_global_norm(self.clip)]
    chain.append(self.optimizer.scale())
    if not (isinstance(self.weight_decay, float) and self.weight_decay == 0.0):
      mask = tree(decays)
      chain.append(optax.add_decayed_weights(self.weight_decay, mask))
    chain.append(
      optax.scale_by_schedule(lambda step: -self.rate(jnp.asarray(step), total))
    )
    return optax.chain(*chain)


def tree(by_path: Mapping[str, Any]) -> dict[str, Any]:
  """Returns `{path: value}` as a tree like the parameters."""
  return traverse_util.unflatten_dict(by_path, sep='/')


def flat(params: Any) -> dict[str, Any]:
  """Returns a tree of parameters as `{path: value}`."""
  return traverse_util.flatten_dict(params, sep='/')
