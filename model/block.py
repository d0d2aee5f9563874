"""One block: its sub-layers, each joined to the stream by --residual."""

import functools
from typing import Any

import jax
from flax import linen as nn

from model import cache
from model.architecture.choices import ArchitectureFields
from model.architecture.family import Stack
from model.architecture.tables import of_cross
from model.attention.parts import AttentionParts, Keys, ParamTables
from model.attention_layer import AttentionLayer
from model.backends.base import BackendBase
from model.core.dropout import dropout, site_keys
from model.core.parameter import Dims
from model.core.side_output import (
  BLOCK_INPUT,
  CROSS_WEIGHTS,
  RESIDUAL,
  WEIGHTS,
  Aux,
  SideOutput,
)
from model.cross_attention import cross_attention
from model.interfaces import (
  AttentionOutput,
  BlockCache,
  BlockCarry,
  BlockResult,
  CallContext,
  LayerInputs,
)
from model.layers.residual import Stream
from model.linen import Parameters


class Block(nn.Module):
  """Self-attention, cross-attention and feed-forward, joined by --residual.

  Cross-attention is there only in a stack that attends to a source.
  """

  architecture: ArchitectureFields
  dims: Dims
  stack: Stack
  backend: BackendBase

  @nn.compact
  def __call__(
    self, carry: BlockCarry, layer: LayerInputs, context: CallContext
  ) -> BlockResult:
    """Applies the sub-layers of the block one after another."""
    arch, params = self.architecture, self._parameters()

    def run_sublayer(site: str, stream: Stream, sublayer: Any) -> Any:
      norm = functools.partial(arch.norm.apply, params[f'norm_{site}'])
      residual_params = params[f'residual_{site}']
      return arch.residual.connect(
        residual_params,
        stream,
        layer.number,
        norm,
        lambda y_BTD: sublayer(params, y_BTD, carry, layer, context),
      )

    stream, first_BTKH = carry
    aux: dict[SideOutput, jax.Array] = {
      BLOCK_INPUT: arch.residual.finish(stream)
    }
    entry, source_keys = layer.cache_entry, None
    if self.stack.has_self_attention:
      stream, attended = run_sublayer('attention', stream, self._attention)
      first_BTKH, entry = attended.first_BTKH, attended.cache_entry
      if attended.weights_BNTS is not None:
        aux[WEIGHTS] = attended.weights_BNTS
    elif entry is not None:
      entry = cache.append_documents(entry, context.at, context.index)
    if self.stack.has_cross_attention:
      stream, attended = run_sublayer('cross', stream, self._cross)
      source_keys = attended.cache_entry
      if attended.weights_BNTS is not None:
        aux[CROSS_WEIGHTS] = attended.weights_BNTS
    if 'feedforward' in params:
      stream, own_aux = run_sublayer('feedforward', stream, self._feedforward)
      aux |= own_aux
    aux[RESIDUAL] = arch.residual.finish(stream)
    # Without a cache the keys of the source are not stored.
    if layer.cache_entry is None:
      source_keys = None
    assert source_keys is None or isinstance(source_keys, Keys)
    carry = BlockCarry(stream, first_BTKH)
    return BlockResult(carry, aux, BlockCache(entry, source_keys))

  def _attention(
    self,
    params: ParamTables,
    y_BTD: jax.Array,
    carry: BlockCarry,
    layer: LayerInputs,
    context: CallContext,
  ) -> tuple[jax.Array, AttentionOutput]:
    """Returns the output of self-attention after dropout, and its details."""
    attention = self._attention_layer(
      self.architecture.parts_of(self.stack), params, context
    )
    rngs_B = self._dropout_rngs(layer, context, 'attention')
    attended = attention(y_BTD, carry.first_BTKH, layer, context, rngs_B)
    out_BTD = self._dropout(attended.out_BTD, layer, context, 'attention_out')
    return out_BTD, attended

  def _cross(
    self,
    params: ParamTables,
    y_BTD: jax.Array,
    carry: BlockCarry,
    layer: LayerInputs,
    context: CallContext,
  ) -> tuple[jax.Array, AttentionOutput]:
    """Returns the output of cross-attention after dropout, and its details."""
    del carry
    attention = self._attention_layer(
      self.architecture.cross_parts, of_cross(params), context
    )
    rngs_B = self._dropout_rngs(layer, context, 'cross')
    attended = cross_attention(attention, y_BTD, layer, context, rngs_B)
    return self._dropout(
      attended.out_BTD, layer, context, 'cross_out'
    ), attended

  def _feedforward(
    self,
    params: ParamTables,
    y_BTD: jax.Array,
    carry: BlockCarry,
    layer: LayerInputs,
    context: CallContext,
  ) -> tuple[jax.Array, Aux]:
    """Returns the output of the feed-forward, and its side outputs."""
    del carry
    out_BTD, aux = self.architecture.feedforward.apply(
      params['feedforward'],
      y_BTD,
      self._dropout_rngs(layer, context, 'feedforward'),
      context.at.segment,
    )
    return self._dropout(out_BTD, layer, context, 'feedforward_out'), aux

  def _dropout_rngs(
    self, layer: LayerInputs, context: CallContext, site: str
  ) -> jax.Array | None:
    """Returns one PRNG key per example for dropout at a site of this layer."""
    return site_keys(context.rngs_B, layer.number, self.stack.site(site))

  def _dropout(
    self, y_BTD: jax.Array, layer: LayerInputs, context: CallContext, site: str
  ) -> jax.Array:
    """Applies dropout to the output of a sub-layer."""
    rngs_B = self._dropout_rngs(layer, context, site)
    return dropout(y_BTD, self.architecture.dropout_residual, rngs_B)

  def _parameters(self) -> dict[str, dict[str, jax.Array]]:
    """Returns the parameters of the block, by part."""
    arch, depth = self.architecture, self.stack.num_layers
    tables = arch.block_tables(self.dims, self.stack)
    return {
      part: Parameters(table, arch.init, depth, name=part)()
      for part, table in tables.items()
    }

  def _attention_layer(
    self, parts: AttentionParts, tables: ParamTables, context: CallContext
  ) -> AttentionLayer:
    params = {**tables, 'position': context.position}
    return AttentionLayer(
      self.architecture, self.dims, parts, params, self.backend
    )


def apply_block(
  block: Block,
  params: Any,
  carry: BlockCarry,
  layer: LayerInputs,
  context: CallContext,
) -> BlockResult:
  """Applies a block with the given parameters."""
  result = block.apply({'params': params}, carry, layer, context)
  assert isinstance(result, BlockResult)
  return result
