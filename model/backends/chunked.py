"""Attention in O(T + S) memory, by an online normaliser over chunks of keys.

For each chunk of queries, a loop over chunks of keys carries three values per
query: the weighted sum of values so far, the largest logit, and the sum of
weights (Rabe & Staats 2021, arXiv:2112.05682; Milakov & Gimelshein 2018).  The
backward pass recomputes each chunk, so it has no array of T x S elements
either.
"""

from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from model.attention.composed import logits, visible, weighted_sum
from model.attention.normalizers.base import OnlineNormalizer
from model.attention.parts import (
  AttentionParts,
  HeadOutputs,
  Keys,
  ParamTables,
  Queries,
)

_Side = TypeVar('_Side', Queries, Keys)


class _Accumulator(NamedTuple):
  """Carry of the loop over chunks of keys."""

  out_BTNH: jax.Array
  top_BNT1: jax.Array
  total_BNT1: jax.Array


def chunked(
  parts: AttentionParts,
  tables: ParamTables,
  queries: Queries,
  keys: Keys,
  chunk: int,
) -> HeadOutputs:
  """Computes attention with an `OnlineNormalizer` normaliser, without weights.

  Args:
    parts: the choices, without dropout and without outputs that mix heads.
    tables: their parameters.
    queries: all queries.
    keys: all keys.
    chunk: size of a chunk of queries, and of a chunk of keys.
  """
  length = queries.at.t.size
  queries_C, _ = _split_chunks(queries, length, chunk)
  keys_C, real_CS = _split_chunks(keys, keys.at.t.size, chunk)

  @jax.checkpoint
  def attend_chunk(some: Queries) -> jax.Array:
    return _attend_chunk(parts, tables, some, keys_C, real_CS)

  out_BCTNH = jnp.moveaxis(jax.lax.map(attend_chunk, queries_C), 0, 1)
  out_BTNH = out_BCTNH.reshape(out_BCTNH.shape[0], -1, *out_BCTNH.shape[3:])
  return HeadOutputs(out_BTNH[:, :length], None)


def _attend_chunk(
  parts: AttentionParts,
  tables: ParamTables,
  queries: Queries,
  keys_C: Keys,
  real_CS: jax.Array,
) -> jax.Array:
  """Computes out_BTNH of one chunk of queries over all chunks of keys."""
  normalizer, params = parts.normalizer, tables['normalizer']
  assert isinstance(normalizer, OnlineNormalizer)
  wide = jnp.promote_types(queries.q_BTNH.dtype, jnp.float32)
  batch, size, num_heads, _ = queries.q_BTNH.shape

  def seen(keys: Keys, real_S: jax.Array) -> jax.Array:
    return visible(parts, queries, keys) & real_S

  def count(n_B1T1: jax.Array, item: tuple[Keys, jax.Array]):
    return n_B1T1 + seen(*item).sum(-1, keepdims=True, dtype=jnp.int32), None

  n_B1T1 = None
  if parts.counts:
    zero_B1T1 = jnp.zeros((batch, 1, size, 1), jnp.int32)
    n_B1T1, _ = jax.lax.scan(count, zero_B1T1, (keys_C, real_CS))

  @jax.checkpoint
  def step(
    run: _Accumulator, item: tuple[Keys, jax.Array]
  ) -> tuple[_Accumulator, None]:
    keys, real_S = item
    logits_BNTS = logits(parts, tables, queries, keys, n_B1T1)
    mask_B1TS = seen(keys, real_S)
    weights_BNTS, top_BNT1, fade_BNT1 = normalizer.grow(
      params, logits_BNTS, mask_B1TS, n_B1T1, run.top_BNT1
    )
    out_BTNH = run.out_BTNH * jnp.moveaxis(fade_BNT1, 1, 2)
    out_BTNH += weighted_sum(weights_BNTS, keys.v_BSKH, wide)
    total_BNT1 = run.total_BNT1 * fade_BNT1
    total_BNT1 += weights_BNTS.sum(-1, keepdims=True)
    return _Accumulator(out_BTNH, top_BNT1, total_BNT1), None

  start = normalizer.start(params, jnp.zeros((batch, num_heads, size, 1), wide))
  width = keys_C.v_BSKH.shape[-1]
  none_BTNH = jnp.zeros((batch, size, num_heads, width), wide)
  run, _ = jax.lax.scan(
    step, _Accumulator(none_BTNH, *start), (keys_C, real_CS)
  )
  divisor_BTN1 = jnp.moveaxis(normalizer.divisor(run.total_BNT1), 1, 2)
  return (run.out_BTNH / divisor_BTN1).astype(keys_C.v_BSKH.dtype)


def _split_chunks(
  tree: _Side, length: int, chunk: int
) -> tuple[_Side, jax.Array]:
  """Splits arrays into chunks along a new first axis.

  The last chunk is padded with zeros; the second result is False there.
  """
  size = min(chunk, length)
  count = -(-length // size)

  def cut(x: jax.Array) -> jax.Array:
    axis = 0 if x.ndim == 1 else 1  # positions have no batch axis
    pad = [
      (0, count * size - length if n == axis else 0) for n in range(x.ndim)
    ]
    shape = (*x.shape[:axis], count, size, *x.shape[axis + 1 :])
    return jnp.moveaxis(jnp.pad(x, pad).reshape(shape), axis, 0)

  return jax.tree.map(cut, tree), cut(jnp.ones(length, bool))
