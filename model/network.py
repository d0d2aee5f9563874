"""The Flax module of the whole network: embed, run the blocks, unembed."""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from model.architecture.architecture import Architecture
from model.architecture.choices import LayerGroup
from model.architecture.family import ENCODER, Stack
from model.attention.mask import separate
from model.backends.base import Reference
from model.block import Block, apply_block
from model.cache import Cache, last_document
from model.cached_step import run_cached
from model.core.dropout import dropout, site_keys
from model.core.inputs import (
  ModelInputs,
  Positions,
  Source,
  call_with_positions,
  document_places,
)
from model.core.linear import linear
from model.core.parameter import Dims, add_bias
from model.core.side_output import (
  ATTENTION_MAPS,
  Aux,
  Request,
  filter_requested,
)
from model.interfaces import (
  BlockCarry,
  Call,
  CallContext,
  EncodedSource,
  LayerInputs,
  ModelResult,
  NetworkOutput,
)
from model.linen import Parameters, StackedParameters


class Transformer(nn.Module):
  """The transformer: embedding, stacks of blocks, and unembedding.

  With --scan_layers all layers of a group share one compiled block; without,
  each is compiled by itself.
  """

  architecture: Architecture
  dims: Dims

  @nn.compact
  def __call__(self, inputs: ModelInputs, call: Call) -> ModelResult:
    """Runs the model on a batch."""
    arch, dims = self.architecture, self.dims
    params = {
      part: Parameters(table, arch.init, dims.num_layers, name=part)()
      for part, table in arch.outer_tables(dims).items()
    }
    memory, aux = None, {}
    if inputs.source is not None and arch.encoder is not None:
      memory, aux = self._encode(params, arch.encoder, inputs.source, call)
    at = self._positions(inputs, call.cache)
    x_BTD = self._read(params, inputs)
    x_BTD = self._add_positions(params, x_BTD, at, 'position', call.rngs_B)
    context = CallContext(at, params['position'], call.rngs_B, at.t[0], memory)
    stack, cache = arch.stacks[-1], None
    if call.cache is None:
      gates = call.head_gates.self_LN, call.head_gates.cross_LN
      x_BTD, stack_aux = self._run_blocks(
        stack, x_BTD, context, gates, call.wanted
      )
      aux = {**aux, **stack_aux}
    else:
      groups = self._groups(stack)
      carry, cache = run_cached(
        [self._block(group) for group in groups],
        [self._stacked_parameters(group) for group in groups],
        self._first_carry(x_BTD),
        context,
        call.cache,
      )
      x_BTD = arch.residual.finish(carry.stream)
    if arch.residual.traits.final_norm:
      x_BTD = arch.norm.apply(params['norm_final'], x_BTD)
    logits_BTV = _logits(arch, dims, params, x_BTD, inputs.segments_BT)
    return ModelResult(NetworkOutput(logits_BTV, aux), cache)

  def _positions(self, inputs: ModelInputs, cache: Cache | None) -> Positions:
    """Returns the positions of the input, counted on from the cache."""
    t_T, segments_BT = jnp.arange(inputs.length), inputs.segments_BT
    if cache is not None:
      t_T += cache.index
    if segments_BT is None or not separate(self.architecture.masks):
      return Positions(t_T, segments_BT)
    before = None if cache is None else last_document(cache)
    return Positions(t_T, segments_BT, document_places(segments_BT, before))

  def _read(self, params: Mapping[str, Any], inputs: ModelInputs) -> jax.Array:
    """Embeds tokens, or reads vectors, without positions."""
    if inputs.vectors_BTI is not None:
      arch = self.architecture
      return arch.read_in.apply(params['read_in'], inputs.vectors_BTI)
    assert inputs.tokens_BT is not None
    return self._embed(params, inputs.tokens_BT)

  def _embed(
    self, params: Mapping[str, Any], tokens_BT: jax.Array
  ) -> jax.Array:
    """Returns the embeddings of the tokens."""
    x_BTD = params['embedding']['token'][tokens_BT]
    if self.architecture.scale_embeddings:
      x_BTD = x_BTD * math.sqrt(self.dims.d_model)
    return x_BTD

  def _add_positions(
    self,
    params: Mapping[str, Any],
    x_BTD: jax.Array,
    at: Positions,
    position: str,
    rngs_B: jax.Array | None,
  ) -> jax.Array:
    """Adds positions, and applies dropout, to the input of a stack."""
    arch = self.architecture
    embed = functools.partial(arch.position.embed, params[position])
    x_BTD = call_with_positions(embed, x_BTD, at)
    site = 'embedding'
    if position != 'position':
      site = f'{ENCODER}/{site}'
    return dropout(x_BTD, arch.dropout_embedding, site_keys(rngs_B, 0, site))

  def _encode(
    self,
    params: Mapping[str, Any],
    stack: Stack,
    source: Source,
    call: Call,
  ) -> tuple[EncodedSource, dict[str, Aux]]:
    """Encodes the source; also returns the side outputs of the encoder."""
    arch = self.architecture
    position, s_S = f'position_{ENCODER}', jnp.arange(source.tokens_BS.shape[1])
    at = Positions(s_S, source.segments_BS)
    x_BSD = self._embed(params, source.tokens_BS)
    x_BSD = self._add_positions(params, x_BSD, at, position, call.rngs_B)
    context = CallContext(at, params[position], call.rngs_B, s_S[0], None)
    gates = call.head_gates.encoder_LN, None
    x_BSD, own = self._run_blocks(stack, x_BSD, context, gates, call.wanted)
    if arch.residual.traits.final_norm:
      x_BSD = arch.norm.apply(params[f'norm_{ENCODER}'], x_BSD)
    return EncodedSource(x_BSD, at), own

  def _run_blocks(
    self,
    stack: Stack,
    x_BTD: jax.Array,
    context: CallContext,
    gates: tuple[jax.Array | None, jax.Array | None],
    wanted: Request,
  ) -> tuple[jax.Array, dict[str, Aux]]:
    """Runs all blocks of a stack, and returns their side outputs too.

    One step of the scan runs one period of the pattern.  If the last period is
    incomplete, its layers run after the scan.
    """
    arch, groups = self.architecture, self._groups(stack)
    # Only the reference backend returns attention weights.
    wants_weights = bool(wanted & ATTENTION_MAPS)
    blocks = [self._block(group, wants_weights) for group in groups]

    def body(
      carry: BlockCarry, period: _Period
    ) -> tuple[BlockCarry, list[Aux]]:
      found = []
      for block, own, layer in zip(blocks, *period, strict=False):
        result = apply_block(block, own, carry, layer, context)
        carry = result.carry
        found.append(filter_requested(result.aux, wanted))
      return carry, found

    whole, rest = divmod(stack.num_layers, len(groups))
    scans = arch.scans(whole)
    if arch.remat:
      # Inside a scan XLA cannot merge the recomputation with the original.
      body = jax.checkpoint(body, prevent_cse=not scans)
    periods = _Period(
      [self._stacked_parameters(group) for group in groups],
      [_layer_inputs(group, gates) for group in groups],
    )
    first = jax.tree.map(lambda x_L: x_L[:whole] if rest else x_L, periods)
    unroll = 1 if scans else whole
    carry, found = jax.lax.scan(
      body, self._first_carry(x_BTD), first, length=whole, unroll=unroll
    )
    if rest:
      left = _Period(periods.params[:rest], periods.layers[:rest])
      carry, own = body(carry, jax.tree.map(lambda x_L: x_L[whole], left))
      found = [
        _append_layer(*pair) for pair in zip(found, own, strict=False)
      ] + found[rest:]
    aux = {group.name: own for group, own in zip(groups, found, strict=True)}
    return arch.residual.finish(carry.stream), aux

  def _groups(self, stack: Stack) -> list[LayerGroup]:
    """Returns the groups of equal layers of a stack."""
    groups = self.architecture.groups
    return [group for group in groups if group.stack.name == stack.name]

  def _block(self, group: LayerGroup, wants_weights: bool = False) -> Block:
    """Returns the block of a group, which may return attention weights."""
    arch = group.arch
    backend = Reference() if wants_weights else arch.backend
    return Block(arch, self.dims, group.stack, backend, parent=None)

  def _stacked_parameters(self, group: LayerGroup) -> Any:
    """Returns the parameters of a group, with its layers as first axis."""
    tables = group.arch.block_tables(self.dims, group.stack)
    return StackedParameters(
      tables, group.arch.init, len(group.numbers), name=group.name
    )()

  def _first_carry(self, x_BTD: jax.Array) -> BlockCarry:
    """Returns the carry before the first block of a stack."""
    stream = self.architecture.residual.start(x_BTD)
    outputs = [o for arch in self.architecture.layers for o in arch.output]
    if not any(output.traits.keeps_first_values for output in outputs):
      return BlockCarry(stream, None)
    heads = (self.dims.num_kv_heads, self.dims.head_dim)
    first = jnp.zeros((*x_BTD.shape[:2], *heads), x_BTD.dtype)
    return BlockCarry(stream, first)


