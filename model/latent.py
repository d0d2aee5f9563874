"""Keys and values from one narrow latent vector."""

import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from model.field import FieldError, Variant, field
from model.heads import Heads, Widths, merged
from model.limits import WIDTH
from model.parameter import Dims, Kind, Param, Params, add_bias, param
from model.score import Reads


@dataclasses.dataclass(frozen=True)
class Mla(Variant, tag='mla'):
  """Keys and values of a latent vector c (DeepSeek-AI 2024, arXiv:2405.04434).

  Multi-head latent attention, section 2.1, equations 9 to 19, of head n:

    c = x W_DKV,  k_n = [c W_UK,n ; rotated(x W_KR)],  v_n = c W_UV,n
    q_n = [c' W_UQ,n ; rotated(c' W_QR,n)],  c' = x W_DQ or x

  The second part of a key is one for all heads, and the only part that
  --position rotates; other positions leave it as it is.  Departures: c and c'
  are not normalised; decoding keeps the keys and values made of c, and not c.
  """

  latent: int = field(32, 'Width of c.', min=1, max=WIDTH)
  rope_dim: int = field(
    8, 'Width of the rotated part; 0 is none.', min=0, max=WIDTH
  )
  query_latent: int | None = field(
    None,
    "Width of c', of which queries are made; none is x itself.",
    min=1,
    max=WIDTH,
  )

  def params(self, dims: Dims, reads: Reads) -> dict[str, Param]:
    """Returns the W of the paper by what they make, and W_O."""
    del reads
    sizes = {'C': self.latent, 'R': self.rope_dim}
    given, query_sizes = 'D', sizes
    table = {'latent': param('D->C', Kind.MATRIX, dims, sizes)}
    if self.query_latent is not None:
      given, query_sizes = 'C', sizes | {'C': self.query_latent}
      table['query_latent'] = param('D->C', Kind.MATRIX, dims, query_sizes)
    table['query'] = param(f'{given}->NH', Kind.MATRIX, dims, query_sizes)
    table['key'] = param('C->NH', Kind.MATRIX, dims, sizes)
    table['value'] = param('C->NH', Kind.MATRIX, dims, sizes)
    if self.rope_dim:
      table['query_rotated'] = param(
        f'{given}->NR', Kind.MATRIX, dims, query_sizes
      )
      table['key_rotated'] = param('D->R', Kind.MATRIX, dims, sizes)
    table['out'] = param('NH->D', Kind.RESIDUAL, dims)
    if dims.use_bias:
      for name in ('query', 'key', 'value'):
        table[f'{name}_bias'] = param('->NH', Kind.BIAS, dims)
      table['out_bias'] = param('->D', Kind.BIAS, dims)
    return table

  def problems_with(
    self, dims: Dims, head_dim: int | None, reads: Reads
  ) -> Iterator[FieldError]:
    """Yields why the variant does not fit these sizes or this score."""
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
        'shares what --score does not read: try --projections=qkv',
      )

  def widths(self, dims: Dims) -> Widths:
    """Returns the width of a query, of its rotated part, and of a value."""
    return Widths(dims.head_dim + self.rope_dim, self.rope_dim, dims.head_dim)

  def split(
    self,
    params: Params,
    x_BTD: jax.Array,
    y_BSD: jax.Array,
    dims: Dims,
    reads: Reads,
  ) -> Heads:
    """Returns queries of x, keys and values of the latent of y."""
    del dims, reads
    c_BSC = jnp.einsum('BSD,DC->BSC', y_BSD, params['latent'])
    x_BTC = x_BTD
    if self.query_latent is not None:
      x_BTC = jnp.einsum('BTD,DC->BTC', x_BTD, params['query_latent'])
    q_BTNH = _up(x_BTC, params, 'query')
    k_BSNH, v_BSNH = _up(c_BSC, params, 'key'), _up(c_BSC, params, 'value')
    if not self.rope_dim:
      return Heads(q_BTNH, k_BSNH, v_BSNH)
    q_BTNR = jnp.einsum('BTC,CNR->BTNR', x_BTC, params['query_rotated'])
    k_BSR = jnp.einsum('BSD,DR->BSR', y_BSD, params['key_rotated'])
    k_BSNR = jnp.broadcast_to(
      k_BSR[:, :, None], (*k_BSNH.shape[:3], self.rope_dim)
    )
    return Heads(
      jnp.concatenate([q_BTNH, q_BTNR], -1),
      jnp.concatenate([k_BSNH, k_BSNR], -1),
      v_BSNH,
    )

  def merge(self, params: Params, heads_BTNH: jax.Array) -> jax.Array:
    """Returns concat(heads) W_O."""
    return merged(params, heads_BTNH)


def _up(c_BTC: jax.Array, params: Params, name: str) -> jax.Array:
  up_BTNH = jnp.einsum('BTC,CNH->BTNH', c_BTC, params[name])
  return add_bias(up_BTNH, params, f'{name}_bias')
