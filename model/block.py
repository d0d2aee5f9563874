"""One block: the only place where the residual is written."""

from typing import NamedTuple

import jax
from flax import linen as nn

from model.architecture import Architecture
from model.attention import Attended, attend
from model.dropout import dropout, site_keys
from model.feedforward import NoFeedForward
from model.norm import Map
from model.parameter import Dims, Parameters


class Context(NamedTuple):
  """What all blocks of one call share."""

  mask_TS: jax.Array
  t_T: jax.Array
  keys_B: jax.Array | None


class Block(nn.Module):
  """Attention and feed-forward, each added to the residual by --residual."""

  architecture: Architecture
  dims: Dims

  @nn.compact
  def __call__(
    self, x_BTD: jax.Array, layer: jax.Array, context: Context
  ) -> tuple[jax.Array, jax.Array]:
    """Returns the residual after the block, and weights_BNTS."""
    arch = self.architecture
    tables = arch.block_tables(self.dims)
    params = {
      part: Parameters(table, arch.init, self.dims.num_layers, name=part)()
      for part, table in tables.items()
    }
    seen: list[jax.Array] = []

    def drop(y_BTD: jax.Array, place: str) -> jax.Array:
      keys_B = site_keys(context.keys_B, layer, place)
      return dropout(y_BTD, arch.dropout_residual, keys_B)

    def attention(y_BTD: jax.Array) -> jax.Array:
      keys_B = site_keys(context.keys_B, layer, 'attention')
      mixed = _attend(arch, params['attention'], y_BTD, context, keys_B)
      seen.append(mixed.weights_BNTS)
      merged_BTD = arch.projections.merge(params['attention'], mixed.out_BTNH)
      return drop(merged_BTD, 'attention_out')

    def feedforward(y_BTD: jax.Array) -> jax.Array:
      assert not isinstance(arch.feedforward, NoFeedForward)
      keys_B = site_keys(context.keys_B, layer, 'feedforward')
      out_BTD = arch.feedforward.apply(params['feedforward'], y_BTD, keys_B)
      return drop(out_BTD, 'feedforward_out')

    def norm(part: str) -> Map:
      return lambda y_BTD: arch.norm.apply(params[part], y_BTD)

    x_BTD = arch.residual.connect(x_BTD, norm('norm_attention'), attention)
    if 'feedforward' in params:
      x_BTD = arch.residual.connect(
        x_BTD, norm('norm_feedforward'), feedforward
      )
    return x_BTD, seen[0]


def _attend(
  arch: Architecture,
  params: dict[str, jax.Array],
  x_BTD: jax.Array,
  context: Context,
  keys_B: jax.Array | None,
) -> Attended:
  """Returns the heads' outputs: split, rotate, attend."""
  heads = arch.projections.split(params, x_BTD, x_BTD, arch.num_heads)
  return attend(
    arch.position.rotate(heads.q_BTNH, context.t_T),
    arch.position.rotate(heads.k_BSNH, context.t_T),
    heads.v_BSNH,
    context.mask_TS,
    arch.scale,
    arch.normalizer,
    arch.dropout_attention,
    keys_B,
  )
