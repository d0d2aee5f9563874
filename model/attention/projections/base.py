"""Projections of the input to queries, keys and values.

  q = x W_Q,  k = y W_K,  v = y W_V,  output = concat(heads) W_O

(Vaswani et al. 2017, section 3.2.2.)  A variant that shares a projection has
fewer parameters, but the same names for the others, so that two variants start
from equal values wherever they share a parameter.
"""

import abc
import dataclasses
from collections.abc import Iterator
from typing import ClassVar, Literal

import jax

from model.attention.projections.heads import (
  Heads,
  Widths,
  empty_heads,
  merge_heads,
  shared_head_problems,
)
from model.attention.scores.base import ScoreInputs
from model.core.field import FieldError, Variant, field
from model.core.linear import linear
from model.core.parameter import (
  Dims,
  Param,
  ParamRole,
  PartParams,
  add_bias,
  param,
)


class ProjectionsBase(Variant, abc.ABC):
  """Base of all projections.

  The argument `reads` of its methods says whether the score reads queries and
  keys; otherwise these are not computed.
  """

  @abc.abstractmethod
  def params(self, dims: Dims, reads: ScoreInputs) -> dict[str, Param]:
    """Returns the parameters of one layer, by name."""

  @abc.abstractmethod
  def problems_with(
    self, dims: Dims, head_dim: int | None, reads: ScoreInputs
  ) -> Iterator[FieldError]:
    """Yields an error for each conflict with these sizes or this score.

    Args:
      dims: sizes of the axes.
      head_dim: --head_dim; `None` if it follows from other sizes.
      reads: whether the score reads queries and keys.
    """

  def widths(self, dims: Dims) -> Widths:
    """Returns the width of a query, of its rotated part, and of a value."""
    return Widths(dims.head_dim, rotary=dims.head_dim, value=dims.head_dim)

  @abc.abstractmethod
  def split(
    self,
    params: PartParams,
    x_BTD: jax.Array,
    y_BSD: jax.Array,
    dims: Dims,
    reads: ScoreInputs,
  ) -> Heads:
    """Projects x to queries, and y to keys and values."""

  def merge(self, params: PartParams, heads_BTNH: jax.Array) -> jax.Array:
    """Merges the heads: concat(heads) W_O."""
    return merge_heads(params, heads_BTNH)


@dataclasses.dataclass(frozen=True)
class _TrainedProjections(ProjectionsBase, abc.ABC):
  """Base of trained projections, some of which may be shared.

  Attributes:
    sources: names of the projections to queries, to keys and to values; equal
      names share one projection.
  """

  sources: ClassVar[tuple[str, str, str]] = ('query', 'key', 'value')

  kind: Literal['linear', 'mlp'] = field(
    'linear', 'A matrix, or a ReLU network with a hidden layer of --d_model:'
  )

  def params(self, dims: Dims, reads: ScoreInputs) -> dict[str, Param]:
    """Returns W_O and each projection that is read, by name."""
    table = {}
    for name in self._used(reads):
      heads = 'NH' if name == 'query' else 'KH'
      if self.kind == 'mlp':
        hidden = {'F': dims.d_model}
        table[f'{name}_up'] = param('D->F', ParamRole.MATRIX, dims, hidden)
        table[name] = param(f'F->{heads}', ParamRole.MATRIX, dims, hidden)
        if dims.use_bias:
          table[f'{name}_up_bias'] = param('->F', ParamRole.BIAS, dims, hidden)
      else:
        table[name] = param(f'D->{heads}', ParamRole.MATRIX, dims)
      if dims.use_bias:
        table[f'{name}_bias'] = param(f'->{heads}', ParamRole.BIAS, dims)
    table['out'] = param('NH->D', ParamRole.RESIDUAL, dims)
    if dims.use_bias:
      table['out_bias'] = param('->D', ParamRole.BIAS, dims)
    return table

  def problems_with(
    self, dims: Dims, head_dim: int | None, reads: ScoreInputs
  ) -> Iterator[FieldError]:
    """Yields an error for each conflict with these sizes or this score."""
    del head_dim
    query, key, value = self.sources
    if query == key:
      yield from shared_head_problems(self.tag, dims)
    shares_unread = (query == key and not all(reads)) or (
      value == key and not reads.key
    )
    if shares_unread:
      yield FieldError(
        'projections',
        self,
        'shares queries or keys that --score does not read: try '
        '--projections=qkv',
      )

  def split(
    self,
    params: PartParams,
    x_BTD: jax.Array,
    y_BSD: jax.Array,
    dims: Dims,
    reads: ScoreInputs,
  ) -> Heads:
    """Projects x to queries, and y to keys and values."""
    query, key, value = self.sources
    if reads.query:
      q_BTNH = self._project(params, query, x_BTD)
    else:
      q_BTNH = empty_heads(x_BTD, dims.num_heads)
    if not reads.key:
      k_BSKH = empty_heads(y_BSD, dims.num_kv_heads)
    elif key == query and y_BSD is x_BTD:
      k_BSKH = q_BTNH
    else:
      k_BSKH = self._project(params, key, y_BSD)
    v_BSKH = k_BSKH if value == key else self._project(params, value, y_BSD)
    return Heads(q_BTNH, k_BSKH, v_BSKH)

  def _used(self, reads: ScoreInputs) -> list[str]:
    """Returns the names of the projections that are used, without repeats."""
    roles = (reads.query, reads.key, True)
    used = [s for s, read in zip(self.sources, roles, strict=True) if read]
    return list(dict.fromkeys(used))

  def _project(
    self, params: PartParams, name: str, x_BTD: jax.Array
  ) -> jax.Array:
    if self.kind == 'mlp':
      h_BTF = linear(x_BTD, params[f'{name}_up'])
      h_BTF = jax.nn.relu(add_bias(h_BTF, params, f'{name}_up_bias'))
      x_BTNH = linear(h_BTF, params[name])
    else:
      x_BTNH = linear(x_BTD, params[name])
    return add_bias(x_BTNH, params, f'{name}_bias')


