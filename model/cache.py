"""The incremental form: what a layer keeps of the positions it has seen.

A layer keeps the key side of attention (`attention.Keys`): keys rotated by
their positions, values as they are mixed (both `stored` with heads first),
segments, and what each output keeps besides (`Plain.running`).  A slot is a
position: slots that nothing has been written to yet lie in the future, which a
mask that `hides_future` hides.  Where attention is a recurrence
(`recurrent.recurs`) a layer keeps its state instead, whose size does not grow.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from model.architecture import Architecture
from model.attention import Keys
from model.mask import Prefix, separate
from model.parameter import Dims
from model.recurrent import State, recurs

Kept = Keys | State


class Cache(NamedTuple):
  """What each layer keeps, and of how many positions.

  Each has arrays of its own, which are written in place: to write into an array
  of all layers would copy it.

  `cross` are keys of a source: none before the first step, and without one.
  """

  kept: tuple[Kept, ...]
  index: jax.Array
  cross: tuple[Keys, ...] | None = None


def uncacheable(arch: Architecture, prompt: int = 1) -> str | None:
  """Returns why later positions change what was computed, if they do.

  Args:
    arch: the architecture.
    prompt: how many positions the first step is given.
  """
  if not arch.model.writes:
    return f'--model={arch.model.tag} writes no text: try --model=decoder'
  for mask in arch.masks:
    if isinstance(mask, Prefix) and prompt < mask.prefix:
      return (
        f'--mask.prefix={mask.prefix}: positions of the prefix see each other: '
        f'the first step needs {mask.prefix} positions, not {prompt}'
      )
  if not any(mask.hides_targets for mask in arch.masks):
    return 'a position sees later ones: add causal to --mask'
  return None


def empty(
  arch: Architecture, dims: Dims, batch: int, length: int, prompt: int = 1
) -> Cache:
  """Returns the cache before the first position.

  Args:
    arch: the architecture.
    dims: sizes of the axes.
    batch: examples.
    length: positions there is room for.
    prompt: how many positions the first step will be given, at least.

  Raises:
    ValueError: what is computed for a position depends on later ones.
  """
  if reason := uncacheable(arch, prompt):
    raise ValueError(reason)
  wide = jnp.promote_types(arch.dtype, jnp.float32)
  kept = tuple(
    _empty(arch, dims, batch, length, wide) for _ in range(dims.num_layers)
  )
  return Cache(kept, jnp.zeros((), jnp.int32))


def _empty(
  arch: Architecture, dims: Dims, batch: int, length: int, wide: Any
) -> Kept:
  """Returns what a layer keeps before the first position."""
  parts = arch.parts
  width = arch.projections.widths(dims).query if arch.score.reads.key else 0
  if recurs(parts):
    front = (batch, dims.num_kv_heads, width)
    return State(
      jnp.zeros((*front, dims.head_dim), wide), jnp.zeros(front, wide)
    )
  front = (batch, length)
  heads = (*front, dims.num_kv_heads)
  reads_segments = any(mask.reads_segments for mask in arch.masks)
  return Keys(
    k_BSKH=stored(jnp.zeros((*heads, width), arch.dtype)),
    v_BSKH=stored(jnp.zeros((*heads, dims.head_dim), arch.dtype)),
    s_S=jnp.arange(length),
    segments_BS=jnp.zeros(front, jnp.int32) if reads_segments else None,
    running_BSN={
      output.tag: jnp.zeros((*front, dims.num_heads), wide)
      for output in parts.output
      if output.fades
    },
    place_BS=jnp.zeros(front, jnp.int32) if separate(arch.masks) else None,
  )


def reordered(cache: Cache, index_X: jax.Array) -> Cache:
  """Returns the cache of these of its examples, in this order.

  Each must have the source of the one that it takes the place of.
  """
  return cache._replace(
    kept=tuple(
      _by_example(lambda x_B: jnp.take(x_B, index_X, axis=0), own)
      for own in cache.kept
    )
  )


def repeated(
  cross: tuple[Keys, ...] | None, times: int
) -> tuple[Keys, ...] | None:
  """Returns the keys of each source several times, side by side."""
  if cross is None:
    return None
  return tuple(
    _by_example(lambda x_B: jnp.repeat(x_B, times, axis=0), own)
    for own in cross
  )


KeptT = TypeVar('KeptT', bound=Kept)


def _by_example(change: Callable[[jax.Array], jax.Array], kept: KeptT) -> KeptT:
  """Returns what is kept with all changed that has an axis of the batch."""
  new = jax.tree.map(change, kept)
  return new._replace(s_S=kept.s_S) if isinstance(kept, Keys) else new


def stored(x_BSKH: jax.Array) -> jax.Array:
  """Returns keys or values with heads before positions, and the way back.

  So a product with a query reads them in order: of one query it is as fast as
  memory is.
  """
  return jnp.swapaxes(x_BSKH, -3, -2)


def extended(kept: Keys, new: Keys, index: jax.Array) -> tuple[Keys, Keys]:
  """Returns the keys with new ones written from slot `index` on, and stored."""

  def write(old: jax.Array, x: jax.Array, axis: int) -> jax.Array:
    x = x.astype(old.dtype)
    return jax.lax.dynamic_update_slice_in_dim(old, x, index, axis)

  def at(axis: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return lambda old, x: write(old, x, axis)

  kept = Keys(
    k_BSKH=write(kept.k_BSKH, stored(new.k_BSKH), 2),
    v_BSKH=write(kept.v_BSKH, stored(new.v_BSKH), 2),
    s_S=write(kept.s_S, new.s_S, 0),
    segments_BS=jax.tree.map(at(1), kept.segments_BS, new.segments_BS),
    running_BSN=jax.tree.map(at(1), kept.running_BSN, new.running_BSN),
    place_BS=jax.tree.map(at(1), kept.place_BS, new.place_BS),
  )
  keys = kept._replace(k_BSKH=stored(kept.k_BSKH), v_BSKH=stored(kept.v_BSKH))
  return keys, kept


def before(cache: Cache) -> tuple[jax.Array, jax.Array] | None:
  """Returns segment_B and place_B of the last position, if they are kept.

  Before the first, the segment is that of no document.
  """
  first = cache.kept[0]
  if isinstance(first, State) or first.place_BS is None:
    return None
  assert first.segments_BS is not None
  slot = jnp.maximum(cache.index - 1, 0)
  segment_B = jnp.take(first.segments_BS, slot, axis=1)
  place_B = jnp.take(first.place_BS, slot, axis=1)
  return jnp.where(cache.index == 0, -1, segment_B), place_B


def last(kept: Keys, tag: str, index: jax.Array) -> jax.Array:
  """Returns the running quantity of the position before slot `index`."""
  before_BN = jnp.take(kept.running_BSN[tag], jnp.maximum(index - 1, 0), axis=1)
  return jnp.where(index == 0, 0.0, before_BN)
