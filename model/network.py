"""The network: embed, run the blocks, unembed; the one module of the model."""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from model import cache as kept_keys
from model.architecture import Architecture
from model.attention import placed
from model.backend import Reference
from model.block import Block, Carry, Left
from model.cache import Cache
from model.dropout import dropout, site_keys
from model.family import ENCODER, Classifier, Stack
from model.mask import places, separate
from model.mixer import Context, Layer, Memory
from model.parameter import Dims, Parameters, add_bias


class Output(NamedTuple):
  """What the model returns; weights only if they were asked for.

  Attributes:
    logits_BTV: of the vocabulary at every position; of classes (T = 1, V = C)
      where the model is a classifier.
    weights_LBNTS: of self-attention, in the last stack.
    cross_LBNTS: of attention to the source.
    encoder_LBNTS: of self-attention in the encoder of a source.
  """

  logits_BTV: jax.Array
  weights_LBNTS: jax.Array | None
  cross_LBNTS: jax.Array | None = None
  encoder_LBNTS: jax.Array | None = None


class Source(NamedTuple):
  """What an encoder-decoder reads first; segments are 0 where it is padding."""

  tokens_BS: jax.Array
  segments_BS: jax.Array | None = None


class HeadGates(NamedTuple):
  """Factors of the outputs of heads, by attention; none is 1.

  The gradient at 1 is the importance of a head (Michel et al. 2019,
  arXiv:1905.10650).

  Attributes:
    self_LN: of self-attention, in the last stack.
    cross_LN: of attention to the source.
    encoder_LN: of self-attention in the encoder of a source.
  """

  self_LN: jax.Array | None = None
  cross_LN: jax.Array | None = None
  encoder_LN: jax.Array | None = None


EVERY_HEAD = HeadGates()


class Given(NamedTuple):
  """What the model may be given beside tokens; none is none of it."""

  keys_B: jax.Array | None = None
  segments_BT: jax.Array | None = None
  head_gates: HeadGates = EVERY_HEAD
  cache: Cache | None = None
  source: Source | None = None


class Ran(NamedTuple):
  """Output, and the cache if one was given."""

  output: Output
  cache: Cache | None