@dataclasses.dataclass(frozen=True)
class Qkv(_TrainedProjections, tag='qkv'):
  """Separate W_Q, W_K, W_V (Vaswani et al. 2017, arXiv:1706.03762).

  With --num_kv_heads below --num_heads, groups of query heads share a key and a
  value head (Ainslie et al. 2023, arXiv:2305.13245; one for all: Shazeer 2019).
  """


@dataclasses.dataclass(frozen=True)
class SharedKv(_TrainedProjections, tag='shared_kv'):
  """Values = keys: softmax(Q K^T) K (Kayyam et al. 2026, arXiv:2606.04032)."""

  sources: ClassVar[tuple[str, str, str]] = ('query', 'key', 'key')


@dataclasses.dataclass(frozen=True)
class SharedQk(_TrainedProjections, tag='shared_qk'):
  """Queries = keys: softmax(Q Q^T) V (Kitaev et al. 2020, arXiv:2001.04451).

  Departure: the Reformer also divides the keys by their length.
  """

  sources: ClassVar[tuple[str, str, str]] = ('query', 'query', 'value')


@dataclasses.dataclass(frozen=True)
class SharedQkv(_TrainedProjections, tag='shared_qkv'):
  """One projection for all: softmax(K K^T) K (Kayyam et al. 2026)."""

  sources: ClassVar[tuple[str, str, str]] = ('query', 'query', 'query')


@dataclasses.dataclass(frozen=True)
class Raw(ProjectionsBase, tag='raw'):
  """No W at all: heads of q, k and v are slices of x (ours).

  With one head: out = softmax(scale x x^T) x.  There is no W_O either.
  """

  def params(self, dims: Dims, reads: ScoreInputs) -> dict[str, Param]:
    """Returns no parameters."""
    del dims, reads
    return {}

  def problems_with(
    self, dims: Dims, head_dim: int | None, reads: ScoreInputs
  ) -> Iterator[FieldError]:
    """Yields an error for each conflict with these sizes or this score."""
    del reads
    yield from shared_head_problems(self.tag, dims)
    if head_dim is not None and head_dim * dims.num_heads != dims.d_model:
      yield FieldError(
        'head_dim',
        head_dim,
        'must be none with --projections=raw, whose heads are slices of the '
        'input',
      )

  def split(
    self,
    params: PartParams,
    x_BTD: jax.Array,
    y_BSD: jax.Array,
    dims: Dims,
    reads: ScoreInputs,
  ) -> Heads:
    """Returns slices of x as queries, slices of y as keys and values."""
    del params
    num_heads = dims.num_heads
    q_BTNH = x_BTD.reshape(*x_BTD.shape[:2], num_heads, -1)
    v_BSKH = y_BSD.reshape(*y_BSD.shape[:2], num_heads, -1)
    return Heads(
      q_BTNH if reads.query else empty_heads(x_BTD, num_heads),
      v_BSKH if reads.key else empty_heads(y_BSD, num_heads),
      v_BSKH,
    )

  def merge(self, params: PartParams, heads_BTNH: jax.Array) -> jax.Array:
    """Concatenates the heads."""
    del params
    return heads_BTNH.reshape(*heads_BTNH.shape[:2], -1)
