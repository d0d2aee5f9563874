"""Families: what is made of the same blocks, and what it predicts.

A family lists its stacks of blocks.  `--mask` is that of the self-attention of
the last stack; `auto` is what the family needs there.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp

from model.field import FieldError, Variant, field
from model.limits import DEPTH
from model.mask import ByModel, Causal, Mask, Padding, Prefix, Segments
from model.parameter import Dims, Kind, Param, param

BLOCKS, ENCODER = 'blocks', 'encoder'


@dataclasses.dataclass(frozen=True)
class Stack:
  """Blocks one after another, whose parameters lie under `name`.

  Attributes:
    name: first part of the paths.
    num_layers: how many blocks.
    mask: of the self-attention.
    attends_itself: its blocks have self-attention.
    attends_memory: its blocks attend to what the encoder gives.
  """

  name: str
  num_layers: int
  mask: tuple[Mask, ...]
  attends_itself: bool = True
  attends_memory: bool = False

  @property
  def sees_future(self) -> bool:
    """Returns whether a query may see a later key."""
    return not any(mask.hides_future for mask in self.mask)

  def site(self, place: str) -> str:
    """Returns the name of a place of dropout, which no other stack has."""
    return place if self.name == BLOCKS else f'{self.name}/{place}'


@dataclasses.dataclass(frozen=True)
class Decoder(Variant, tag='decoder'):
  """Sees what came before each token (Radford et al. 2018).

  Attributes:
    writes: its last stack is causal unless --mask says otherwise, so that it
      can write one token after another.
    has_classes: it predicts one class of a whole text, and unembeds nothing.
    has_source: it reads another text first.
  """

  writes: ClassVar[bool] = True
  has_classes: ClassVar[bool] = False
  has_source: ClassVar[bool] = False

  def stacks(self, num_layers: int, mask: Sequence[Mask]) -> tuple[Stack, ...]:
    """Returns the stacks, in the order in which they run."""
    return (Stack(BLOCKS, num_layers, self.resolved(mask)),)

  def resolved(self, mask: Sequence[Mask]) -> tuple[Mask, ...]:
    """Returns the masks of the last stack, without `auto`."""
    if any(isinstance(m, ByModel) for m in mask):
      return (Causal(),) if self.writes else (Padding(),)
    return tuple(mask)

  def problem(self, mask: Sequence[Mask]) -> FieldError | None:
    """Returns why the family does not go with masks, if it does not."""
    del mask
    return None

  def head(self, dims: Dims) -> dict[str, Param]:
    """Returns the parameters of what stands in for the unembedding."""
    del dims
    return {}


@dataclasses.dataclass(frozen=True)
class Encoder(Decoder, tag='encoder'):
  """Sees both sides of each token (Devlin et al. 2019, arXiv:1810.04805)."""

  writes: ClassVar[bool] = False


@dataclasses.dataclass(frozen=True)
class Classifier(Encoder, tag='classifier'):
  """An encoder, pooled and projected on classes (Devlin et al. 2019, 4.1).

  Departure: no hidden layer between the pooled state and the classes.
  """

  has_classes: ClassVar[bool] = True

  pooling: Literal['mean', 'cls'] = field(
    'mean', 'Mean of all that is no padding, or the first position, <cls>:'
  )

  def problem(self, mask: Sequence[Mask]) -> FieldError | None:
    """Returns why the family does not go with masks, if it does not."""
    hiding = [m.tag for m in mask if m.hides_future]
    if self.pooling == 'cls' and hiding:
      return FieldError(
        'model.pooling',
        self.pooling,
        f'reads the first position, which sees nothing with --mask={hiding[0]}'
        ': try --model.pooling=mean',
      )
    return None

  def pooled(
    self, x_BTD: jax.Array, segments_BT: jax.Array | None
  ) -> jax.Array:
    """Returns x_B1D, the state of the whole text."""
    if self.pooling == 'cls':
      return x_BTD[:, :1]
    if segments_BT is None:
      return x_BTD.mean(1, keepdims=True)
    real_BT = (segments_BT != 0).astype(x_BTD.dtype)
    share_BT = real_BT / jnp.maximum(real_BT.sum(1, keepdims=True), 1)
    # A product: sums that XLA fuses round otherwise in another layout.
    return jnp.einsum('BTD,BT->BD', x_BTD, share_BT)[:, None]

  def head(self, dims: Dims) -> dict[str, Param]:
    """Returns the projection on classes."""
    classes = {'C': dims.num_classes}
    table = {'kernel': param('D->C', Kind.MATRIX, dims, classes)}
    if dims.use_bias:
      table['bias'] = param('->C', Kind.BIAS, dims, classes)
    return table


@dataclasses.dataclass(frozen=True)
class EncoderDecoder(Decoder, tag='encoder_decoder'):
  """A decoder that attends to an encoded source (Vaswani et al. 2017).

  One table embeds source and target.  The encoder has the masks of the decoder
  but those that hide the future, and sees no padding; neither does
  cross-attention, which has no positions and leaves out outputs that speak of
  a position's own or of earlier ones (`Plain.crosses`).  Without
  cross-attention nobody reads what an encoder gives, and there is none.
  """

  has_source: ClassVar[bool] = True

  encoder_layers: int | None = field(
    None, 'Blocks of the encoder; none is --num_layers.', min=1, max=DEPTH
  )
  self_attention: bool = field(True, 'Self-attention in the decoder.')
  cross_attention: bool = field(True, 'Attention to the source.')

  def problems(self) -> Iterator[FieldError]:
    """Yields what is wrong between fields."""
    if self.encoder_layers is not None and not self.cross_attention:
      yield FieldError(
        'encoder_layers',
        self.encoder_layers,
        'has no effect without attention to the encoder: drop it, or '
        '--model.cross_attention=true',
      )
    if not self.self_attention and not self.cross_attention:
      yield FieldError(
        'self_attention',
        self.self_attention,
        'leaves the decoder no attention beside --model.cross_attention=false: '
        'keep one',
      )

  def problem(self, mask: Sequence[Mask]) -> FieldError | None:
    """Returns why the family does not go with masks, if it does not."""
    if not any(isinstance(m, Prefix) for m in mask):
      return None
    return FieldError(
      'mask',
      tuple(mask),
      'prefix is the beginning of a text that is given, and of a target '
      'nothing is: name causal in its place',
    )

  def stacks(self, num_layers: int, mask: Sequence[Mask]) -> tuple[Stack, ...]:
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
      if not m.hides_targets and not isinstance(m, Padding | Segments)
    )
    return (
      Stack(
        ENCODER, self.encoder_layers or num_layers, (*both_ways, Padding())
      ),
      decoder,
    )


Family = Decoder | Encoder | EncoderDecoder | Classifier
