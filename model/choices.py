"""The choices of an architecture: fields, each a flag, and what they make."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from model.attention import Parts, part_of
from model.backend import Auto, Backend
from model.differential import Differential
from model.family import ENCODER, Decoder, Family, Stack
from model.feedforward import FeedForward, Mlp, NoFeedForward
from model.field import Record, field
from model.forget import Forget
from model.limits import DEPTH, DROPPED, REAL, WIDTH
from model.mask import ByModel, Mask, Padding
from model.norm import LayerNorm, Norm, PreNorm, Residual
from model.normalizer import Normalizer, Softmax
from model.output import (
  ExclusiveSelf,
  Gate,
  Plain,
  TalkingHeads,
  ValueResidual,
)
from model.parameter import Dims, Gpt2, Init, Kind, Param, Params, param
from model.position import Learned, NoPosition, Position
from model.projections import Projections, Qkv
from model.qk_norm import NoQkNorm, QkNorm
from model.scale import Rsqrt, Scale
from model.score import Dot, Score

# Here and not in output.py, from which its members take their base.
Output = (
  Plain
  | Gate
  | Differential
  | Forget
  | ValueResidual
  | TalkingHeads
  | ExclusiveSelf
)


@dataclasses.dataclass(frozen=True)
class Choices(Record):
  """The fields of `Architecture`, and the parameters that follow from them."""

  model: Family = field(Decoder(), 'What is made of the blocks:')
  num_layers: int = field(2, 'Blocks.', min=1, max=DEPTH)
  d_model: int = field(64, 'Width of the residual.', min=1, max=WIDTH)
  num_heads: int = field(4, 'Attention heads.', min=1, max=WIDTH)
  head_dim: int | None = field(
    None, 'Width of a head; none is --d_model / --num_heads.', min=1, max=WIDTH
  )
  num_kv_heads: int | None = field(
    None, 'Heads of keys and values; none is --num_heads.', min=1, max=WIDTH
  )
  projections: Projections = field(Qkv(), 'Queries, keys and values:')
  qk_norm: QkNorm = field(NoQkNorm(), 'Normalisation of queries and keys:')
  score: Score = field(Dot(), 'Logit of a query and a key:')
  scale: Scale = field(Rsqrt(), 'Factor of the attention logits:')
  logit_cap: float | None = field(
    None,
    'c tanh(logits / c), before biases (Gemma 2, arXiv:2408.00118).',
    min=1e-3,
    max=REAL,
    traced=True,
  )
  normalizer: Normalizer = field(Softmax(), 'From logits to weights:')
  mask: tuple[Mask, ...] = field((ByModel(),), 'Who attends to whom, a list:')
  position: Position = field(Learned(), 'Information on positions:')
  output: tuple[Output, ...] = field(
    (Plain(),), 'What else attention does, a list:'
  )
  backend: Backend = field(Auto(), 'How attention is computed:')
  norm: Norm = field(LayerNorm(), 'Normalisation:')
  residual: Residual = field(PreNorm(), 'Where the norm sits:')
  feedforward: FeedForward = field(Mlp(), 'Feed-forward sub-layer:')
  scale_embeddings: bool = field(
    False, 'Embeddings of tokens times the root of --d_model (2017, 3.4).'
  )
  tie_embeddings: bool = field(True, 'Unembed by the embedding, transposed.')
  use_bias: bool = field(False, 'Biases in projections and LayerNorm.')
  init: Init = field(Gpt2(), 'Initial values of matrices and embeddings:')
  dropout_embedding: float = field(
    0.0, 'Dropout of the input.', min=0.0, max=DROPPED, traced=True
  )
  dropout_attention: float = field(
    0.0, 'Dropout of the attention weights.', min=0.0, max=DROPPED, traced=True
  )
  dropout_residual: float = field(
    0.0, 'Dropout of sub-layer outputs.', min=0.0, max=DROPPED, traced=True
  )
  dtype: Literal['float32', 'bfloat16'] = field(
    'float32', 'Type of the computation; parameters stay float32:'
  )
  remat: bool = field(False, 'Recompute blocks in the backward pass.')
  scan_layers: bool = field(
    True, 'One compiled block for all layers; false unrolls them.'
  )

  @property
  def stacks(self) -> tuple[Stack, ...]:
    """Returns the stacks of blocks, in the order in which they run."""
    return self.model.stacks(self.num_layers, self.mask)

  @property
  def encoder(self) -> Stack | None:
    """Returns the stack that reads a source, if anything attends to it."""
    first, *others = self.stacks
    return first if others else None

  @property
  def masks(self) -> tuple[Mask, ...]:
    """Returns the masks of the last stack."""
    return self.stacks[-1].mask

  @property
  def parts(self) -> Parts:
    """Returns what self-attention of the last stack is composed of."""
    return self.parts_of(self.stacks[-1])

  def parts_of(self, stack: Stack) -> Parts:
    """Returns what self-attention is composed of; outputs in their order."""
    return Parts(
      score=self.score.directed(stack.sees_future),
      scale=self.scale,
      logit_cap=self.logit_cap,
      position=self.position.directed(stack.sees_future),
      mask=stack.mask,
      normalizer=self.normalizer,
      output=tuple(sorted(self.output, key=lambda output: output.stage)),
      dropout=self.dropout_attention,
      dtype=self.dtype,
      widths=self.projections.widths(self.dims(seq_len=1, vocab_size=1)),
    )

  @property
  def cross_parts(self) -> Parts:
    """Returns what cross-attention is composed of.

    A score that reads no queries and keys finds nothing in a source: there it
    is a product, as in the papers on translation (Raganato et al. 2020).
    """
    parts = self.parts
    score = self.score if all(self.score.reads) else Dot()
    crossing = tuple(output for output in parts.output if output.crosses)
    return parts._replace(
      score=score,
      position=NoPosition(),
      mask=(Padding(),),
      output=crossing or (Plain(),),
    )

  @property
  def every_parts(self) -> list[Parts]:
    """Returns what each kind of attention is composed of."""
    own = [self.parts_of(s) for s in self.stacks if s.attends_itself]
    crosses = any(stack.attends_memory for stack in self.stacks)
    return [*own, *([self.cross_parts] if crosses else [])]

  def dims(self, seq_len: int, vocab_size: int, num_classes: int = 0) -> Dims:
    """Returns the sizes of the axes."""
    return Dims(
      num_layers=self.num_layers,
      d_model=self.d_model,
      num_heads=self.num_heads,
      num_kv_heads=self.num_kv_heads or self.num_heads,
      head_dim=self.head_dim or self.d_model // self.num_heads,
      seq_len=seq_len,
      vocab_size=vocab_size,
      use_bias=self.use_bias,
      num_classes=num_classes,
    )

  def block_tables(
    self, dims: Dims, stack: Stack | None = None
  ) -> dict[str, dict[str, Param]]:
    """Returns `{part: {name: parameter}}` of one block, by default the last."""
    stack = stack or self.stacks[-1]
    tables: dict[str, dict[str, Param]] = {}
    if stack.attends_itself:
      tables |= self._attention_tables(dims, self.output, self.score)
      tables['norm_attention'] = self.norm.params(dims)
    if stack.attends_memory:
      crossing = self.cross_parts
      cross = self._attention_tables(dims, crossing.output, crossing.score)
      tables |= {crossed(part): table for part, table in cross.items()}
      tables['norm_cross'] = self.norm.params(dims)
    if not isinstance(self.feedforward, NoFeedForward):
      tables['feedforward'] = self.feedforward.params(dims)
      tables['norm_feedforward'] = self.norm.params(dims)
    return tables

  def _attention_tables(
    self, dims: Dims, outputs: Sequence[Plain], score: Score
  ) -> dict[str, dict[str, Param]]:
    """Returns `{part: {name: parameter}}` of one attention."""
    # To a score, H is the width of a query of one map.
    width = self.projections.widths(dims).query // self.parts.maps
    score_dims = dataclasses.replace(dims, head_dim=width)
    return {
      'attention': self.projections.params(dims, score.reads),
      'qk_norm': self.qk_norm.params(score_dims),
      'score': score.params(score_dims),
      'scale': self.scale.params(score_dims),
      'normalizer': self.normalizer.params(dims),
    } | {part_of(output): output.params(dims) for output in outputs}

  def outer_tables(self, dims: Dims) -> dict[str, dict[str, Param]]:
    """Returns `{part: {name: parameter}}` of what is not in a block."""
    tables = {
      'embedding': {'token': param('V->D', Kind.EMBEDDING, dims)},
      'position': self._positions(self.stacks[-1], dims),
    }
    if self.residual.final_norm:
      tables['norm_final'] = self.norm.params(dims)
    if self.encoder is not None:
      tables[f'position_{ENCODER}'] = self._positions(self.encoder, dims)
      if self.residual.final_norm:
        tables[f'norm_{ENCODER}'] = self.norm.params(dims)
    if self.model.has_classes:
      tables['classes'] = self.model.head(dims)
    elif not self.tie_embeddings:
      tables['unembedding'] = {'kernel': param('D->V', Kind.MATRIX, dims)}
    return tables

  def _positions(self, stack: Stack, dims: Dims) -> dict[str, Param]:
    """Returns the parameters of positions, where the stack reads them."""
    if self.position.biases and not stack.attends_itself:
      return {}
    return self.position.params(dims)

  def parameter_table(self, dims: Dims) -> dict[str, Param]:
    """Returns `{path: parameter}`; for those of blocks see `depth`.

    The paths are an interface: freezing, decay, sharding and the import of
    checkpoints go by them.
    """
    tables = self.outer_tables(dims)
    for stack in self.stacks:
      tables |= {
        f'{stack.name}/{part}': table
        for part, table in self.block_tables(dims, stack).items()
      }
    return {
      f'{part}/{name}': what
      for part, table in tables.items()
      for name, what in table.items()
    }

  def depth(self, path: str) -> int | None:
    """Returns how many layers a path of `parameter_table` stands for.

    They are stacked along a first axis, which a parameter that is in no block
    does not have.
    """
    depths = {stack.name: stack.num_layers for stack in self.stacks}
    return depths.get(path.partition('/')[0])


def crossed(part: str) -> str:
  """Returns the name of a part of cross-attention in its block."""
  return f'cross_{part}'


def of_cross(tables: Mapping[str, Params]) -> dict[str, Params]:
  """Returns the parts of cross-attention of a block, by their own names."""
  first = crossed('')
  return {
    part.removeprefix(first): table
    for part, table in tables.items()
    if part.startswith(first)
  }
