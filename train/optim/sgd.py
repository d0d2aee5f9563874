"""Gradient descent."""

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from model.core.field import FieldError, field
from model.core.limits import SHARE
from train.optim.base import Optimizer, ParamTable

if TYPE_CHECKING:
  import optax


@dataclasses.dataclass(frozen=True)
class Sgd(Optimizer, tag='sgd'):
  """Gradient descent with momentum (Sutskever et al. 2013)."""

  momentum: float = field(
    0.9, 'Decay of the accumulated gradient.', min=0.0, max=SHARE, traced=True
  )

  def scale(self, table: ParamTable) -> 'optax.GradientTransformation':
    """Returns the transformation of gradients, before decay and rate."""
    import optax

    del table
    return optax.trace(self.momentum)

  def doubts(self) -> Iterator[FieldError]:
    """Yields a doubt about momentum 1, under which steps only grow."""
    if self.momentum == 1:
      yield FieldError(
        'momentum',
        self.momentum,
        'never forgets a gradient, so that steps only grow',
      )