class _Period(NamedTuple):
  """Parameters and inputs of each layer in one period of the pattern."""

  params: list[Any]
  layers: list[LayerInputs]


def _append_layer(aux: Aux, last: Aux) -> Aux:
  """Appends the side outputs of one layer to those of the layers before."""
  return jax.tree.map(lambda x_L, x: jnp.concatenate([x_L, x[None]]), aux, last)


def _layer_inputs(
  group: LayerGroup, gates: tuple[jax.Array | None, jax.Array | None]
) -> LayerInputs:
  """Returns the inputs of a group, with its layers as first axis."""
  depth = group.stack.num_layers
  if len(group.numbers) == depth:  # All layers: nothing to select.
    return LayerInputs(
      jnp.arange(depth), *gates, cache_entry=None, source_keys=None
    )
  number_L = jnp.asarray(group.numbers)
  own, cross = (None if g is None else g[number_L] for g in gates)
  return LayerInputs(number_L, own, cross, cache_entry=None, source_keys=None)


def _logits(
  arch: Architecture,
  dims: Dims,
  params: Mapping[str, Any],
  x_BTD: jax.Array,
  segments_BT: jax.Array | None,
) -> jax.Array:
  """Computes the logits or predictions from the final states."""
  wide = jnp.promote_types(x_BTD.dtype, jnp.float32)
  if arch.model.traits.has_classes:
    x_B1D = arch.model.pool(x_BTD, segments_BT)
    logits_B1C = linear(x_B1D, params['classes']['kernel'], dtype=wide)
    return add_bias(logits_B1C, params['classes'], 'bias')
  if dims.num_outputs:
    return arch.read_out.apply(params['read_out'], x_BTD, dims.num_outputs)
  kernel_DV = (
    params['embedding']['token'].T
    if arch.tie_embeddings
    else params['unembedding']['kernel']
  )
  return linear(x_BTD, kernel_DV, dtype=wide)
