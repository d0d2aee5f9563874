"""Optimisers, schedules, decay and freezing: the update as one chain."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import traverse_util

from model.field import FieldError, Record, Variant, field
from model.limits import COUNT, DECAY, EPSILON, REAL, SHARE
from model.parameter import Param
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
    'matrices',
    'What decays; matrices includes embeddings, and no gain, bias or vector:',
  )
  clip: float | None = field(
    1.0, 'Largest global norm of the gradient.', min=0.0, max=REAL, traced=True
  )
  freeze: str | None = field(
    None, 'Regular expression over parameter paths that are not trained.'
  )
  average: Average = field(NoAverage(), 'What is evaluated and kept:')

  def problems(self) -> Iterator[FieldError]:
    """Yields what would train nothing."""
    if self.learning_rate == 0:
      yield FieldError(
        'learning_rate',
        self.learning_rate,
        'moves nothing: make it larger, or say --freeze=. to train nothing',
      )
    if self.clip == 0:
      yield FieldError(
        'clip',
        self.clip,
        'clips every gradient to nothing: --clip=none is off',
      )

  def warnings(
    self, table: Mapping[str, Param], steps: int
  ) -> Iterator[FieldError]:
    """Yields what may be meant, and rather is not, in a run of some steps."""
    if self.warmup_steps >= steps:
      share = steps / (self.warmup_steps + 1)
      yield FieldError(
        'warmup_steps',
        self.warmup_steps,
        f'is no shorter than --steps={steps}: the learning rate comes to '
        f'{share:.2g} of --learning_rate={self.learning_rate:g}',
      )
    if self.learning_rate * self.weight_decay >= 1:
      yield FieldError(
        'weight_decay',
        self.weight_decay,
        f'times --learning_rate={self.learning_rate:g} takes all of a '
        'parameter off in one step',
      )
    if isinstance(self.optimizer, Sgd) and self.optimizer.momentum == 1:
      yield FieldError(
        'optimizer.momentum',
        self.optimizer.momentum,
        'never forgets a gradient, so that steps only grow',
      )
    if len(self.frozen(table)) == len(table):
      yield FieldError(
        'freeze', self.freeze, 'holds every parameter: nothing is trained'
      )

  def frozen(self, table: Mapping[str, Param]) -> frozenset[str]:
    """Returns the paths of the parameters that are not trained."""
    if self.freeze is None:
      return frozenset()
    return matching('freeze', self.freeze, table)

  def decayed(self, table: Mapping[str, Param]) -> frozenset[str]:
    """Returns the paths of the parameters that decay."""
    frozen = self.frozen(table)
    return frozenset(
      path
      for path, what in table.items()
      if path not in frozen and (self.decay == 'all' or what.is_matrix)
    )

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
    decayed = self.decayed(table)
    decays = {path: path in decayed for path in table}
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
