"""Averages of the parameters over training, which are evaluated and saved.

Each is a running mean, so that the state of a trial holds only one more copy,
and resuming is exact.  After step t, with the parameters p_t,

  average_t = average_(t-1) + w_t (p_t - average_(t-1)),

where each member of the union defines w_t.  Training never reads the average.
"""

import abc
import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from model.core.field import FieldError, Variant, field
from model.core.limits import COUNT, DECAY
from train.core.trees import ArrayTree


class UpdateTime(NamedTuple):
  """The time of an update: after `step` steps of `total`.

  Evaluations are every `eval_every` steps and at the end.
  """

  step: jax.Array
  total: jax.Array
  eval_every: int


@dataclasses.dataclass(frozen=True)
class NoAverage(Variant, tag='none'):
  """The parameters themselves.

  Attributes:
    reads_evaluations: whether its weights depend on the steps of evaluations.
    keeps_copy: whether the state of a trial holds an average.
  """

  reads_evaluations: ClassVar[bool] = False
  keeps_copy: ClassVar[bool] = False

  def start(self, params: ArrayTree) -> None:
    """Returns None: there is no average."""
    del params

  def after(
    self, old: ArrayTree | None, params: ArrayTree, at: UpdateTime
  ) -> None:
    """Returns None: there is no average."""
    del old, params, at

  def problem(self, steps: int, eval_every: int) -> FieldError | None:
    """Returns None: it fits every run."""
    del steps, eval_every


class _Mean(Variant, abc.ABC):
  """A running mean; subclasses define the weight of the newest parameters."""

  reads_evaluations: ClassVar[bool] = False
  keeps_copy: ClassVar[bool] = True

  @abc.abstractmethod
  def weight(self, at: UpdateTime) -> jax.Array:
    """Returns w_t."""

  def start(self, params: ArrayTree) -> ArrayTree:
    """Returns the average before the first step: a copy of the parameters."""
    return jax.tree.map(jnp.array, params)

  def after(
    self, old: ArrayTree | None, params: ArrayTree, at: UpdateTime
  ) -> ArrayTree:
    """Returns the average after an update.

    A weight of 1 gives exactly the parameters, and 0 exactly the old average.
    Frozen parameters, which equal their average, stay exactly as they are.
    """
    weight = self.weight(at)

    def move(old: jax.Array, new: jax.Array) -> jax.Array:
      between = old + weight.astype(old.dtype) * (new - old)
      return jnp.where(weight < 1, between, new)

    return jax.tree.map(move, old, params)

  def problem(self, steps: int, eval_every: int) -> FieldError | None:
    """Returns why a run is too short for it, or None if it is not."""
    del steps, eval_every


@dataclasses.dataclass(frozen=True)
class Ema(_Mean, tag='ema'):
  """Exponential mean, unbiased (Kingma & Ba 2015, sec. 7.2, arXiv:1412.6980).

  average_t = (1 - d) sum_i d^(t - i) p_i / (1 - d^t), i = 1 .. t: without the
  initial values, which are far from trained ones.  Averaging goes back to
  Polyak & Juditsky 1992 (SIAM J. Control Optim. 30(4)); Morales-Brotons et al.
  2024, arXiv:2411.18704, measure its effect on networks.
  """

  decay: float = field(
    0.99, 'd: spans about 1 / (1 - d) steps.', min=0.0, max=DECAY, traced=True
  )

  def weight(self, at: UpdateTime) -> jax.Array:
    """Returns (1 - d) / (1 - d^t)."""
    log = jnp.log(jnp.asarray(self.decay))
    # Computing 1 - d^t directly would cancel where d is near 1.
    share = jnp.expm1(log) / jnp.expm1(at.step * log)
    return jnp.where(at.step == 1, 1.0, share)


@dataclasses.dataclass(frozen=True)
class CheckpointMean(_Mean, tag='tail'):
  """Mean of the last checkpoints (Vaswani et al. 2017, sec. 6.1).

  A checkpoint here means the parameters at an evaluation: every --eval_every
  steps, and at the end.  The length of a run is known, so the steps of its last
  `count` evaluations are too; before the first of these, the parameters
  themselves are evaluated.
  """

  reads_evaluations: ClassVar[bool] = True

  count: int = field(
    3,
    'Number of evaluations to average over, up to the last one.',
    min=2,
    max=COUNT,
    traced=True,
  )

  def weight(self, at: UpdateTime) -> jax.Array:
    """Returns 1 / n at the n-th evaluation of the average, and 1 before it."""
    every = at.eval_every
    # -(-a // b) rounds up; a + b - 1 could overflow.
    last, this = -(-at.total // every), -(-at.step // every)
    n = this - (last - self.count)
    due = (at.step % every == 0) | (at.step == at.total)
    share = jnp.where(due, 1.0 / jnp.maximum(n, 1), 0.0)
    return jnp.where(n <= 1, 1.0, share)

  def problem(self, steps: int, eval_every: int) -> FieldError | None:
    """Returns why a run is too short for it, or None if it is not."""
    there = -(-steps // eval_every)
    if self.count <= there:
      return None
    if not steps:
      return FieldError(
        'average', self, 'averages updates, and --steps=0 makes none: drop it'
      )
    return FieldError(
      'average.count',
      self.count,
      f'must be at most {there}, the evaluations of --steps={steps}: lower '
      f'--eval_every={eval_every}',
    )


Average = NoAverage | Ema | CheckpointMean
