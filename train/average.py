"""Averages of the parameters over training: what is evaluated and kept.

Each is a running mean, so that the state of a trial holds one copy more and
resuming is exact.  After step t, with the parameters p_t,

  average_t = average_(t-1) + w_t (p_t - average_(t-1)),

and a member of the union says what w_t is.  Training never sees the average.
"""

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from model.field import FieldError, Variant, field
from model.limits import COUNT, DECAY

Params = Any  # a tree of arrays


class Moment(NamedTuple):
  """When an update was: after `step` steps of `total`.

  The validation part is looked at every `eval_every` steps and at the end.
  """

  step: jax.Array
  total: jax.Array
  eval_every: int


@dataclasses.dataclass(frozen=True)
class NoAverage(Variant, tag='none'):
  """The parameters themselves.

  Attributes:
    reads_evaluations: its weights depend on when evaluations are.
  """

  reads_evaluations: ClassVar[bool] = False

  def start(self, params: Params) -> None:
    """Returns nothing: no copy is kept."""
    del params

  def after(self, old: Params | None, params: Params, at: Moment) -> None:
    """Returns nothing."""
    del old, params, at

  def problem(self, steps: int, eval_every: int) -> FieldError | None:
    """Returns none: it fits every run."""
    del steps, eval_every


class _Mean(Variant, abc.ABC):
  """A running mean; its members say how much the newest parameters count."""

  reads_evaluations: ClassVar[bool] = False

  @abc.abstractmethod
  def weight(self, at: Moment) -> jax.Array:
    """Returns w_t."""

  def start(self, params: Params) -> Params:
    """Returns the average before the first step: a copy."""
    return jax.tree.map(jnp.array, params)

  def after(self, old: Params | None, params: Params, at: Moment) -> Params:
    """Returns the average after an update.

    A weight of 1 gives the parameters, and one of 0 the old average, exactly;
    so does any weight where both are equal, as those of the frozen are.
    """
    weight = self.weight(at)

    def move(old: jax.Array, new: jax.Array) -> jax.Array:
      between = old + weight.astype(old.dtype) * (new - old)
      return jnp.where(weight < 1, between, new)

    return jax.tree.map(move, old, params)

  def problem(self, steps: int, eval_every: int) -> FieldError | None:
    """Returns why a run is too short for it, if it is."""
    del steps, eval_every


@dataclasses.dataclass(frozen=True)
class Ema(_Mean, tag='ema'):
  """Exponential mean, unbiased (Kingma & Ba 2015, sec. 7.2, arXiv:1412.6980).

  average_t = (1 - d) sum_i d^(t - i) p_i / (1 - d^t), i = 1 .. t: the initial
  values, far from anything trained, have no part in it.  Averaging goes back to
  Polyak & Juditsky 1992 (SIAM J. Control Optim. 30(4)); what it does to
  networks is measured by Morales-Brotons et al. 2024, arXiv:2411.18704.
  """

  decay: float = field(
    0.99, 'd: about 1 / (1 - d) steps count.', min=0.0, max=DECAY, traced=True
  )

  def weight(self, at: Moment) -> jax.Array:
    """Returns (1 - d) / (1 - d^t)."""
    log = jnp.log(jnp.asarray(self.decay))
    # 1 - d^t as it is written cancels where d is near 1.
    share = jnp.expm1(log) / jnp.expm1(at.step * log)
    return jnp.where(at.step == 1, 1.0, share)


@dataclasses.dataclass(frozen=True)
class Tail(_Mean, tag='tail'):
  """Mean of the last checkpoints (Vaswani et al. 2017, sec. 6.1).

  A checkpoint is here the parameters at an evaluation: every --eval_every
  steps, and at the end.  Of a run of known length the last `count` of these
  are known beforehand; until the first of them the parameters themselves are
  evaluated.
  """

  reads_evaluations: ClassVar[bool] = True

  count: int = field(
    3,
    'Evaluations that count, the last one among them.',
    min=2,
    max=COUNT,
    traced=True,
  )

  def weight(self, at: Moment) -> jax.Array:
    """Returns 1 / n at the n-th evaluation that counts, and 1 before them."""
    every = at.eval_every
    # -(-a // b) rounds up; a + b - 1 could overflow.
    last, this = -(-at.total // every), -(-at.step // every)
    n = this - (last - self.count)
    due = (at.step % every == 0) | (at.step == at.total)
    share = jnp.where(due, 1.0 / jnp.maximum(n, 1), 0.0)
    return jnp.where(n <= 1, 1.0, share)

  def problem(self, steps: int, eval_every: int) -> FieldError | None:
    """Returns why a run is too short for it, if it is."""
    there = -(-steps // eval_every)
    if self.count <= there:
      return None
    return FieldError(
      'average.count',
      self.count,
      f'must be at most {there}, the evaluations of --steps={steps}: lower '
      f'--eval_every={eval_every}',
    )


Average = NoAverage | Ema | Tail
