"""The blocks on the next tokens after those in a cache."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from model.block import Block, apply_block
from model.cache import Cache
from model.interfaces import BlockCarry, CallContext, LayerInputs


def run_cached(
  blocks: Sequence[Block],
  stacked: Sequence[Any],
  carry: BlockCarry,
  context: CallContext,
  cache: Cache,
) -> tuple[BlockCarry, Cache]:
  """Runs the blocks of a stack one after another on a cache.

  They are not scanned, so that each layer has a cache of its own, which XLA
  can update in place.

  Args:
    blocks: one for each layer of the pattern.
    stacked: the parameters of each, with its layers as first axis.
    carry: the state before the first block.
    context: inputs that all blocks share.
    cache: keys or states of the positions so far.

  Returns:
    The state after the last block, and the cache with the new positions.
  """
  memories = []
  for n, kept in enumerate(cache.kept):
    cross = None if cache.cross is None else cache.cross[n]
    layer = LayerInputs(jnp.asarray(n), None, None, kept, cross)
    period, at = divmod(n, len(blocks))
    own = jax.tree.map(lambda p_L, period=period: p_L[period], stacked[at])
    carry, _, own_memories = apply_block(blocks[at], own, carry, layer, context)
    memories.append(own_memories)
  crossed = tuple(own.cross for own in memories if own.cross is not None)
  kept = tuple(own.kept for own in memories)
  return carry, Cache(kept, context.at.t[-1] + 1, crossed or None)
