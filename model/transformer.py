"""The transformer as functions: its initial values, and how to apply it."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util

from model.architecture import Architecture
from model.cache import Cache
from model.network import (
  EVERY_HEAD,
  Given,
  HeadGates,
  Output,
  Ran,
  Source,
  Transformer,
)
from model.parameter import Dims, key_of, sample

Params = Mapping[str, Any]


def init(arch: Architecture, dims: Dims, key: jax.Array) -> Params:
  """Returns the parameters: each a function of (key, its path, its shape).

  Layers are stacked along a first axis; the sample of layer l does not depend
  on how many layers there are, though its scale may.
  """
  params = {}
  for path, what in arch.parameter_table(dims).items():
    own, depth = key_of(path, key), arch.depth(path)
    if depth is None:
      params[path] = sample(arch.init, own, what, dims.num_layers)
    else:
      params[path] = jax.vmap(
        lambda layer, own=own, what=what, depth=depth: sample(
          arch.init, jax.random.fold_in(own, layer), what, depth
        )
      )(jnp.arange(depth))
  return traverse_util.unflatten_dict(params, sep='/')


def apply(
  arch: Architecture,
  dims: Dims,
  params: Params,
  tokens_BT: jax.Array,
  keys_B: jax.Array | None = None,
  want_weights: bool = False,
  segments_BT: jax.Array | None = None,
  head_gates: HeadGates = EVERY_HEAD,
  source: Source | None = None,
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
    head_gates: factors of the outputs of heads; differentiable.
    source: what an encoder-decoder translates.

  Raises:
    ValueError: gates of heads that are not there.
  """
  _check(head_gates, arch, dims)
  given = Given(keys_B, segments_BT, head_gates, source=source)
  return _run(arch, dims, params, tokens_BT, given, want_weights).output


def step(
  arch: Architecture,
  dims: Dims,
  params: Params,
  tokens_BT: jax.Array,
  cache: Cache,
  segments_BT: jax.Array | None = None,
  source: Source | None = None,
) -> tuple[Output, Cache]:
  """Returns the output for tokens that follow those in a cache, and the cache.

  What it returns equals the same positions of `apply` on the whole sequence.
  The cache must have room for the tokens: a traced index cannot be checked.
  A prefix comes in one step, that of each document where --mask has segments.

  Args:
    arch: the architecture; see `cache.uncacheable`.
    dims: sizes of the axes.
    params: as `init` returns them.
    tokens_BT: token ids.
    cache: as `cache.empty` or a step before returned it.
    segments_BT: of these tokens.
    source: what an encoder-decoder translates, in the first step; the cache
      keeps what later ones need of it.
  """
  given = Given(segments_BT=segments_BT, cache=cache, source=source)
  ran = _run(arch, dims, params, tokens_BT, given, want_weights=False)
  assert ran.cache is not None
  return ran.output, ran.cache


def one_document(arch: Architecture, tokens_BT: jax.Array) -> jax.Array | None:
  """Returns segments_BT of one document, where a mask needs any."""
  if not any(mask.reads_segments for mask in arch.masks):
    return None
  return jnp.ones_like(tokens_BT)


def _check(head_gates: HeadGates, arch: Architecture, dims: Dims) -> None:
  """Raises a ValueError for gates of heads that are not there."""
  first, last = arch.stacks[0], arch.stacks[-1]
  there = (last.attends_itself, last.attends_memory, arch.encoder is not None)
  for name, gates_LN, stack, attends in zip(
    head_gates._fields, head_gates, (last, last, first), there, strict=True
  ):
    if gates_LN is None:
      continue
    if not attends:
      raise ValueError(f'head_gates.{name}: the model has no such attention')
    if gates_LN.shape != (stack.num_layers, dims.num_heads):
      raise ValueError(
        f'head_gates.{name}: must be of {stack.num_layers} layers x '
        f'{dims.num_heads} heads, and is of shape {gates_LN.shape}'
      )


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
