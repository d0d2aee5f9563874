"""What queries, keys and values are made of: the ladder raw -> qk -> qkv.

  q = x W_q,  k = y W_k,  v = y W_v,  output = concat(heads) W_o

(Vaswani et al. 2017, section 3.2.2.)  Sharing a projection removes its
parameters; names stay those of the full form, so that what two rows have in
common starts from equal values.
"""

import dataclasses
from collections.abc import Iterator
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from model.field import FieldError, Variant, field
from model.heads import Heads, Widths, merged, one_array, unread
from model.latent import Mla
from model.parameter import Dims, Kind, Param, Params, add_bias, param
from model.score import Reads


@dataclasses.dataclass(frozen=True)
class Qkv(Variant, tag='qkv'):
  """Separate W_Q, W_K, W_V (Vaswani et al. 2017, arXiv:1706.03762).

  With --num_kv_heads below --num_heads, query heads in groups share a key and a
  value head (Ainslie et al. 2023, arXiv:2305.13245; one for all: Shazeer 2019).
  """

  # The projection that makes the queries, the keys and the values.
  sources: ClassVar[tuple[str, str, str]] = ('query', 'key', 'value')

  kind: Literal['linear', 'mlp'] = field(
    'linear', 'A matrix, or a ReLU network with a hidden layer of --d_model:'
  )

  def params(self, dims: Dims, reads: Reads) -> dict[str, Param]:
    """Returns each projection that is read, and W_O."""
    table = {}
    for name in self._used(reads):
      heads = 'NH' if name == 'query' else 'KH'
      if self.kind == 'mlp':
        hidden = {'F': dims.d_model}
        table[f'{name}_up'] = param('D->F', Kind.MATRIX, dims, hidden)
        table[name] = param(f'F->{heads}', Kind.MATRIX, dims, hidden)
        if dims.use_bias:
          table[f'{name}_up_bias'] = param('->F', Kind.BIAS, dims, hidden)
      else:
        table[name] = param(f'D->{heads}', Kind.MATRIX, dims)
      if dims.use_bias:
        table[f'{name}_bias'] = param(f'->{heads}', Kind.BIAS, dims)
    table['out'] = param('NH->D', Kind.RESIDUAL, dims)
    if dims.use_bias:
      table['out_bias'] = param('->D', Kind.BIAS, dims)
    return table

  def problems_with(
    self, dims: Dims, head_dim: int | None, reads: Reads
  ) -> Iterator[FieldError]:
    """Yields why the variant does not fit these sizes or this score."""
    del head_dim
    query, key, value = self.sources
    if query == key:
      yield from one_array(self.tag, dims)
    unread = (query == key and not all(reads)) or (
      value == key and not reads.key
    )
    if unread:
      yield FieldError(
        'projections',
        self,
        'shares what --score does not read: try --projections=qkv',
      )

  def widths(self, dims: Dims) -> Widths:
    """Returns the width of a query, of its rotated part, and of a value."""
    return Widths(dims.head_dim, rotary=dims.head_dim, value=dims.head_dim)

  def split(
    self,
    params: Params,
    x_BTD: jax.Array,
    y_BSD: jax.Array,
    dims: Dims,
    reads: Reads,
  ) -> Heads:
    """Returns queries of x, keys and values of y; shared ones are one array."""
    query, key, value = self.sources
    if reads.query:
      q_BTNH = self._project(params, query, x_BTD)
    else:
      q_BTNH = unread(x_BTD, dims.num_heads)
    if not reads.key:
      k_BSKH = unread(y_BSD, dims.num_kv_heads)
    elif key == query and y_BSD is x_BTD:
      k_BSKH = q_BTNH
    else:
      k_BSKH = self._project(params, key, y_BSD)
    v_BSKH = k_BSKH if value == key else self._project(params, value, y_BSD)
    return Heads(q_BTNH, k_BSKH, v_BSKH)

  def merge(self, params: Params, heads_BTNH: jax.Array) -> jax.Array:
    """Returns concat(heads) W_O."""
    return merged(params, heads_BTNH)

  def _used(self, reads: Reads) -> list[str]:
    """Returns the projections that have an effect, each once, in order."""
    roles = (reads.query, reads.key, True)
    used = [s for s, read in zip(self.sources, roles, strict=True) if read]
    return list(dict.fromkeys(used))

  def _project(self, params: Params, name: str, x_BTD: jax.Array) -> jax.Array:
    if self.kind == 'mlp':
      h_BTF = jnp.einsum('BTD,DF->BTF', x_BTD, params[f'{name}_up'])
      h_BTF = jax.nn.relu(add_bias(h_BTF, params, f'{name}_up_bias'))
      x_BTNH = jnp.einsum('BTF,FNH->BTNH', h_BTF, params[name])
    else:
      x_BTNH = jnp.einsum('BTD,DNH->BTNH', x_BTD, params[name])
    return add_bias(x_BTNH, params, f'{name}_bias')


