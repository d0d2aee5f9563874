"""The cache for decoding: what each layer stores of the positions so far.

A layer stores its `Keys`: rotated keys, values (both with the axis of heads
before that of positions, see `swap_layout`), positions, and the running sums of
outputs (`OutputBase.running`).  Slot t holds position t.  Slots that are still
empty lie in the future, where a mask with `hides_future` hides them.

If attention is a recurrence (`recurrent.is_recurrence`), a layer stores its
recurrent state instead, whose size does not grow.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from model.architecture.architecture import Architecture
from model.architecture.choices import ArchitectureFields
from model.attention.mask import separate
from model.attention.mask_list import prefix_length
from model.attention.parts import Keys
from model.backends.recurrent import RecurrentState, is_recurrence
from model.core.inputs import Positions
from model.core.parameter import Dims

CacheEntry = Keys | RecurrentState


class Cache(NamedTuple):
  """The cache of all layers.

  Each layer has its own arrays, which XLA updates in place.  A single array for
  all layers would be copied at each write.

  Attributes:
    entries: keys or recurrent state of each layer.
    index: number of positions stored.
    source_keys: keys of the source in each layer; `None` before the first step,
      and if there is no source.
  """

  entries: tuple[CacheEntry, ...]
  index: jax.Array
  source_keys: tuple[Keys, ...] | None = None


def decoding_problem(arch: Architecture, prompt: int = 1) -> str | None:
  """Returns why the model cannot be decoded with a cache, or `None` if it can.

  It cannot if a later position changes what was computed for an earlier one.

  Args:
    arch: the architecture.
    prompt: number of positions in the first step.
  """
  if not arch.model.traits.writes:
    return f'--model={arch.model.tag} writes no text: try --model=decoder'
  if prompt < (first := prefix_length(arch.masks)):
    return (
      f'--mask.prefix={first}: positions of the prefix see each other, so the '
      f'first step needs {first} positions, not {prompt}'
    )
  for layer in arch.layers:
    if counting := layer.feedforward.order_dependence:
      return f'{counting.under("feedforward.")}, which no cache holds: drop it'
  if not any(mask.traits.hides_targets for mask in arch.masks):
    return 'a position sees later ones: add causal to --mask'
  return None


def empty(
  arch: Architecture, dims: Dims, batch: int, length: int, prompt: int = 1
) -> Cache:
  """Returns an empty cache.

  Args:
    arch: the architecture.
    dims: sizes of the axes.
    batch: number of examples.
    length: number of positions to reserve.
    prompt: smallest number of positions in the first step.

  Raises:
    ValueError: the model cannot be decoded with a cache.
  """
  if reason := decoding_problem(arch, prompt):
    raise ValueError(reason)
  wide = jnp.promote_types(arch.dtype, jnp.float32)
  layers = arch.layers
  entry = tuple(
    _empty_layer(layers[n % len(layers)], dims, batch, length, wide)
    for n in range(dims.num_layers)
  )
  return Cache(entry, jnp.zeros((), jnp.int32))


def _empty_layer(
  arch: ArchitectureFields, dims: Dims, batch: int, length: int, wide: Any
) -> CacheEntry:
  """Returns the empty cache entry of one layer."""
  parts = arch.parts
  width = (
    arch.projections.widths(dims).query if arch.score.traits.reads.key else 0
  )
  if is_recurrence(parts):
    front = (batch, dims.num_kv_heads, width)
    return RecurrentState(
      jnp.zeros((*front, dims.head_dim), wide), jnp.zeros(front, wide)
    )
  front = (batch, length)
  heads = (*front, dims.num_kv_heads)
  reads_segments = any(mask.traits.reads_segments for mask in arch.masks)
  return Keys(
    k_BSKH=swap_layout(jnp.zeros((*heads, width), arch.dtype)),
    v_BSKH=swap_layout(jnp.zeros((*heads, dims.head_dim), arch.dtype)),
    at=Positions(
      t=jnp.arange(length),
      segment=jnp.zeros(front, jnp.int32) if reads_segments else None,
      place=jnp.zeros(front, jnp.int32) if separate(arch.masks) else None,
    ),
    running_BSN={
      output.tag: jnp.zeros((*front, dims.num_heads), wide)
      for output in parts.output
      if output.traits.decays
    },
  )


def select_examples(cache: Cache, index_X: jax.Array) -> Cache:
  """Selects examples of the cache by index.

  Keys of sources stay in place: an example may only replace one with the same
  source.
  """
  return cache._replace(
    entries=tuple(
      _map_examples(lambda x_B: jnp.take(x_B, index_X, axis=0), entry)
      for entry in cache.entries
    )
  )


def repeat_sources(
  source_keys: tuple[Keys, ...] | None, times: int
) -> tuple[Keys, ...] | None:
  """Repeats the keys of each source along the batch, copies side by side."""
  if source_keys is None:
    return None
  return tuple(
    _map_examples(lambda x_B: jnp.repeat(x_B, times, axis=0), keys)
    for keys in source_keys
  )


CacheEntryT = TypeVar('CacheEntryT', bound=CacheEntry)


def _map_examples(
  change: Callable[[jax.Array], jax.Array], entry: CacheEntryT
) -> CacheEntryT:
  """Applies `change` to all arrays of a cache entry that have a batch axis."""
  new = jax.tree.map(change, entry)
  if not isinstance(entry, Keys):
    return new
  return new._replace(at=new.at._replace(t=entry.at.t))


def swap_layout(x_BSKH: jax.Array) -> jax.Array:
  """Swaps the axes of heads and positions, to and from the stored layout.

  With heads first, the product with a query reads memory in order; for a single
  query it then runs at the speed of memory.
  """
  return jnp.swapaxes(x_BSKH, -3, -2)


def append_keys(entry: Keys, new: Keys, index: jax.Array) -> tuple[Keys, Keys]:
  """Writes new keys into the cache, from slot `index` on.

  Returns:
    All keys in the layout of attention, and the updated cache entry.
  """

  def write(old: jax.Array, x: jax.Array, axis: int) -> jax.Array:
    x = x.astype(old.dtype)
    return jax.lax.dynamic_update_slice_in_dim(old, x, index, axis)

  def along(axis: int) -> Callable[[jax.Array, jax.Array], jax.Array]:
    return lambda old, x: write(old, x, axis)

  entry = Keys(
    k_BSKH=write(entry.k_BSKH, swap_layout(new.k_BSKH), 2),
    v_BSKH=write(entry.v_BSKH, swap_layout(new.v_BSKH), 2),
    at=Positions(
      t=write(entry.at.t, new.at.t, 0),
      segment=jax.tree.map(along(1), entry.at.segment, new.at.segment),
      place=jax.tree.map(along(1), entry.at.place, new.at.place),
    ),
    running_BSN=jax.tree.map(along(1), entry.running_BSN, new.running_BSN),
  )
  keys = entry._replace(
    k_BSKH=swap_layout(entry.k_BSKH), v_BSKH=swap_layout(entry.v_BSKH)
  )
  return keys, entry


def append_documents(
  entry: CacheEntry, new: Positions, index: jax.Array
) -> CacheEntry:
  """Writes segments and places of new positions into the cache, but no keys.

  It is for blocks without self-attention, which would write them with its keys.
  """
  if (
    isinstance(entry, RecurrentState)
    or new.place is None
    or new.segment is None
  ):
    return entry
  assert entry.at.segment is not None
  assert entry.at.place is not None
  update = jax.lax.dynamic_update_slice_in_dim
  at = entry.at._replace(
    segment=update(entry.at.segment, new.segment, index, 1),
    place=update(entry.at.place, new.place, index, 1),
  )
  return entry._replace(at=at)


def last_document(cache: Cache) -> tuple[jax.Array, jax.Array] | None:
  """Returns segment_B and place_B of the last cached position.

  If the cache is empty, the segment is -1, which is that of no document.  If it
  does not store them, the result is `None`.
  """
  first = cache.entries[0]
  if isinstance(first, RecurrentState) or first.at.place is None:
    return None
  assert first.at.segment is not None
  slot = jnp.maximum(cache.index - 1, 0)
  segment_B = jnp.take(first.at.segment, slot, axis=1)
  place_B = jnp.take(first.at.place, slot, axis=1)
  return jnp.where(cache.index == 0, -1, segment_B), place_B


def last_running(entry: Keys, tag: str, index: jax.Array) -> jax.Array:
  """Returns the running sum at the last cached position, or 0 if none is."""
  before_BN = jnp.take(
    entry.running_BSN[tag], jnp.maximum(index - 1, 0), axis=1
  )
  return jnp.where(index == 0, 0.0, before_BN)
