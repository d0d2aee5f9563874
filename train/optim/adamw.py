"""AdamW, and the moments of Adam, which other optimisers use too."""

import dataclasses
from typing import TYPE_CHECKING

from model.core.field import field
from model.core.limits import DECAY, EPSILON
from train.optim.base import Optimizer, ParamTable

if TYPE_CHECKING:
  import optax


@dataclasses.dataclass(frozen=True)
class AdamBase(Optimizer):
  """An optimiser that moves some or all parameters by Adam."""

  b1: float = field(
    0.9, 'Decay of the mean gradient.', min=0.0, max=DECAY, traced=True
  )
  b2: float = field(
    0.99, 'Decay of the mean square.', min=0.0, max=DECAY, traced=True
  )
  eps: float = field(
    1e-8, 'Added to the root.', min=1e-16, max=EPSILON, traced=True
  )

  def adam_transform(self) -> 'optax.GradientTransformation':
    """Returns the transformation of Adam, without decay and learning rate."""
    import optax

    return optax.scale_by_adam(self.b1, self.b2, self.eps)


@dataclasses.dataclass(frozen=True)
class AdamW(AdamBase, tag='adamw'):
  """Adam with decoupled decay (Loshchilov & Hutter 2019, arXiv:1711.05101)."""

  def scale(self, table: ParamTable) -> 'optax.GradientTransformation':
    """Returns the transformation of gradients, before decay and rate."""
    del table
    return self.adam_transform()
