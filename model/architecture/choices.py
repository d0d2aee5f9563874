"""The fields of an architecture, and the layers and parameters they imply."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax

from model.architecture import tables
from model.architecture.family import Decoder, FamilyBase, Stack
from model.architecture.layer_choices import LayerChoices
from model.attention.mask import AutoMask, MaskBase, Padding
from model.attention.normalizers.base import NormalizerBase
from model.attention.normalizers.dense import Softmax
from model.attention.outputs.base import OutputBase, Plain
from model.attention.parts import AttentionParts
from model.attention.projections.base import ProjectionsBase, Qkv
from model.attention.qk_norm import NoQkNorm, QkNormBase
from model.attention.scale import Rsqrt, ScaleBase
from model.attention.scores.base import Dot, ScoreBase
from model.backends.base import AutoBackend, BackendBase
from model.core.field import Record, field, replace_unchecked
from model.core.limits import DEPTH, DROPOUT_RATE, REAL, WIDTH
from model.core.parameter import Dims, Gpt2, InitBase, Param
from model.core.side_output import Aux
from model.layers.feedforward import FeedForwardBase, Mlp
from model.layers.norm import LayerNorm, NormBase
from model.layers.read_in import LinearReadIn, ReadInBase
from model.layers.read_out import LinearReadOut, ReadOutBase
from model.layers.residual import PreNorm, ResidualBase
from model.position.base import LearnedPosition, NoPosition, PositionBase

# Repeats of the pattern up to which blocks are unrolled.  On two CPU cores the
# unrolled step was the faster at 2, 4 and 6 layers, and took at most 3 CPU
# seconds longer to compile, which grows with the depth.
MOST_UNROLLED = 12


@dataclasses.dataclass(frozen=True)
class ArchitectureFields(Record):
  """The fields of `Architecture`, without the rules between them."""

  model: FamilyBase = field(
    Decoder(), 'Kind of model that is built from the blocks:'
  )
  num_layers: int = field(2, 'Blocks.', min=1, max=DEPTH)
  d_model: int = field(64, 'Width of the residual.', min=1, max=WIDTH)
  num_heads: int = field(4, 'Attention heads.', min=1, max=WIDTH)
  head_dim: int | None = field(
    None,
    'Width of a head; `none` is --d_model / --num_heads.',
    min=1,
    max=WIDTH,
  )
  num_kv_heads: int | None = field(
    None, 'Heads of keys and values; `none` is --num_heads.', min=1, max=WIDTH
  )
  projections: ProjectionsBase = field(Qkv(), 'Queries, keys and values:')
  qk_norm: QkNormBase = field(NoQkNorm(), 'Normalisation of queries and keys:')
  score: ScoreBase = field(Dot(), 'Logit of a query and a key:')
  scale: ScaleBase = field(Rsqrt(), 'Factor of the attention logits:')
  logit_cap: float | None = field(
    None,
    'c tanh(logits / c), before biases (Gemma 2, arXiv:2408.00118).',
    min=1e-3,
    max=REAL,
    traced=True,
  )
  normalizer: NormalizerBase = field(Softmax(), 'From logits to weights:')
  mask: tuple[MaskBase, ...] = field(
    (AutoMask(),), 'Which keys a query may attend to, a list:'
  )
  position: PositionBase = field(LearnedPosition(), 'Information on positions:')
  output: tuple[OutputBase, ...] = field(
    (Plain(),), 'Changes to attention and to its output, a list:'
  )
  backend: BackendBase = field(AutoBackend(), 'How attention is computed:')
  norm: NormBase = field(LayerNorm(), 'Normalisation:')
  residual: ResidualBase = field(PreNorm(), 'Where the norm sits:')
  feedforward: FeedForwardBase = field(Mlp(), 'Feed-forward sub-layer:')
  scale_embeddings: bool = field(
    False,
    'Multiply token embeddings by sqrt(--d_model) (Vaswani et al. 2017, 3.4).',
  )
  tie_embeddings: bool = field(
    True, 'Use the transposed embedding as the unembedding.'
  )
  read_in: ReadInBase = field(
    LinearReadIn(), 'How the model reads vectors, if the task gives vectors:'
  )
  read_out: ReadOutBase = field(
    LinearReadOut(),
    'How the model predicts vectors, if the task asks for vectors:',
  )
  use_bias: bool = field(False, 'Biases in projections and LayerNorm.')
  init: InitBase = field(Gpt2(), 'Initial values of matrices and embeddings:')
  dropout_embedding: float = field(
    0.0, 'Dropout of the input.', min=0.0, max=DROPOUT_RATE, traced=True
  )
  dropout_attention: float = field(
    0.0,
    'Dropout of the attention weights.',
    min=0.0,
    max=DROPOUT_RATE,
    traced=True,
  )
  dropout_residual: float = field(
    0.0, 'Dropout of sub-layer outputs.', min=0.0, max=DROPOUT_RATE, traced=True
  )
  pattern: tuple[LayerChoices, ...] = field(
    (),
    'Choices that differ between layers and repeat along them, e.g. '
    '"mask=causal,window; mask=causal&position=none": fields of each layer:',
  )
  dtype: Literal['float32', 'bfloat16'] = field(
    'float32', 'Type of the computation; parameters stay float32:'
  )
  remat: bool = field(False, 'Recompute blocks in the backward pass.')
  scan_layers: bool | None = field(
    None,
    'Run all layers by one compiled block, in a loop; false compiles each by '
    f'itself, which runs faster and compiles longer; `none`: false up to '
    f'{MOST_UNROLLED} repeats of the pattern.',
  )

  def scans(self, periods: int) -> bool:
    """Returns whether a loop runs this many repeats of the pattern."""
    if self.scan_layers is not None:
      return self.scan_layers
    return periods > MOST_UNROLLED

  @property
  def stacks(self) -> tuple[Stack, ...]:
    """Returns the stacks of blocks, in the order in which they run."""
    return self.model.stacks(self.num_layers, self.mask)

  @property
  def encoder(self) -> Stack | None:
    """Returns the stack that encodes the source, or `None` if there is none."""
    first, *others = self.stacks
    return first if others else None

  @property
  def layers(self) -> tuple['ArchitectureFields', ...]:
    """Returns the choices of each layer in one period of the pattern.

    Without a pattern there is one entry, for all layers.  Numbers may be
    tracers, so nothing is checked here.
    """
    if not self.pattern:
      return (self,)
    return tuple(
      replace_unchecked(self, {'pattern': (), **own.chosen})
      for own in self.pattern
    )

  @property
  def groups(self) -> tuple['LayerGroup', ...]:
    """Returns the groups of equal layers, stack by stack."""
    period = len(self.layers)
    return tuple(
      LayerGroup(
        stack.name if period == 1 else f'{stack.name}_{n}',
        arch,
        arch.stacks[s],
        tuple(range(n, stack.num_layers, period)),
      )
      for s, stack in enumerate(self.stacks)
      for n, arch in enumerate(self.layers)
    )

  @property
  def masks(self) -> tuple[MaskBase, ...]:
    """Returns the masks that all layers of the last stack share.

    Further masks of a layer only hide more keys from it (see `rules`).
    """
    first, *others = (arch.stacks[-1].mask for arch in self.layers)
    return tuple(m for m in first if all(m in other for other in others))

  @property
  def every_mask(self) -> tuple[MaskBase, ...]:
    """Returns the masks that at least one layer of the last stack has."""
    own = [m for arch in self.layers for m in arch.stacks[-1].mask]
    return tuple(m for n, m in enumerate(own) if m not in own[:n])

  @property
  def parts(self) -> AttentionParts:
    """Returns the parts of self-attention in the last stack."""
    return self.parts_of(self.stacks[-1])

  def parts_of(self, stack: Stack) -> AttentionParts:
    """Returns the parts of self-attention in a stack, outputs by stage."""
    return AttentionParts(
      score=self.score.for_direction(stack.sees_future),
      scale=self.scale,
      logit_cap=self.logit_cap,
      position=self.position.for_direction(stack.sees_future),
      mask=stack.mask,
      normalizer=self.normalizer,
      output=tuple(sorted(self.output, key=lambda output: output.traits.stage)),
      dropout=self.dropout_attention,
      dtype=self.dtype,
      widths=self.projections.widths(self.dims(seq_len=1, vocab_size=1)),
    )

  @property
  def cross_parts(self) -> AttentionParts:
    """Returns the parts of cross-attention.

    A score that does not read both queries and keys cannot find anything in a
    source.  Cross-attention then uses a dot product, as the papers on
    translation do (Raganato et al. 2020).
    """
    parts = self.parts
    score = self.score if all(self.score.traits.reads) else Dot()
    crossing = tuple(output for output in parts.output if output.traits.crosses)
    return parts._replace(
      score=score,
      position=NoPosition(),
      mask=(Padding(),),
      output=crossing or (Plain(),),
    )

  @property
  def every_parts(self) -> list[AttentionParts]:
    """Returns the parts of each attention that the model has."""
    if self.pattern:
      return [parts for arch in self.layers for parts in arch.every_parts]
    own = [self.parts_of(s) for s in self.stacks if s.has_self_attention]
    crosses = any(stack.has_cross_attention for stack in self.stacks)
    return [*own, *([self.cross_parts] if crosses else [])]

  def penalty_B(
    self,
    aux: Mapping[str, Aux],
    sum_over_devices: Callable[[jax.Array], jax.Array],
  ) -> jax.Array | None:
    """Returns the penalty that the model adds to the loss of each example.

    Args:
      aux: side outputs by group of layers.
      sum_over_devices: sums an array over the devices that share the batch.

    Returns:
      The penalties, or `None` if the model adds none.
    """
    penalties = []
    for group in self.groups:
      own_B = group.arch.feedforward.penalty_B(
        aux[group.name], sum_over_devices
      )
      penalties += [] if own_B is None else [own_B]
    return sum(penalties[1:], start=penalties[0]) if penalties else None

  def figures(self, sums: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
    """Returns metrics of the inside of the model, by name.

    Args:
      sums: side outputs summed over examples, by group of layers and name.
    """
    found: dict[str, list[float]] = {}
    for group in self.groups:
      own = group.arch.feedforward.figures(sums[group.name])
      for name, value in own.items():
        found.setdefault(name, []).append(value)
    return {name: sum(own) / len(own) for name, own in found.items()}

  def after_update(
    self, params: Any, sums: Mapping[str, Mapping[str, Any]]
  ) -> Any:
    """Applies the changes to parameters that do not come from gradients.

    Args:
      params: parameters after the update.
      sums: side outputs summed over the batch, by group of layers and name.
    """
    for group in self.groups:
      own = params.get(group.name, {}).get('feedforward', {})
      new = group.arch.feedforward.after_update(own, sums[group.name])
      if new is not own:
        params = {
          **params,
          group.name: {**params[group.name], 'feedforward': new},
        }
    return params

  def dims(
    self,
    seq_len: int,
    vocab_size: int,
    num_classes: int = 0,
    num_inputs: int = 0,
    num_outputs: int = 0,
  ) -> Dims:
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
      num_inputs=num_inputs,
      num_outputs=num_outputs,
    )

  def block_tables(
    self, dims: Dims, stack: Stack | None = None
  ) -> dict[str, dict[str, Param]]:
    """Returns `{part: {name: parameter}}` of a block of a stack.

    The default is the last stack.
    """
    return tables.block_tables(self, dims, stack or self.stacks[-1])

  def outer_tables(self, dims: Dims) -> dict[str, dict[str, Param]]:
    """Returns `{part: {name: parameter}}` of all that is outside of blocks."""
    return tables.outer_tables(self, dims)

  def parameter_table(self, dims: Dims) -> dict[str, Param]:
    """Returns `{path: parameter}`; parameters of blocks have a `depth`.

    The paths are an interface: freezing, decay, sharding and the import of
    checkpoints refer to them.
    """
    found = {
      f'{part}/{name}': spec
      for part, table in self.outer_tables(dims).items()
      for name, spec in table.items()
    }
    for group in self.groups:
      depth = len(group.numbers)
      found |= {
        f'{group.name}/{part}/{name}': dataclasses.replace(spec, depth=depth)
        for part, table in group.arch.block_tables(dims, group.stack).items()
        for name, spec in table.items()
      }
    return found

  def depth(self, path: str) -> int | None:
    """Returns how many layers the parameter at `path` is stacked over.

    They are its first axis.  For a parameter outside of blocks it is `None`.
    """
    depths = {group.name: len(group.numbers) for group in self.groups}
    return depths.get(path.partition('/')[0])


class LayerGroup(NamedTuple):
  """Layers of a stack with equal choices, whose parameters are one array.

  Attributes:
    name: first part of the paths of their parameters.
    arch: choices of these layers, without a pattern.
    stack: stack that they belong to.
    numbers: numbers of the layers in the stack, from 0.
  """

  name: str
  arch: ArchitectureFields
  stack: Stack
  numbers: tuple[int, ...]
