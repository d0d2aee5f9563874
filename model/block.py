"""One block: the only place where the residual is written."""

from typing import NamedTuple

import jax
from flax import linen as nn

from model.architecture import Architecture
from model.backend import Reference
from model.cache import Kept
from model.dropout import dropout, site_keys
from model.feedforward import NoFeedForward
from model.mixer import Context, Layer, Mixed, Mixer
from model.norm import Map
from model.parameter import Dims, Parameters


class Carry(NamedTuple):
  """What goes from block to block; the values only if an output reads them."""

  x_BTD: jax.Array
  first_BTKH: jax.Array | None


class Left(NamedTuple):
  """What a block leaves beside the residual, each none if nobody asked."""

  weights_BNTS: jax.Array | None
  kept: Kept | None


class Block(nn.Module):
  """Attention and feed-forward, each added to the residual by --residual."""

  architecture: Architecture
  dims: Dims
  backend: Reference

  @nn.compact
  def __call__(
    self, carry: Carry, layer: Layer, context: Context
  ) -> tuple[Carry, Left]:
    """Returns the residual after the block, and what else it leaves."""
    arch = self.architecture
    tables = arch.block_tables(self.dims)
    params = {
      part: Parameters(table, arch.init, self.dims.num_layers, name=part)()
      for part, table in tables.items()
    }
    mix = Mixer(
      arch, self.dims, params | {'position': context.position}, self.backend
    )
    seen: list[Mixed] = []

    def drop(y_BTD: jax.Array, place: str) -> jax.Array:
      keys_B = site_keys(context.keys_B, layer.number, place)
      return dropout(y_BTD, arch.dropout_residual, keys_B)

    def attention(y_BTD: jax.Array) -> jax.Array:
      keys_B = site_keys(context.keys_B, layer.number, 'attention')
      seen.append(mix(y_BTD, carry.first_BTKH, layer, context, keys_B))
      return drop(seen[0].out_BTD, 'attention_out')

    def feedforward(y_BTD: jax.Array) -> jax.Array:
      assert not isinstance(arch.feedforward, NoFeedForward)
      keys_B = site_keys(context.keys_B, layer.number, 'feedforward')
      out_BTD = arch.feedforward.apply(params['feedforward'], y_BTD, keys_B)
      return drop(out_BTD, 'feedforward_out')

    def norm(part: str) -> Map:
      return lambda y_BTD: arch.norm.apply(params[part], y_BTD)

    x_BTD = arch.residual.connect(
      carry.x_BTD, norm('norm_attention'), attention
    )
    if 'feedforward' in params:
      x_BTD = arch.residual.connect(
        x_BTD, norm('norm_feedforward'), feedforward
      )
    (mixed,) = seen
    return Carry(x_BTD, mixed.first_BTKH), Left(mixed.weights_BNTS, mixed.kept)
