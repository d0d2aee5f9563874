"""Keys and values that are projected from one narrow latent vector."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from model.attention.projections.base import ProjectionsBase
from model.attention.projections.heads import Heads, Widths
from model.attention.scores.base import ScoreInputs
from model.core.field import FieldError, field
from model.core.limits import WIDTH
from model.core.linear import linear
from model.core.parameter import (
  Dims,
  Param,
  ParamRole,
  PartParams,
  add_bias,
  param,
)


@dataclasses.dataclass(frozen=True)
class Mla(ProjectionsBase, tag='mla'):
  """Keys and values from one latent c (DeepSeek-AI 2024, arXiv:2405.04434).

  Multi-head latent attention, section 2.1, equations 9 to 19; for head n:

    c = x W_DKV,  k_n = [c W_UK,n ; rotated(x W_KR)],  v_n = c W_UV,n
    q_n = [c' W_UQ,n ; rotated(c' W_QR,n)],  c' = x W_DQ or x

  All heads share the second part of a key, the only part that a rotary
  --position rotates.  Departures: c and c' are not normalised; the cache holds
  keys and values, not c.
  """

  latent: int = field(32, 'Width of c.', min=1, max=WIDTH)
  rope_dim: int = field(
    8,
    'Width of the rotated part of queries and keys; 0 for none.',
    min=0,
    max=WIDTH,
  )
  query_latent: int | None = field(
    None,
    "Width of c', from which queries are projected; `none` takes x.",
    min=1,
    max=WIDTH,
  )

  def params(self, dims: Dims, reads: ScoreInputs) -> dict[str, Param]:
    """Returns W_O and the projections of the paper, named by their results."""
    del reads
    sizes = {'C': self.latent, 'R': self.rope_dim}
    query_input, query_sizes = 'D', sizes
    table = {'latent': param('D->C', ParamRole.MATRIX, dims, sizes)}
    if self.query_latent is not None:
      query_input, query_sizes = 'C', sizes | {'C': self.query_latent}
      table['query_latent'] = param('D->C', ParamRole.MATRIX, dims, query_sizes)
    table['query'] = param(
      f'{query_input}->NH', ParamRole.MATRIX, dims, query_sizes
    )
    table['key'] = param('C->NH', ParamRole.MATRIX, dims, sizes)
    table['value'] = param('C->NH', ParamRole.MATRIX, dims, sizes)
    if self.rope_dim:
      table['query_rotated'] = param(
        f'{query_input}->NR', ParamRole.MATRIX, dims, query_sizes
      )
      table['key_rotated'] = param('D->R', ParamRole.MATRIX, dims, sizes)
    table['out'] = param('NH->D', ParamRole.RESIDUAL, dims)
    if dims.use_bias:
      for name in ('query', 'key', 'value'):
        table[f'{name}_bias'] = param('->NH', ParamRole.BIAS, dims)
      table['out_bias'] = param('->D', ParamRole.BIAS, dims)
    return table

  def problems_with(
    self, dims: Dims, head_dim: int | None, reads: ScoreInputs
  ) -> Iterator[FieldError]:
    """Yields an error for each conflict with these sizes or this score."""
    del head_dim
    if dims.num_kv_heads != dims.num_heads:
      yield FieldError(
        'num_kv_heads',
        dims.num_kv_heads,
        'must be none with --projections=mla, whose heads share the latent',
      )
    if self.rope_dim % 2:
      yield FieldError(
        'projections.rope_dim',
        self.rope_dim,
        'must be even, because rotary positions pair its units',
      )
    if not (reads.query and reads.key):
      yield FieldError(
        'projections',
        self,
        'shares queries or keys that --score does not read: try '
        '--projections=qkv',
      )

  def widths(self, dims: Dims) -> Widths:
    """Returns the width of a query, of its rotated part, and of a value."""
    return Widths(dims.head_dim + self.rope_dim, self.rope_dim, dims.head_dim)

  def split(
    self,
    params: PartParams,
    x_BTD: jax.Array,
    y_BSD: jax.Array,
    dims: Dims,
    reads: ScoreInputs,
  ) -> Heads:
    """Projects x to queries, and the latent of y to keys and values."""
    del dims, reads
    c_BSC = linear(y_BSD, params['latent'])
    x_BTC = x_BTD
    if self.query_latent is not None:
      x_BTC = linear(x_BTD, params['query_latent'])
    q_BTNH = _up_project(x_BTC, params, 'query')
    k_BSNH, v_BSNH = (
      _up_project(c_BSC, params, 'key'),
      _up_project(c_BSC, params, 'value'),
    )
    if not self.rope_dim:
      return Heads(q_BTNH, k_BSNH, v_BSNH)
    q_BTNR = linear(x_BTC, params['query_rotated'])
    k_BSR = linear(y_BSD, params['key_rotated'])
    k_BSNR = jnp.broadcast_to(
      k_BSR[:, :, None], (*k_BSNH.shape[:3], self.rope_dim)
    )
    return Heads(
      jnp.concatenate([q_BTNH, q_BTNR], -1),
      jnp.concatenate([k_BSNH, k_BSNR], -1),
      v_BSNH,
    )


def _up_project(c_BTC: jax.Array, params: PartParams, name: str) -> jax.Array:
  up_BTNH = linear(c_BTC, params[name])
  return add_bias(up_BTNH, params, f'{name}_bias')
