"""Model families: decoder, encoder, encoder-decoder and classifier.

A family lists its stacks of blocks.  `--mask` applies to the self-attention of
the last stack; `--mask=auto` is the mask that the family needs there.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp

from model.attention.mask import Causal, MaskBase, Padding
from model.core.field import FieldError, Variant, field
from model.core.inputs import HeadGates
from model.core.limits import DEPTH
from model.core.parameter import Dims, Param, ParamRole, param

BLOCKS, ENCODER = 'blocks', 'encoder'


@dataclasses.dataclass(frozen=True)
class Stack:
  """A sequence of blocks, such as an encoder or a decoder.

  Attributes:
    name: first part of the paths of its parameters.
    num_layers: number of blocks.
    mask: masks of the self-attention.
    has_self_attention: whether its blocks have self-attention.
    has_cross_attention: whether its blocks have cross-attention to the encoder.
  """

  name: str
  num_layers: int
  mask: tuple[MaskBase, ...]
  has_self_attention: bool = True
  has_cross_attention: bool = False

  @property
  def sees_future(self) -> bool:
    """Returns whether a query may see a later key."""
    return not any(mask.traits.hides_future for mask in self.mask)

  def site(self, name: str) -> str:
    """Returns a name for a site of dropout that is unique among stacks."""
    return name if self.name == BLOCKS else f'{self.name}/{name}'


def check_head_gates(
  head_gates: HeadGates, stacks: Sequence[Stack], dims: Dims
) -> None:
  """Raises a ValueError if the gates do not match the heads of the stacks."""
  first, last = stacks[0], stacks[-1]
  there = last.has_self_attention, last.has_cross_attention, len(stacks) > 1
  for name, gates_LN, stack, attends in zip(
    head_gates._fields, head_gates, (last, last, first), there, strict=True
  ):
    if gates_LN is None:
      continue
    if not attends:
      raise ValueError(f'head_gates.{name}: the model has no such attention')
    if gates_LN.shape != (stack.num_layers, dims.num_heads):
      raise ValueError(
        f'head_gates.{name}: must be of {stack.num_layers} layers x '
        f'{dims.num_heads} heads, but has shape {gates_LN.shape}'
      )


class FamilyTraits(NamedTuple):
  """Properties of a family that the rules read.

  Attributes:
    writes: it can generate text: its last stack is causal, unless --mask says
      otherwise.
    has_classes: it predicts one class for a whole text, and has no unembedding.
    has_source: it reads a source text first.
  """

  writes: bool = False
  has_classes: bool = False
  has_source: bool = False


class FamilyBase(Variant):
  """Base of all families: one stack that predicts tokens."""

  traits: ClassVar[FamilyTraits] = FamilyTraits()

  def stacks(
    self, num_layers: int, mask: Sequence[MaskBase]
  ) -> tuple[Stack, ...]:
    """Returns the stacks, in the order in which they run."""
    return (Stack(BLOCKS, num_layers, self.resolved(mask)),)

  def resolved(self, mask: Sequence[MaskBase]) -> tuple[MaskBase, ...]:
    """Returns the masks of the last stack, with `auto` replaced."""
    if any(m.traits.by_model for m in mask):
      return (Causal(),) if self.traits.writes else (Padding(),)
    return tuple(mask)

  def problem(self, mask: Sequence[MaskBase]) -> FieldError | None:
    """Returns an error if the family cannot have these masks, else `None`."""
    del mask
    return None

  def head(self, dims: Dims) -> dict[str, Param]:
    """Returns the parameters that replace the unembedding, by name."""
    del dims
    return {}

  def pool(self, x_BTD: jax.Array, segments_BT: jax.Array | None) -> jax.Array:
    """Returns x_B1D, the states that a classifier predicts classes from."""
    del segments_BT
    return x_BTD


@dataclasses.dataclass(frozen=True)
class Decoder(FamilyBase, tag='decoder'):
  """Sees what came before each token (Radford et al. 2018)."""

  traits: ClassVar[FamilyTraits] = FamilyTraits(writes=True)


@dataclasses.dataclass(frozen=True)
class Encoder(FamilyBase, tag='encoder'):
  """Sees both sides of each token (Devlin et al. 2019, arXiv:1810.04805)."""


@dataclasses.dataclass(frozen=True)
class EncoderDecoder(FamilyBase, tag='encoder_decoder'):
  """A decoder that attends to an encoded source (Vaswani et al. 2017).

  One table embeds source and target.  The encoder has the masks of the decoder,
  except those that hide the future, and a mask of padding.  Cross-attention has
  only a mask of padding, no positions, and only outputs that do not depend on
  the query's own position or on earlier ones (`OutputTraits.crosses`).  Without
  cross-attention there is no encoder, since nothing would read it.
  """

  traits: ClassVar[FamilyTraits] = FamilyTraits(writes=True, has_source=True)

  encoder_layers: int | None = field(
    None, 'Blocks of the encoder; `none` is --num_layers.', min=1, max=DEPTH
  )
  self_attention: bool = field(True, 'Self-attention in the decoder.')
  cross_attention: bool = field(True, 'Attention to the source.')

  def problems(self) -> Iterator[FieldError]:
    """Yields an error for each rule that the fields break together."""
    if self.encoder_layers is not None and not self.cross_attention:
      yield FieldError(
        'encoder_layers',
        self.encoder_layers,
        'has no effect without attention to the encoder: drop it, or set '
        '--model.cross_attention=true',
      )
    if not self.self_attention and not self.cross_attention:
      yield FieldError(
        'self_attention',
        self.self_attention,
        'leaves the decoder without any attention, because of '
        '--model.cross_attention=false: keep one of them',
      )

  def problem(self, mask: Sequence[MaskBase]) -> FieldError | None:
    """Returns an error if the family cannot have these masks, else `None`."""
    prefixes = [m.tag for m in mask if m.given()]
    if not prefixes:
      return None
    return FieldError(
      'mask',
      tuple(mask),
      f'{prefixes[0]} shows the given beginning of a text, and no part of a '
      'target is given: use causal instead',
    )

  def stacks(
    self, num_layers: int, mask: Sequence[MaskBase]
  ) -> tuple[Stack, ...]:
    """Returns the encoder and the decoder."""
    own = self.resolved(mask)
    decoder = Stack(
      BLOCKS, num_layers, own, self.self_attention, self.cross_attention
    )
    if not self.cross_attention:
      return (decoder,)
    both_ways = tuple(
      m
      for m in own
      if not m.traits.hides_targets and not m.traits.reads_segments
    )
    return (
      Stack(
        ENCODER, self.encoder_layers or num_layers, (*both_ways, Padding())
      ),
      decoder,
    )


@dataclasses.dataclass(frozen=True)
class Classifier(FamilyBase, tag='classifier'):
  """An encoder, pooled and projected on classes (Devlin et al. 2019, 4.1).

  Departure: no hidden layer between the pooled state and the classes.
  """

  traits: ClassVar[FamilyTraits] = FamilyTraits(has_classes=True)

  pooling: Literal['mean', 'cls'] = field(
    'mean', 'Mean of all positions but padding, or the first position, <cls>:'
  )

  def problem(self, mask: Sequence[MaskBase]) -> FieldError | None:
    """Returns an error if the family cannot have these masks, else `None`."""
    hiding = [m.tag for m in mask if m.traits.hides_future]
    if self.pooling == 'cls' and hiding:
      return FieldError(
        'model.pooling',
        self.pooling,
        f'reads the first position, which sees nothing with --mask={hiding[0]}'
        ': try --model.pooling=mean',
      )
    return None

  def pool(self, x_BTD: jax.Array, segments_BT: jax.Array | None) -> jax.Array:
    """Returns x_B1D, the pooled state of the whole text."""
    if self.pooling == 'cls':
      return x_BTD[:, :1]
    if segments_BT is None:
      return x_BTD.mean(1, keepdims=True)
    real_BT = (segments_BT != 0).astype(x_BTD.dtype)
    share_BT = real_BT / jnp.maximum(real_BT.sum(1, keepdims=True), 1)
    # An einsum: XLA fuses a sum, and then rounds it differently in each layout.
    return jnp.einsum('BTD,BT->BD', x_BTD, share_BT)[:, None]

  def head(self, dims: Dims) -> dict[str, Param]:
    """Returns the parameters of the projection to classes."""
    classes = {'C': dims.num_classes}
    table = {'kernel': param('D->C', ParamRole.MATRIX, dims, classes)}
    if dims.use_bias:
      table['bias'] = param('->C', ParamRole.BIAS, dims, classes)
    return table
