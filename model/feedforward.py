"""The feed-forward sub-layer."""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from model.dropout import dropout
from model.field import Variant, field
from model.limits import DROPPED, WIDTH
from model.parameter import Dims, Kind, Param, Params, add_bias, param


@dataclasses.dataclass(frozen=True)
class Mlp(Variant, tag='mlp'):
  """f(x W_1) W_2 at each position (Vaswani et al. 2017, section 3.3)."""

  activation: Literal['relu', 'gelu'] = field(
    'gelu', 'f: max(0, x), or the exact x Phi(x) (arXiv:1606.08415):'
  )
  width: int | None = field(
    None, 'Hidden units; none is 4 x --d_model.', min=1, max=WIDTH
  )
  dropout: float = field(
    0.0, 'Dropout of the hidden units.', min=0.0, max=DROPPED, traced=True
  )

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns W_1 and W_2, with biases by --use_bias."""
    hidden = {'F': self.width or 4 * dims.d_model}
    table = {
      'up': param('D->F', Kind.MATRIX, dims, hidden),
      'down': param('F->D', Kind.RESIDUAL, dims, hidden),
    }
    if dims.use_bias:
      table['up_bias'] = param('->F', Kind.BIAS, dims, hidden)
      table['down_bias'] = param('->D', Kind.BIAS, dims)
    return table

  def apply(
    self, params: Params, x_BTD: jax.Array, keys_B: jax.Array | None
  ) -> jax.Array:
    """Returns f(x W_1 + b_1) W_2 + b_2."""
    h_BTF = jnp.einsum('BTD,DF->BTF', x_BTD, params['up'])
    h_BTF = add_bias(h_BTF, params, 'up_bias')
    if self.activation == 'relu':
      h_BTF = jax.nn.relu(h_BTF)
    else:
      h_BTF = jax.nn.gelu(h_BTF, approximate=False)
    h_BTF = dropout(h_BTF, self.dropout, keys_B)
    y_BTD = jnp.einsum('BTF,FD->BTD', h_BTF, params['down'])
    return add_bias(y_BTD, params, 'down_bias')


@dataclasses.dataclass(frozen=True)
class NoFeedForward(Variant, tag='none'):
  """Attention only (Elhage et al. 2021; Edelman et al. 2024)."""

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns no parameters."""
    del dims
    return {}


FeedForward = Mlp | NoFeedForward