class Transformer(nn.Module):
  """Stacks of blocks; those of one stack share one compiled program."""

  architecture: Architecture
  dims: Dims

  @nn.compact
  def __call__(
    self, tokens_BT: jax.Array, given: Given, want_weights: bool
  ) -> Ran:
    """Returns logits at every position, or of classes, and the cache."""
    arch, dims = self.architecture, self.dims
    params = {
      part: Parameters(table, arch.init, dims.num_layers, name=part)()
      for part, table in arch.outer_tables(dims).items()
    }
    memory, encoded_L = None, None
    if given.source is not None and arch.encoder is not None:
      memory, encoded_L = self._encode(
        params, arch.encoder, given.source, given, want_weights
      )
    t_T = jnp.arange(tokens_BT.shape[1])
    if given.cache is not None:
      t_T += given.cache.index
    place_BT = self._places(given)
    x_BTD = self._embed(
      params, tokens_BT, t_T, place_BT, 'position', given.keys_B
    )
    context = Context(
      t_T,
      given.segments_BT,
      params['position'],
      given.keys_B,
      t_T[0],
      memory,
      place_BT,
    )
    stack = arch.stacks[-1]
    weights_LBNTS = cross_LBNTS = kept = None
    if given.cache is not None:
      x_BTD, kept = self._stepped(stack, x_BTD, context, given.cache)
    else:
      x_BTD, left_L = self._blocks(stack, x_BTD, context, given, want_weights)
      weights_LBNTS, cross_LBNTS = left_L.weights_BNTS, left_L.cross_BNTS
    if arch.residual.final_norm:
      x_BTD = arch.norm.apply(params['norm_final'], x_BTD)
    out = Output(
      _logits(arch, params, x_BTD, given.segments_BT),
      weights_LBNTS,
      cross_LBNTS,
      None if encoded_L is None else encoded_L.weights_BNTS,
    )
    return Ran(out, kept)

  def _places(self, given: Given) -> jax.Array | None:
    """Returns the place of each token in its document.

    It is none where the row is one document to all that reads positions.
    """
    if given.segments_BT is None or not separate(self.architecture.masks):
      return None
    cache = given.cache
    before = None if cache is None else kept_keys.before(cache)
    return places(given.segments_BT, before)

  def _embed(
    self,
    params: Mapping[str, Any],
    tokens_BT: jax.Array,
    t_T: jax.Array,
    place_BT: jax.Array | None,
    position: str,
    keys_B: jax.Array | None,
  ) -> jax.Array:
    """Returns what the first block of a stack reads."""
    arch = self.architecture
    x_BTD = params['embedding']['token'][tokens_BT]
    if arch.scale_embeddings:
      x_BTD = x_BTD * math.sqrt(self.dims.d_model)
    embed = functools.partial(arch.position.embed, params[position])
    x_BTD = placed(embed, x_BTD, t_T, place_BT)
    place = 'embedding'
    if position != 'position':
      place = f'{ENCODER}/{place}'
    return dropout(x_BTD, arch.dropout_embedding, site_keys(keys_B, 0, place))

  def _encode(
    self,
    params: Mapping[str, Any],
    stack: Stack,
    source: Source,
    given: Given,
    want_weights: bool,
  ) -> tuple[Memory, Left]:
    """Returns the source, encoded, and what its blocks leave."""
    arch = self.architecture
    position, s_S = f'position_{ENCODER}', jnp.arange(source.tokens_BS.shape[1])
    x_BSD = self._embed(
      params, source.tokens_BS, s_S, None, position, given.keys_B
    )
    context = Context(
      s_S, source.segments_BS, params[position], given.keys_B, s_S[0], None
    )
    own = Given(head_gates=HeadGates(given.head_gates.encoder_LN))
    x_BSD, left_L = self._blocks(stack, x_BSD, context, own, want_weights)
    if arch.residual.final_norm:
      x_BSD = arch.norm.apply(params[f'norm_{ENCODER}'], x_BSD)
    return Memory(x_BSD, source.segments_BS), left_L

  def _blocks(
    self,
    stack: Stack,
    x_BTD: jax.Array,
    context: Context,
    given: Given,
    want_weights: bool,
  ) -> tuple[jax.Array, Left]:
    """Returns the residual behind all blocks of a stack, and what they left."""
    arch, dims = self.architecture, self.dims

    def body(
      block: Block, carry: Carry, layer: Layer, context: Context
    ) -> tuple[Carry, Left]:
      carry, left = block(carry, layer, context)
      if not want_weights:
        left = left._replace(weights_BNTS=None, cross_BNTS=None)
      return carry, left

    if arch.remat:
      # Inside a scan nothing can be merged with the first computation.
      body = nn.remat(body, prevent_cse=not arch.scan_layers)
    scan = nn.scan(
      body,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(0, nn.broadcast),  # pyright: ignore[reportArgumentType]  # a tuple is right
      length=stack.num_layers,
      unroll=1 if arch.scan_layers else stack.num_layers,
    )
    layers_L = Layer(
      number=jnp.arange(stack.num_layers),
      gates_N=given.head_gates.self_LN,
      cross_gates_N=given.head_gates.cross_LN,
      kept=None,
      cross=None,
    )
    # Only the reference has weights to return.
    backend = Reference() if want_weights else arch.backend
    block = Block(arch, dims, stack, backend, name=stack.name)
    carry, left_L = scan(block, self._carry(x_BTD), layers_L, context)
    return carry.x_BTD, left_L

  def _stepped(
    self, stack: Stack, x_BTD: jax.Array, context: Context, cache: Cache
  ) -> tuple[jax.Array, Cache]:
    """Returns the residual behind all blocks, one by one, and the cache."""
    arch = self.architecture
    block = Block(arch, self.dims, stack, arch.backend, parent=None)
    # Blocks of `raw` and no norm have none.
    params_L = self.variables['params'].get(stack.name, {})
    carry, left = self._carry(x_BTD), []
    for n, kept in enumerate(cache.kept):
      cross = None if cache.cross is None else cache.cross[n]
      layer = Layer(jnp.asarray(n), None, None, kept, cross)
      own = jax.tree.map(lambda p_L, n=n: p_L[n], params_L)
      carry, one = block.apply({'params': own}, carry, layer, context)
      left.append(one)
    crossed = tuple(one.cross for one in left if one.cross is not None)
    return carry.x_BTD, Cache(
      tuple(one.kept for one in left), context.t_T[-1] + 1, crossed or None
    )

  def _carry(self, x_BTD: jax.Array) -> Carry:
    """Returns what the first block of a stack is given."""
    if not any(o.keeps_first_values for o in self.architecture.output):
      return Carry(x_BTD, None)
    heads = (self.dims.num_kv_heads, self.dims.head_dim)
    return Carry(x_BTD, jnp.zeros((*x_BTD.shape[:2], *heads), x_BTD.dtype))


def _logits(
  arch: Architecture,
  params: Mapping[str, Any],
  x_BTD: jax.Array,
  segments_BT: jax.Array | None,
) -> jax.Array:
  """Returns logits of the vocabulary, or of classes, in float32 at least."""
  wide = jnp.promote_types(x_BTD.dtype, jnp.float32)
  if isinstance(arch.model, Classifier):
    x_B1D = arch.model.pooled(x_BTD, segments_BT)
    logits_B1C = jnp.einsum(
      'BTD,DC->BTC',
      x_B1D,
      params['classes']['kernel'],
      preferred_element_type=wide,
    )
    return add_bias(logits_B1C, params['classes'], 'bias')
  kernel_DV = (
    params['embedding']['token'].T
    if arch.tie_embeddings
    else params['unembedding']['kernel']
  )
  return jnp.einsum(
    'BTD,DV->BTV', x_BTD, kernel_DV, preferred_element_type=wide
  )
