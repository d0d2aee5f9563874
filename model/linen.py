"""Linen modules that read parameters.

Apart from `parameter.py`, which all variants import: Flax takes half a second
to import, and a command that only lists or checks flags needs none of it.
"""

from collections.abc import Mapping

import jax
from flax import linen as nn

from model.core.parameter import InitBase, Param, sample


class Parameters(nn.Module):
  """Linen module that reads the parameters in a table.

  `transformer.init` draws them; Linen needs an initialiser for their shapes.
  """

  table: Mapping[str, Param]
  init_rule: InitBase
  num_layers: int

  @nn.compact
  def __call__(self) -> dict[str, jax.Array]:
    def initializer(rng: jax.Array, spec: Param) -> jax.Array:
      return sample(self.init_rule, rng, spec, self.num_layers)

    return {
      name: self.param(name, initializer, spec)
      for name, spec in self.table.items()
    }


class StackedParameters(nn.Module):
  """Linen module that reads the parameters of a stack of layers.

  Each array has the layers along its first axis.
  """

  tables: Mapping[str, Mapping[str, Param]]
  init_rule: InitBase
  num_layers: int

  @nn.compact
  def __call__(self) -> dict[str, dict[str, jax.Array]]:
    stacked = nn.vmap(
      Parameters,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      axis_size=self.num_layers,
    )
    return {
      part: stacked(table, self.init_rule, self.num_layers, name=part)()
      for part, table in self.tables.items()
    }
