"""The architecture as one value: every choice a field, every field a flag."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

from model.attention import Parts, part_of
from model.backend import Auto, Backend
from model.backend import problem as backend_problem
from model.differential import Differential
from model.feedforward import FeedForward, Mlp, NoFeedForward
from model.field import FieldError, Record, field
from model.forget import Forget
from model.mask import Causal, Mask
from model.mask import problem as mask_problem
from model.norm import LayerNorm, NoNorm, Norm, PostNorm, PreNorm, Residual
from model.normalizer import Normalizer, Softmax
from model.output import (
  ExclusiveSelf,
  Gate,
  Plain,
  TalkingHeads,
  ValueResidual,
)
from model.parameter import Dims, Gpt2, Init, Kind, Param, param
from model.position import Learned, Position
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
class Architecture(Record):
  """Architecture: a decoder-only transformer (Radford et al. 2019)."""

  num_layers: int = field(2, 'Blocks.', min=1)
  d_model: int = field(64, 'Width of the residual.', min=1)
  num_heads: int = field(4, 'Attention heads.', min=1)
  head_dim: int | None = field(
    None, 'Width of a head; none is --d_model / --num_heads.', min=1
  )
  num_kv_heads: int | None = field(
    None, 'Heads of keys and values; none is --num_heads.', min=1
  )
  projections: Projections = field(Qkv(), 'Queries, keys and values:')
  qk_norm: QkNorm = field(NoQkNorm(), 'Normalisation of queries and keys:')
  score: Score = field(Dot(), 'Logit of a query and a key:')
  scale: Scale = field(Rsqrt(), 'Factor of the attention logits:')
  logit_cap: float | None = field(
    None,
    'c tanh(logits / c), before biases (Gemma 2, arXiv:2408.00118).',
    min=1e-3,
    traced=True,
  )
  normalizer: Normalizer = field(Softmax(), 'From logits to weights:')
  mask: tuple[Mask, ...] = field((Causal(),), 'Who attends to whom, a list:')
  position: Position = field(Learned(), 'Information on positions:')
  output: tuple[Output, ...] = field(
    (Plain(),), 'What else attention does, a list:'
  )
  backend: Backend = field(Auto(), 'How attention is computed:')
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
    if self.num_heads % (self.num_kv_heads or self.num_heads):
      near = [k for k in range(1, 65) if self.num_heads % k == 0]
      fix = min(near, key=lambda k: abs(k - (self.num_kv_heads or 1)))
      yield FieldError(
        'num_kv_heads',
        self.num_kv_heads,
        f'must divide --num_heads={self.num_heads}: try --num_kv_heads={fix}',
      )
    dims = self.dims(seq_len=1, vocab_size=1)
    yield from self.projections.problems_with(
      dims, self.head_dim, self.score.reads
    )
    if problem := mask_problem(self.mask):
      yield problem
    yield from self._score_problems(dims)
    yield from self._output_problems(dims)
    yield from self._position_problems(dims)
    yield from self._idle_problems(dims)
    if problem := backend_problem(self.backend, self.parts):
      yield problem

  def _score_problems(self, dims: Dims) -> Iterator[FieldError]:
    """Yields what is wrong between the score and what is done to q and k."""
    if problem := self.score.problem(dims):
      yield problem
    if self.normalizer.rectifies and not self.score.positive:
      yield FieldError(
        'normalizer',
        self.normalizer,
        'gives no key any weight, because no logit is above 0 with '
        f'--score={self.score.tag}: try --normalizer=softmax',
      )
    if all(self.score.reads):
      return
    changing: list[tuple[str, object, bool]] = [
      ('position', self.position, self.position.rotates),
      ('qk_norm', self.qk_norm, type(self.qk_norm) is not NoQkNorm),
      ('output', self.output, self.parts.maps > 1),
    ]
    for flag, value, changes in changing:
      if changes:
        yield FieldError(
          flag,
          value,
          f'changes queries and keys, not both of which '
          f'--score={self.score.tag} reads: try --score=dot',
        )

  def _position_problems(self, dims: Dims) -> Iterator[FieldError]:
    """Yields what is wrong between positions and what they rotate."""
    width, rotary, _ = self.projections.widths(dims)
    if self.position.rotates and not rotary:
      yield FieldError(
        'projections.rope_dim',
        rotary,
        f'leaves --position={self.position.tag} nothing to rotate: make it '
        'larger',
      )
    if self.parts.maps > 1 and width != rotary:
      yield FieldError(
        'output',
        self.output,
        f'halves queries, of which --projections={self.projections.tag} '
        'rotates a part: try --projections=qkv',
      )
    rotated = dataclasses.replace(dims, head_dim=rotary // self.parts.maps)
    if problem := self.position.problem(rotated):
      yield problem

  def _output_problems(self, dims: Dims) -> Iterator[FieldError]:
    """Yields what is wrong between outputs and the rest."""
    tags = [output.tag for output in self.output]
    if len(set(tags)) < len(tags):
      yield FieldError('output', self.output, 'must name each output once')
    if 'plain' in tags and len(tags) > 1:
      yield FieldError(
        'output', self.output, 'plain has no effect beside others: drop it'
      )
    for output in self.output:
      if problem := output.problem(dims):
        yield problem
      if output.fades and not any(mask.hides_future for mask in self.mask):
        yield FieldError(
          'output',
          self.output,
          f'{output.tag} is a decay along the past: add causal to --mask',
        )
      if output.fades and not self.normalizer.exponential:
        yield FieldError(
          'output',
          self.output,
          f'{output.tag} adds the logarithm of a decay, and logits are no '
          f'logarithms with --normalizer={self.normalizer.tag}: try softmax',
        )

  def _idle_problems(self, dims: Dims) -> Iterator[FieldError]:
    """Yields what has no effect with all the rest."""
    if isinstance(self.norm, NoNorm) and isinstance(self.residual, PostNorm):
      yield FieldError(
        'residual',
        self.residual,
        'has no effect with --norm=none: try --residual=pre',
      )
    without = dataclasses.replace(dims, use_bias=False)
    if self.use_bias and self.parameter_table(dims) == self.parameter_table(
      without
    ):
      yield FieldError(
        'use_bias',
        True,
        'has no effect, because nothing that is chosen has a bias: try '
        '--use_bias=false',
      )

  @property
  def parts(self) -> Parts:
    """Returns what attention is composed of; outputs in their order."""
    return Parts(
      score=self.score,
      scale=self.scale,
      logit_cap=self.logit_cap,
      position=self.position,
      mask=self.mask,
      normalizer=self.normalizer,
      output=tuple(sorted(self.output, key=lambda output: output.stage)),
      dropout=self.dropout_attention,
      dtype=self.dtype,
      widths=self.projections.widths(self.dims(seq_len=1, vocab_size=1)),
    )

  def dims(self, seq_len: int, vocab_size: int) -> Dims:
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
    )

  def _score_dims(self, dims: Dims) -> Dims:
    """Returns the sizes with H the width of a query of one map."""
    width = self.projections.widths(dims).query // self.parts.maps
    return dataclasses.replace(dims, head_dim=width)

  def block_tables(self, dims: Dims) -> dict[str, dict[str, Param]]:
    """Returns `{part: {name: parameter}}` of one block."""
    score_dims = self._score_dims(dims)
    tables = {
      'attention': self.projections.params(dims, self.score.reads),
      'qk_norm': self.qk_norm.params(score_dims),
      'score': self.score.params(score_dims),
      'scale': self.scale.params(score_dims),
      'normalizer': self.normalizer.params(dims),
      'norm_attention': self.norm.params(dims),
    }
    for output in self.output:
      tables[part_of(output)] = output.params(dims)
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
