"""The transformer: embed, run the blocks, unembed; and its initial values."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from model.architecture import Architecture
from model.block import Block, Context
from model.dropout import dropout, site_keys
from model.mask import allowed
from model.parameter import Dims, Parameters, key_of, sample

Params = Mapping[str, Any]


class Output(NamedTuple):
  """What the model returns; `weights_LBNTS` only if they were asked for."""

  logits_BTV: jax.Array
  weights_LBNTS: jax.Array | None


class Transformer(nn.Module):
  """Decoder-only transformer; all blocks share one compiled program."""

  architecture: Architecture
  dims: Dims

  @nn.compact
  def __call__(
    self, tokens_BT: jax.Array, keys_B: jax.Array | None, want_weights: bool
  ) -> Output:
    """Returns logits over the vocabulary at every position."""
    arch, dims = self.architecture, self.dims
    params = {
      part: Parameters(table, arch.init, dims.num_layers, name=part)()
      for part, table in arch.outer_tables(dims).items()
    }
    t_T = jnp.arange(tokens_BT.shape[1])
    x_BTD = params['embedding']['token'][tokens_BT]
    x_BTD = arch.position.embed(params['position'], x_BTD, t_T)
    drop_B = site_keys(keys_B, 0, 'embedding')
    x_BTD = dropout(x_BTD, arch.dropout_embedding, drop_B)
    context = Context(allowed(arch.mask, t_T, t_T), t_T, keys_B)
    x_BTD, weights_LBNTS = self._blocks(x_BTD, context, want_weights)
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
    return Output(logits_BTV, weights_LBNTS)

  def _blocks(
    self, x_BTD: jax.Array, context: Context, want_weights: bool
  ) -> tuple[jax.Array, jax.Array | None]:
    arch, dims = self.architecture, self.dims

    def body(
      block: Block, x_BTD: jax.Array, layer: jax.Array, context: Context
    ) -> tuple[jax.Array, jax.Array | None]:
      x_BTD, weights_BNTS = block(x_BTD, layer, context)
      return x_BTD, weights_BNTS if want_weights else None

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
    layers_L = jnp.arange(dims.num_layers)
    return scan(Block(arch, dims, name='blocks'), x_BTD, layers_L, context)


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
) -> Output:
  """Returns the model's output for a batch of tokens.

  Args:
    arch: the architecture; its traced numbers may be tracers.
    dims: sizes of the axes.
    params: as `init` returns them; computed with in `arch.dtype`.
    tokens_BT: token ids.
    keys_B: one key an example for dropout; none in evaluation.
    want_weights: also return the attention weights of all layers.
  """
  cast = jax.tree.map(lambda p: _cast(p, arch.dtype), params)
  out = Transformer(arch, dims).apply(
    {'params': cast}, tokens_BT, keys_B, want_weights
  )
  assert isinstance(out, Output)
  return out


def _cast(p: jax.Array, dtype: str) -> jax.Array:
  # float64 parameters mean that a test wants float64 throughout.
  if p.dtype == jnp.float64:
    return p
  return p.astype(dtype)
