"""Weights on a sphere, as in nGPT."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from model.core.field import FieldError
from model.core.parameter import Param, ParamRole
from train.core.trees import ArrayTree
from train.optim.base import (
  AfterUpdate,
  ParamTable,
  UpdateContext,
  map_paths,
)

_SMALL = 1e-12  # least norm to divide by, so that zeros stay zeros


@dataclasses.dataclass(frozen=True)
class Sphere(AfterUpdate, tag='sphere'):
  """Weights as unit vectors along D (nGPT, arXiv:2410.01131, sec. 2).

  w <- w / |w| for each vector along the axis D of every matrix and embedding: a
  matrix that reads the residual has one for each output, one that adds to it
  one for each input, an embedding one for each symbol.  The initial values are
  normalised too, as in the authors' code.  The authors use no weight decay
  (--weight_decay=0) and no warm-up; the blocks and scales of nGPT are other
  flags.
  """

  def problem(self, table: ParamTable, steps: int) -> FieldError | None:
    """Returns an error if there is no matrix to normalise."""
    del steps
    if any(_axis(spec) is not None for spec in table.values()):
      return None
    return FieldError(
      'after_update', 'sphere', 'finds no matrix that is trained: drop it'
    )

  def start(
    self, table: ParamTable, params: ArrayTree
  ) -> tuple[ArrayTree, Any]:
    """Returns the initial values, normalised, and no state."""
    return _project(table, params), None

  def after(self, state: Any, now: UpdateContext) -> tuple[ArrayTree, Any]:
    """Returns the parameters, normalised again."""
    return _project(now.table, now.params), state


def _axis(spec: Param) -> int | None:
  """Returns the index of the axis D in one layer's matrix, or None."""
  if not spec.is_matrix or spec.role is ParamRole.STATE:
    return None
  axis = spec.letters.find('D')
  return None if axis < 0 else axis


def _project(table: ParamTable, params: ArrayTree) -> ArrayTree:
  def normalize(path: str, p: jax.Array) -> jax.Array:
    spec = table.get(path)
    axis = None if spec is None else _axis(spec)
    if spec is None or axis is None:
      return p
    along = axis + (spec.depth is not None)
    length = jnp.sqrt(jnp.sum(jnp.square(p), along, keepdims=True))
    return p / jnp.maximum(length, _SMALL)

  return map_paths(normalize, params)
