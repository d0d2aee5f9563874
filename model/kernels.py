"""Attention by fused kernels of other libraries, for what these compute.

  out = softmax(mask(c q . k)) v

with c a number, over the past, a window, or all keys.  No array of T x S
elements exists.  The kernels count positions from 0: queries and keys are those
of whole sequences.
"""

from collections.abc import Callable

import jax

from model.attention import Attended, Keys, Parts, Queries, Tables
from model.mask import Causal, Window


def cudnn(
  parts: Parts, tables: Tables, queries: Queries, keys: Keys
) -> Attended:
  """Returns attention by cuDNN, which runs on NVIDIA GPUs only."""
  return _run(
    jax.nn.dot_product_attention, 'cudnn', parts, tables, queries, keys
  )


def tokamax(
  parts: Parts, tables: Tables, queries: Queries, keys: Keys
) -> Attended:
  """Returns attention by the best kernel that tokamax has for the device."""
  # An extra that few machines have: --help and all else do without it.
  from absl import flags
  from tokamax import dot_product_attention  # pyright: ignore[reportMissingImports]  # optional

  if not flags.FLAGS.is_parsed():
    # Else tokamax reads the command line, and knows none of our flags.
    flags.FLAGS.mark_as_parsed()
  return _run(dot_product_attention, None, parts, tables, queries, keys)


def _run(
  kernel: Callable[..., jax.Array],
  implementation: str | None,
  parts: Parts,
  tables: Tables,
  queries: Queries,
  keys: Keys,
) -> Attended:
  """Returns attention by a function with the interface of JAX's own."""
  factor = parts.scale.factor(tables['scale'], queries.q_BTNH.shape[-1], None)
  causal = any(isinstance(mask, Causal) for mask in parts.mask)
  widths = [m.window for m in parts.mask if isinstance(m, Window)]
  # How many keys before the query, and behind it, are in sight.
  reach = (widths[0] - 1, 0) if widths else None
  out_BTNH = kernel(
    queries.q_BTNH,
    keys.k_BSKH,
    keys.v_BSKH,
    scale=factor,
    is_causal=causal,
    local_window_size=reach,
    implementation=implementation,
  )
  return Attended(out_BTNH, None)
