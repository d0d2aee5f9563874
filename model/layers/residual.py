"""Residual connections: how a sub-layer writes to the residual stream.

Each variant defines its own stream: usually one array, but it may also be
several streams, or include a copy of the embeddings.  Blocks pass the stream on
without reading it.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax

from model.core.parameter import Dims, Param, ParametricVariant, PartParams

# A tree of arrays whose structure and shapes are the same in all layers.
Stream = Any

Extra = TypeVar('Extra')
ArrayFn = Callable[[jax.Array], jax.Array]
# A function from x_BTD to y_BTD and a second result of any type.
Sublayer = Callable[[jax.Array], tuple[jax.Array, Extra]]


class ResidualTraits(NamedTuple):
  """Properties of a residual connection that the rules read.

  Attributes:
    final_norm: a norm follows the last block.
    places_norm: it only decides where the norm is.
  """

  final_norm: bool = False
  places_norm: bool = False


class ResidualBase(ParametricVariant, abc.ABC):
  """Base of all residual connections; by default the stream is one array."""

  traits: ClassVar[ResidualTraits] = ResidualTraits()

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the parameters of one connection, by name.

    Attention, cross-attention and feed-forward each have their own connection.
    """
    del dims
    return {}

  def start(self, x_BTD: jax.Array) -> Stream:
    """Returns the stream before the first block."""
    return x_BTD

  @abc.abstractmethod
  def connect(
    self,
    params: PartParams,
    stream: Stream,
    number: jax.Array,
    norm: ArrayFn,
    sublayer: Sublayer[Extra],
  ) -> tuple[Stream, Extra]:
    """Runs a sub-layer, and returns the stream and its second result.

    Args:
      params: the parameters that `params(dims)` lists.
      stream: stream before the sub-layer.
      number: number of the layer, from 0.
      norm: norm of this sub-layer.
      sublayer: attention or feed-forward; must be called exactly once.
    """

  def finish(self, stream: Stream) -> jax.Array:
    """Returns x_BTD, the states that a stream represents."""
    return stream


@dataclasses.dataclass(frozen=True)
class PreNorm(ResidualBase, tag='pre'):
  """x + f(norm(x)), and a norm after the last block (Xiong et al. 2020)."""

  traits: ClassVar[ResidualTraits] = ResidualTraits(
    final_norm=True, places_norm=True
  )

  def connect(
    self,
    params: PartParams,
    stream: Stream,
    number: jax.Array,
    norm: ArrayFn,
    sublayer: Sublayer[Extra],
  ) -> tuple[Stream, Extra]:
    """Returns x + f(norm(x))."""
    del params, number
    y_BTD, extra = sublayer(norm(stream))
    return stream + y_BTD, extra


@dataclasses.dataclass(frozen=True)
class PostNorm(ResidualBase, tag='post'):
  """norm(x + f(x)) (Vaswani et al. 2017, section 3.1)."""

  traits: ClassVar[ResidualTraits] = ResidualTraits(places_norm=True)

  def connect(
    self,
    params: PartParams,
    stream: Stream,
    number: jax.Array,
    norm: ArrayFn,
    sublayer: Sublayer[Extra],
  ) -> tuple[Stream, Extra]:
    """Returns norm(x + f(x))."""
    del params, number
    y_BTD, extra = sublayer(stream)
    return norm(stream + y_BTD), extra


@dataclasses.dataclass(frozen=True)
class NoResidual(ResidualBase, tag='none'):
  """f(norm(x)), without a skip connection (Dong et al. 2021).

  arXiv:2103.03404: without skip connections the rows of x become equal, doubly
  exponentially in depth.  The norm is where --residual=pre has it.
  """

  traits: ClassVar[ResidualTraits] = ResidualTraits(final_norm=True)

  def connect(
    self,
    params: PartParams,
    stream: Stream,
    number: jax.Array,
    norm: ArrayFn,
    sublayer: Sublayer[Extra],
  ) -> tuple[Stream, Extra]:
    """Returns f(norm(x))."""
    del params, number
    return sublayer(norm(stream))
