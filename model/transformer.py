"""The transformer: embed, run the blocks, unembed; and its initial values."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from model.architecture import Architecture
from model.backend import Reference
from model.block import Block, Carry, Left
from model.cache import Cache
from model.dropout import dropout, site_keys
from model.mixer import Context, Layer
from model.parameter import Dims, Parameters, key_of, sample

Params = Mapping[str, Any]


class Output(NamedTuple):
  """What the model returns; `weights_LBNTS` only if they were asked for."""

  logits_BTV: jax.Array
  weights_LBNTS: jax.Array | None


class Given(NamedTuple):
  """What the model may be given beside tokens; none is none of it."""

  keys_B: jax.Array | None = None
  segments_BT: jax.Array | None = None
  head_gates_LN: jax.Array | None = None
  cache: Cache | None = None


class Ran(NamedTuple):
  """Output, and the cache if one was given."""

  output: Output
  cache: Cache | None


class Transformer(nn.Module):
  """Decoder-only transformer; all blocks share one compiled program."""

  architecture: Architecture
  dims: Dims

  @nn.compact
  def __call__(
    self, tokens_BT: jax.Array, given: Given, want_weights: bool
  ) -> Ran:
    """Returns logits over the vocabulary at every position, and the cache."""
    arch, dims = self.architecture, self.dims
    params = {
      part: Parameters(table, arch.init, dims.num_layers, name=part)()
      for part, table in arch.outer_tables(dims).items()
    }
    t_T = jnp.arange(tokens_BT.shape[1])
    if given.cache is not None:
      t_T += given.cache.index
    x_BTD = params['embedding']['token'][tokens_BT]
    x_BTD = arch.position.embed(params['position'], x_BTD, t_T)
    drop_B = site_keys(given.keys_B, 0, 'embedding')
    x_BTD = dropout(x_BTD, arch.dropout_embedding, drop_B)
    context = Context(
      t_T, given.segments_BT, params['position'], given.keys_B, t_T[0]
    )
    x_BTD, left_L = self._blocks(x_BTD, context, given, want_weights)
    if arch.residual.final_norm:
      x_BTD = arch.norm.apply(params['norm_final'], x_BTD)
    kernel_DV = (
      params['embedding']['token'].T
      if arch.tie_embeddings
      else params['unembedding']['kernel']
    )
    wide = jnp.promote_types(x_BTD.dtype, jnp.float32)
    logits_BTV = jnp.einsum(
      'BTD,DV->BTV', x_BTD, kernel_DV, preferred_element_type=wide
    )
    out = Output(logits_BTV, left_L.weights_BNTS)
    kept_L = left_L.kept
    return Ran(out, None if kept_L is None else Cache(kept_L, t_T[-1] + 1))

  def _blocks(
    self, x_BTD: jax.Array, context: Context, given: Given, want_weights: bool
  ) -> tuple[jax.Array, Left]:
    arch, dims = self.architecture, self.dims

    def body(
      block: Block, carry: Carry, layer: Layer, context: Context
    ) -> tuple[Carry, Left]:
      carry, left = block(carry, layer, context)
      return carry, left if want_weights else left._replace(weights_BNTS=None)

    if arch.remat:
      # Inside a scan nothing can be merged with the first computation.
      body = nn.remat(body, prevent_cse=not arch.scan_layers)
    scan = nn.scan(
      body,
      variable_axes={'params': 0},
      split_rngs={'params': True},
      in_axes=(0, nn.broadcast),  # pyright: ignore[reportArgumentType]  # a tuple is right
      length=dims.num_layers,
      unroll=1 if arch.scan_layers else dims.num_layers,
    )
    layers_L = Layer(
      number=jnp.arange(dims.num_layers),
      gates_N=given.head_gates_LN,
      kept=None if given.cache is None else given.cache.kept_L,
    )
    first_BTKH = None
    if any(output.keeps_first_values for output in arch.output):
      shape = (*x_BTD.shape[:2], dims.num_kv_heads, dims.head_dim)
      first_BTKH = jnp.zeros(shape, x_BTD.dtype)
    # Only the reference has weights to return.
    backend = Reference() if want_weights else arch.backend
    block = Block(arch, dims, backend, name='blocks')
    carry, left_L = scan(block, Carry(x_BTD, first_BTKH), layers_L, context)
    return carry.x_BTD, left_L


def init(arch: Architecture, dims: Dims, key: jax.Array) -> Params:
  """Returns the parameters: each a function of (key, its path, its shape).

  Layers are stacked along a first axis; the sample of layer l does not depend
  on how many layers there are, though its scale may.
  """
  params = {}
  for path, what in arch.parameter_table(dims).items():
    own = key_of(path, key)
    if path.startswith('blocks/'):
      params[path] = jax.vmap(
        lambda layer, own=own, what=what: sample(
          arch.init, jax.random.fold_in(own, layer), what, dims.num_layers
        )
      )(jnp.arange(dims.num_layers))
    else:
      params[path] = sample(arch.init, own, what, dims.num_layers)
  return traverse_util.unflatten_dict(params, sep='/')


def apply(
  arch: Architecture,
  dims: Dims,
  params: Params,
  tokens_BT: jax.Array,
  keys_B: jax.Array | None = None,
  want_weights: bool = False,
  segments_BT: jax.Array | None = None,
  head_gates_LN: jax.Array | None = None,
) -> Output:
  """Returns the model's output for a batch of tokens.

  Args:
    arch: the architecture; its traced numbers may be tracers.
    dims: sizes of the axes.
    params: as `init` returns them; computed with in `arch.dtype`.
    tokens_BT: token ids.
    keys_B: one key an example for dropout; none in evaluation.
    want_weights: also return the attention weights of all layers.
    segments_BT: document of each token from 1 on, 0 for padding; for the masks
      `segments` and `padding`.
    head_gates_LN: factor of the output of each head, whose gradient at 1 is the
      head's importance (Michel et al. 2019, arXiv:1905.10650); none is 1.
  """
  given = Given(keys_B, segments_BT, head_gates_LN)
  return _run(arch, dims, params, tokens_BT, given, want_weights).output


def step(
  arch: Architecture,
  dims: Dims,
  params: Params,
  tokens_BT: jax.Array,
  cache: Cache,
  segments_BT: jax.Array | None = None,
) -> tuple[Output, Cache]:
  """Returns the output for tokens that follow those in a cache, and the cache.

  What it returns equals the same positions of `apply` on the whole sequence.
  The cache must have room for the tokens: a traced index cannot be checked.

  Args:
    arch: the architecture; see `cache.uncacheable`.
    dims: sizes of the axes.
    params: as `init` returns them.
    tokens_BT: token ids.
    cache: as `cache.empty` or a step before returned it.
    segments_BT: of these tokens.
  """
  given = Given(segments_BT=segments_BT, cache=cache)
  ran = _run(arch, dims, params, tokens_BT, given, want_weights=False)
  assert ran.cache is not None
  return ran.output, ran.cache


def _run(
  arch: Architecture,
  dims: Dims,
  params: Params,
  tokens_BT: jax.Array,
  given: Given,
  want_weights: bool,
) -> Ran:
  cast = jax.tree.map(lambda p: _cast(p, arch.dtype), params)
  out = Transformer(arch, dims).apply(
    {'params': cast}, tokens_BT, given, want_weights
  )
  assert isinstance(out, Ran)
  return out


def _cast(p: jax.Array, dtype: str) -> jax.Array:
  # float64 parameters mean that a test wants float64 throughout.
  if p.dtype == jnp.float64:
    return p
  return p.astype(dtype)
