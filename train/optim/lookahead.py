"""Lookahead: slow weights that follow the trained ones."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from model.core.field import FieldError, field
from model.core.limits import COUNT, SHARE
from train.core.trees import ArrayTree
from train.optim.base import AfterUpdate, ParamTable, UpdateContext


@dataclasses.dataclass(frozen=True)
class Lookahead(AfterUpdate, tag='lookahead'):
  """Slow weights, k steps at a time (Zhang et al. 2019, arXiv:1907.08610).

  After every k-th update the slow weights s move towards the parameters p, and
  training continues from s: s <- s + a (p - s), p <- s (algorithm 1).  The
  optimiser keeps its moments, the paper's default.  In between, evaluations
  would see the fast weights: make --eval_every a multiple of k.
  """

  k: int = field(
    5, 'Steps between updates of slow weights.', min=1, max=COUNT, traced=True
  )
  share: float = field(
    0.5, 'a: step size of the slow weights.', min=0.0, max=SHARE, traced=True
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields errors of a share that stops training or has no effect."""
    for share, effect in ((0, 'moves nothing'), (1, 'has no effect')):
      if self.share == share:
        yield FieldError(
          'share', self.share, f'{effect}: give one between 0 and 1'
        )

  def problem(self, table: ParamTable, steps: int) -> FieldError | None:
    """Returns why a run is too short for it, or None if it is not."""
    del table
    if self.k <= steps:
      return None
    return FieldError(
      'after_update.k', self.k, f'must be at most --steps={steps}: lower it'
    )

  def start(
    self, table: ParamTable, params: ArrayTree
  ) -> tuple[ArrayTree, Any]:
    """Returns the parameters, and a copy as the slow weights."""
    del table
    return params, jax.tree.map(jnp.array, params)

  def after(self, state: Any, now: UpdateContext) -> tuple[ArrayTree, Any]:
    """Returns the fast weights and the slow ones."""
    due = now.at.step % self.k == 0

    def slow(old: jax.Array, fast: jax.Array) -> jax.Array:
      return jnp.where(due, old + self.share * (fast - old), old)

    new = jax.tree.map(slow, state, now.params)
    params = jax.tree.map(lambda s, p: jnp.where(due, s, p), new, now.params)
    return params, new