@dataclasses.dataclass(frozen=True)
class SharedKv(Qkv, tag='shared_kv'):
  """Values = keys: softmax(Q K^T) K (Kayyam et al. 2026, arXiv:2606.04032)."""

  sources: ClassVar[tuple[str, str, str]] = ('query', 'key', 'key')


@dataclasses.dataclass(frozen=True)
class SharedQk(Qkv, tag='shared_qk'):
  """Queries = keys: softmax(Q Q^T) V (Kitaev et al. 2020, arXiv:2001.04451).

  Departure: the Reformer also divides the keys by their length.
  """

  sources: ClassVar[tuple[str, str, str]] = ('query', 'query', 'value')


@dataclasses.dataclass(frozen=True)
class SharedQkv(Qkv, tag='shared_qkv'):
  """One projection for all: softmax(K K^T) K (Kayyam et al. 2026)."""

  sources: ClassVar[tuple[str, str, str]] = ('query', 'query', 'query')


@dataclasses.dataclass(frozen=True)
class Raw(Variant, tag='raw'):
  """No W at all: x scores x and is mixed, heads are slices of x (ours).

  With one head: out = softmax(scale x x^T) x.  Neither parameters nor W_O.
  """

  def params(self, dims: Dims, reads: Reads) -> dict[str, Param]:
    """Returns no parameters."""
    del dims, reads
    return {}

  def problems_with(
    self, dims: Dims, head_dim: int | None, reads: Reads
  ) -> Iterator[FieldError]:
    """Yields why the variant does not fit these sizes or this score."""
    del reads
    yield from one_array(self.tag, dims)
    if head_dim is not None and head_dim * dims.num_heads != dims.d_model:
      yield FieldError(
        'head_dim',
        head_dim,
        'must be none with --projections=raw, whose heads are slices of the '
        'input',
      )

  def widths(self, dims: Dims) -> Widths:
    """Returns the width of a query, of its rotated part, and of a value."""
    return Widths(dims.head_dim, rotary=dims.head_dim, value=dims.head_dim)

  def split(
    self,
    params: Params,
    x_BTD: jax.Array,
    y_BSD: jax.Array,
    dims: Dims,
    reads: Reads,
  ) -> Heads:
    """Returns slices of x as queries, slices of y as keys and values."""
    del params
    num_heads = dims.num_heads
    q_BTNH = x_BTD.reshape(*x_BTD.shape[:2], num_heads, -1)
    v_BSKH = y_BSD.reshape(*y_BSD.shape[:2], num_heads, -1)
    return Heads(
      q_BTNH if reads.query else unread(x_BTD, num_heads),
      v_BSKH if reads.key else unread(y_BSD, num_heads),
      v_BSKH,
    )

  def merge(self, params: Params, heads_BTNH: jax.Array) -> jax.Array:
    """Returns the heads side by side."""
    del params
    return heads_BTNH.reshape(*heads_BTNH.shape[:2], -1)


Projections = Qkv | SharedKv | SharedQk | SharedQkv | Raw | Mla
