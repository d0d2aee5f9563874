"""One block: the only code that writes to the residual stream."""

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
from model.core.parameter import Dims, Parameters
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

    def connected(place: str, stream: Stream, sublayer: Any) -> Any:
      norm = functools.partial(arch.norm.apply, params[f'norm_{place}'])
      own = params[f'residual_{place}']
      return arch.residual.connect(
        own,
        stream,
        layer.number,
        norm,
        lambda y_BTD: sublayer(params, y_BTD, carry, layer, context),
      )

    stream, first_BTKH = carry
    aux: dict[SideOutput, jax.Array] = {
      BLOCK_INPUT: arch.residual.finish(stream)
    }
    kept, source_keys = layer.kept, None
    if self.stack.has_self_attention:
      stream, mixed = connected('attention', stream, self._attention)
      first_BTKH, kept = mixed.first_BTKH, mixed.kept
      if mixed.weights_BNTS is not None:
        aux[WEIGHTS] = mixed.weights_BNTS
    elif kept is not None:
      kept = cache.append_documents(kept, context.at, context.index)
    if self.stack.has_cross_attention:
      stream, mixed = connected('cross', stream, self._cross)
      source_keys = mixed.kept
      if mixed.weights_BNTS is not None:
        aux[CROSS_WEIGHTS] = mixed.weights_BNTS
    if 'feedforward' in params:
      stream, own_aux = connected('feedforward', stream, self._feedforward)
      aux |= own_aux
    aux[RESIDUAL] = arch.residual.finish(stream)
    # Without a cache the keys of the source are not stored.
    source = None if layer.kept is None else source_keys
    assert source is None or isinstance(source, Keys)
    carry = BlockCarry(stream, first_BTKH)
    return BlockResult(carry, aux, BlockCache(kept, source))

  def _attention(
    self,
    params: ParamTables,
    y_BTD: jax.Array,
    carry: BlockCarry,
    layer: LayerInputs,
    context: CallContext,
  ) -> tuple[jax.Array, AttentionOutput]:
    """Returns the output of self-attention after dropout, and all of it."""
    mix = self._mixer(self.architecture.parts_of(self.stack), params, context)
    keys_B = self._dropout_keys(layer, context, 'attention')
    mixed = mix(y_BTD, carry.first_BTKH, layer, context, keys_B)
    out_BTD = self._dropout(mixed.out_BTD, layer, context, 'attention_out')
    return out_BTD, mixed

  def _cross(
    self,
    params: ParamTables,
    y_BTD: jax.Array,
    carry: BlockCarry,
    layer: LayerInputs,
    context: CallContext,
  ) -> tuple[jax.Array, AttentionOutput]:
    """Returns the output of cross-attention after dropout, and all of it."""
    del carry
    mix = self._mixer(self.architecture.cross_parts, of_cross(params), context)
    keys_B = self._dropout_keys(layer, context, 'cross')
    mixed = cross_attention(mix, y_BTD, layer, context, keys_B)
    return self._dropout(mixed.out_BTD, layer, context, 'cross_out'), mixed

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
      self._dropout_keys(layer, context, 'feedforward'),
      context.at.segment,
    )
    return self._dropout(out_BTD, layer, context, 'feedforward_out'), aux

  def _dropout_keys(
    self, layer: LayerInputs, context: CallContext, place: str
  ) -> jax.Array | None:
    """Returns one PRNG key per example for dropout at a place of this layer."""
    return site_keys(context.keys_B, layer.number, self.stack.site(place))

  def _dropout(
    self, y_BTD: jax.Array, layer: LayerInputs, context: CallContext, place: str
  ) -> jax.Array:
    """Applies dropout to the output of a sub-layer."""
    keys_B = self._dropout_keys(layer, context, place)
    return dropout(y_BTD, self.architecture.dropout_residual, keys_B)

  def _parameters(self) -> dict[str, dict[str, jax.Array]]:
    """Creates the parameters of the block, by part."""
    arch, depth = self.architecture, self.stack.num_layers
    tables = arch.block_tables(self.dims, self.stack)
    return {
      part: Parameters(table, arch.init, depth, name=part)()
      for part, table in tables.items()
    }

  def _mixer(
    self, parts: AttentionParts, tables: ParamTables, context: CallContext
  ) -> AttentionLayer:
    owned = {**tables, 'position': context.position}
    return AttentionLayer(
      self.architecture, self.dims, parts, owned, self.backend
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
