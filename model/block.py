"""One block: the only place where the residual is written."""

import functools
from typing import NamedTuple

import jax
from flax import linen as nn

from model.architecture import Architecture
from model.attention import Keys, Parts, Tables
from model.backend import Reference
from model.cache import Kept
from model.choices import of_cross
from model.dropout import dropout, site_keys
from model.family import Stack
from model.feedforward import NoFeedForward
from model.mixer import Context, Layer, Mixed, Mixer
from model.parameter import Dims, Parameters


class Carry(NamedTuple):
  """What goes from block to block; the values only if an output reads them."""

  x_BTD: jax.Array
  first_BTKH: jax.Array | None


class Left(NamedTuple):
  """What a block leaves beside the residual, each none if nobody asked."""

  weights_BNTS: jax.Array | None
  kept: Kept | None
  cross_BNTS: jax.Array | None
  cross: Keys | None


class Block(nn.Module):
  """Attention and feed-forward, each added to the residual by --residual.

  Between them is cross-attention, in a stack that attends to a source.
  """

  architecture: Architecture
  dims: Dims
  stack: Stack
  backend: Reference

  @nn.compact
  def __call__(
    self, carry: Carry, layer: Layer, context: Context
  ) -> tuple[Carry, Left]:
    """Returns the residual after the block, and what else it leaves."""
    arch, params = self.architecture, self._owned()
    mixed = Mixed(carry.x_BTD, None, carry.first_BTKH, layer.kept)
    crossed = Mixed(carry.x_BTD, None, None, None)

    def keys(place: str) -> jax.Array | None:
      return site_keys(context.keys_B, layer.number, self.stack.site(place))

    def drop(y_BTD: jax.Array, place: str) -> jax.Array:
      return dropout(y_BTD, arch.dropout_residual, keys(place))

    def attention(y_BTD: jax.Array) -> jax.Array:
      nonlocal mixed
      mix = self._mixer(arch.parts_of(self.stack), params, context)
      mixed = mix(y_BTD, carry.first_BTKH, layer, context, keys('attention'))
      return drop(mixed.out_BTD, 'attention_out')

    def cross(y_BTD: jax.Array) -> jax.Array:
      nonlocal crossed
      mix = self._mixer(arch.cross_parts, of_cross(params), context)
      crossed = mix.cross(y_BTD, layer, context, keys('cross'))
      return drop(crossed.out_BTD, 'cross_out')

    def feedforward(y_BTD: jax.Array) -> jax.Array:
      assert not isinstance(arch.feedforward, NoFeedForward)
      own, own_B = params['feedforward'], keys('feedforward')
      return drop(arch.feedforward.apply(own, y_BTD, own_B), 'feedforward_out')

    x_BTD = carry.x_BTD
    for part, sublayer in (
      ('norm_attention', attention),
      ('norm_cross', cross),
      ('norm_feedforward', feedforward),
    ):
      if part in params:
        norm = functools.partial(arch.norm.apply, params[part])
        x_BTD = arch.residual.connect(x_BTD, norm, sublayer)
    # Keys of the source are kept where there is a cache to keep them in.
    source = None if layer.kept is None else crossed.kept
    assert source is None or isinstance(source, Keys)
    return Carry(x_BTD, mixed.first_BTKH), Left(
      mixed.weights_BNTS, mixed.kept, crossed.weights_BNTS, source
    )

  def _owned(self) -> dict[str, dict[str, jax.Array]]:
    """Returns the parameters of the block by part."""
    arch, depth = self.architecture, self.stack.num_layers
    tables = arch.block_tables(self.dims, self.stack)
    return {
      part: Parameters(table, arch.init, depth, name=part)()
      for part, table in tables.items()
    }

  def _mixer(self, parts: Parts, tables: Tables, context: Context) -> Mixer:
    owned = {**tables, 'position': context.position}
    return Mixer(self.architecture, self.dims, parts, owned, self.backend)
