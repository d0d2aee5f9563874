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
  new = []
  for n, entry in enumerate(cache.entries):
    source_keys = None if cache.source_keys is None else cache.source_keys[n]
    layer = LayerInputs(jnp.asarray(n), None, None, entry, source_keys)
    period, m = divmod(n, len(blocks))
    params = jax.tree.map(lambda p_L, period=period: p_L[period], stacked[m])
    carry, _, after = apply_block(blocks[m], params, carry, layer, context)
    new.append(after)
  entries = tuple(block.entry for block in new)
  sources = tuple(b.source_keys for b in new if b.source_keys is not None)
  return carry, Cache(entries, context.at.t[-1] + 1, sources or None)
