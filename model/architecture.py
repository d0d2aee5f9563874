"""The architecture as one value: every choice a field, every field a flag."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

from model.attention import Normalizer, Rsqrt, Scale, Softmax
from model.feedforward import FeedForward, Mlp, NoFeedForward
from model.field import FieldError, Record, field
from model.mask import Causal, Full, Mask
from model.norm import LayerNorm, Norm, PreNorm, Residual
from model.parameter import Dims, Gpt2, Init, Kind, Param, param
from model.position import Learned, Position
from model.projections import Projections, Qkv


@dataclasses.dataclass(frozen=True)
class Architecture(Record):
  """Architecture: a decoder-only transformer (Radford et al. 2019)."""

  num_layers: int = field(2, 'Blocks.', min=1)
  d_model: int = field(64, 'Width of the residual.', min=1)
  num_heads: int = field(4, 'Attention heads.', min=1)
  head_dim: int | None = field(
    None, 'Width of a head; none is --d_model / --num_heads.', min=1
  )
  projections: Projections = field(Qkv(), 'Queries, keys and values:')
  scale: Scale = field(Rsqrt(), 'Factor of the attention logits:')
  normalizer: Normalizer = field(Softmax(), 'From logits to weights:')
  mask: tuple[Mask, ...] = field((Causal(),), 'Who attends to whom, a list:')
  position: Position = field(Learned(), 'Information on positions:')
  norm: Norm = field(LayerNorm(), 'Normalisation:')
  residual: Residual = field(PreNorm(), 'Where the norm sits:')
  feedforward: FeedForward = field(Mlp(), 'Feed-forward sub-layer:')
  tie_embeddings: bool = field(True, 'Unembed by the embedding, transposed.')
  use_bias: bool = field(False, 'Biases in projections and LayerNorm.')
  init: Init = field(Gpt2(), 'Initial values of matrices and embeddings:')
  dropout_embedding: float = field(
    0.0, 'Dropout of the input.', min=0.0, max=0.99, traced=True
  )
  dropout_attention: float = field(
    0.0, 'Dropout of the attention weights.', min=0.0, max=0.99, traced=True
  )
  dropout_residual: float = field(
    0.0, 'Dropout of sub-layer outputs.', min=0.0, max=0.99, traced=True
  )
  dtype: Literal['float32', 'bfloat16'] = field(
    'float32', 'Type of the computation; parameters stay float32:'
  )
  remat: bool = field(False, 'Recompute blocks in the backward pass.')
  scan_layers: bool = field(
    True, 'One compiled block for all layers; false unrolls them.'
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields what is wrong between fields."""
    if self.head_dim is None and self.d_model % self.num_heads:
      near = [n for n in range(1, 65) if self.d_model % n == 0]
      fix = min(near, key=lambda n: abs(n - self.num_heads))
      yield FieldError(
        'num_heads',
        self.num_heads,
        f'must divide --d_model={self.d_model}: try --num_heads={fix}, or set '
        '--head_dim',
      )
    dims = self.dims(seq_len=1, vocab_size=1)
    yield from self.projections.problems_with(dims, self.head_dim)
    if problem := self.position.problem(dims):
      yield problem
    tags = [mask.tag for mask in self.mask]
    if len(set(tags)) < len(tags):
      yield FieldError('mask', self.mask, 'must name each mask once')
    if any(isinstance(m, Full) for m in self.mask) and any(
      isinstance(m, Causal) for m in self.mask
    ):
      yield FieldError(
        'mask', self.mask, 'full has no effect beside causal: drop one'
      )

  def dims(self, seq_len: int, vocab_size: int) -> Dims:
    """Returns the sizes of the axes."""
    return Dims(
      num_layers=self.num_layers,
      d_model=self.d_model,
      num_heads=self.num_heads,
      head_dim=self.head_dim or self.d_model // self.num_heads,
      seq_len=seq_len,
      vocab_size=vocab_size,
      use_bias=self.use_bias,
    )

  def block_tables(self, dims: Dims) -> dict[str, dict[str, Param]]:
    """Returns `{part: {name: parameter}}` of one block."""
    tables = {
      'attention': self.projections.params(dims),
      'norm_attention': self.norm.params(dims),
    }
    if not isinstance(self.feedforward, NoFeedForward):
      tables['feedforward'] = self.feedforward.params(dims)
      tables['norm_feedforward'] = self.norm.params(dims)
    return tables

  def outer_tables(self, dims: Dims) -> dict[str, dict[str, Param]]:
    """Returns `{part: {name: parameter}}` of what is not in a block."""
    tables = {
      'embedding': {'token': param('V->D', Kind.EMBEDDING, dims)},
      'position': self.position.params(dims),
    }
    if self.residual.final_norm:
      tables['norm_final'] = self.norm.params(dims)
    if not self.tie_embeddings:
      tables['unembedding'] = {'kernel': param('D->V', Kind.MATRIX, dims)}
    return tables

  def parameter_table(self, dims: Dims) -> dict[str, Param]:
    """Returns `{path: parameter}`; those below `blocks/` stand for L of them.

    The paths are an interface: freezing, decay, sharding and the import of
    checkpoints go by them.
    """
    tables = self.outer_tables(dims) | {
      f'blocks/{part}': table for part, table in self.block_tables(dims).items()
    }
    return {
      f'{part}/{name}': what
      for part, table in tables.items()
      for name, what in table.items()
    }
