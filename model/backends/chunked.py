"""Attention in O(T + S) memory, by an online normaliser over chunks of keys.

For each pair of a chunk of queries and a chunk of keys that some of them may
see, three values per query are updated: the weighted sum of values so far, the
largest logit, and the sum of weights (Rabe & Staats 2021, arXiv:2112.05682;
Milakov & Gimelshein 2018).

The backward pass is that of FlashAttention-2 (Dao 2023, arXiv:2307.08691,
algorithm 2).  It keeps the largest logit and the sum of weights of each query,
from which the final weights of a pair follow at once.  So each pair is computed
once more, and no array has T x S elements either.
"""

import functools
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from model.attention.composed import logits, visible, weighted_sum
from model.attention.mask_list import distance
from model.attention.normalizers.base import ChunkUpdate, OnlineNormalizer
from model.attention.parts import (
  AttentionParts,
  HeadOutputs,
  Keys,
  ParamTables,
  PartNumbers,
  Queries,
)

_Side = TypeVar('_Side', Queries, Keys)
_Tree = TypeVar('_Tree')


class _Problem(NamedTuple):
  """What is constant in one attention.

  Attributes:
    parts: the choices.
    num_keys: number of keys, without the padding of the last chunk.
    pairs_P2: chunk of queries and chunk of keys of each pair, in order.
  """

  parts: AttentionParts
  num_keys: int
  pairs_P2: np.ndarray

  @property
  def normalizer(self) -> OnlineNormalizer:
    """Returns that of the choices."""
    normalizer = self.parts.normalizer
    assert isinstance(normalizer, OnlineNormalizer)
    return normalizer

  def bind(self, numbers: PartNumbers) -> '_Problem':
    """Returns the problem with the numbers of its choices."""
    return self._replace(parts=self.parts.bind(numbers))


class _Inputs(NamedTuple):
  """Parameters, and chunks of queries and keys along a first axis C.

  Queries, keys and values are stored as CBNTH, heads before positions, so that
  the products of a pair need no copy.
  """

  tables: ParamTables
  queries: Queries
  keys: Keys


class _Sums(NamedTuple):
  """Sums over the keys so far of all queries, in chunks.

  `fade` is the factor of what the normaliser started with.
  """

  out_CBNTH: jax.Array
  top_CBNT1: jax.Array
  total_CBNT1: jax.Array
  fade_CBNT1: jax.Array


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
    queries: all queries; if they are as many as the keys, both count from 0.
    keys: all keys.
    chunk: size of a chunk of queries, and of a chunk of keys.
  """
  num_queries, num_keys = queries.at.t.size, keys.at.t.size
  pairs_P2 = visible_pairs(parts, num_queries, num_keys, chunk)
  static, numbers = parts.split()
  problem = _Problem(static, num_keys, pairs_P2)

  @jax.custom_vjp
  def attend(inputs: _Inputs, numbers: PartNumbers) -> jax.Array:
    return _forward(problem, inputs, numbers)[0]

  attend.defvjp(
    functools.partial(_forward, problem), functools.partial(_backward, problem)
  )
  inputs = _Inputs(
    tables, _split_chunks(queries, chunk), _split_chunks(keys, chunk)
  )
  out_CBNTH = attend(inputs, numbers)
  out_BCTNH = jnp.transpose(out_CBNTH, (1, 0, 3, 2, 4))
  out_BTNH = out_BCTNH.reshape(out_BCTNH.shape[0], -1, *out_BCTNH.shape[3:])
  return HeadOutputs(out_BTNH[:, :num_queries], None)


def visible_pairs(
  parts: AttentionParts, num_queries: int, num_keys: int, chunk: int
) -> np.ndarray:
  """Returns the chunks of queries and of keys to pair, as pairs_P2.

  In whole rows, pairs in which the masks hide every key by its distance are
  left out; with fewer queries than keys, as when decoding with a cache, queries
  begin anywhere, and no pair is.
  """
  counts = -(-num_queries // chunk), -(-num_keys // chunk)
  ahead_CC = np.subtract.outer(np.arange(counts[0]), np.arange(counts[1]))
  kept_CC = np.ones(counts, bool)
  if num_queries == num_keys:
    if any(mask.traits.hides_future for mask in parts.mask):
      kept_CC &= ahead_CC >= 0
    if (nearest := distance(parts.mask)) is not None:
      kept_CC &= (np.abs(ahead_CC) - 1) * chunk + 1 < nearest[0]
  return np.argwhere(kept_CC).astype(np.int32)


def _forward(
  problem: _Problem, inputs: _Inputs, numbers: PartNumbers
) -> tuple[jax.Array, Any]:
  """Returns out_CBNTH, and what the backward pass needs."""
  problem = problem.bind(numbers)
  normalizer, (q_CBNTH, *_) = problem.normalizer, inputs.queries
  v_CBNSH = inputs.keys.v_BSKH
  n_CB1T1 = _num_visible(problem, inputs) if problem.parts.counts else None

  def step(sums: _Sums, pair_2: jax.Array) -> tuple[_Sums, None]:
    old = _take(sums, pair_2[0])
    some, n_B1T1 = _take_pair(inputs, pair_2), _take(n_CB1T1, pair_2[0])
    grown, out_BNTH = _attend_pair(
      problem, some, pair_2[1], n_B1T1, old.top_CBNT1
    )
    fade_BNT1 = grown.fade_BNT1
    new = _Sums(
      old.out_CBNTH * fade_BNT1 + out_BNTH,
      grown.top_BNT1,
      old.total_CBNT1 * fade_BNT1 + _total(grown),
      old.fade_CBNT1 * fade_BNT1,
    )
    return _put(sums, new, pair_2[0]), None

  wide = jnp.promote_types(q_CBNTH.dtype, jnp.float32)
  row_CBNT1 = jnp.zeros((*q_CBNTH.shape[:-1], 1), wide)
  top_CBNT1, total_CBNT1 = normalizer.start(
    inputs.tables['normalizer'], row_CBNT1
  )
  none_CBNTH = jnp.zeros((*q_CBNTH.shape[:-1], v_CBNSH.shape[-1]), wide)
  sums = _Sums(none_CBNTH, top_CBNT1, total_CBNT1, jnp.ones_like(row_CBNT1))
  sums, _ = jax.lax.scan(step, sums, jnp.asarray(problem.pairs_P2))
  divisor_CBNT1 = normalizer.divisor(sums.total_CBNT1)
  out_CBNTH = (sums.out_CBNTH / divisor_CBNT1).astype(v_CBNSH.dtype)
  sums = sums._replace(out_CBNTH=out_CBNTH)
  return out_CBNTH, (inputs, numbers, sums, n_CB1T1)


def _backward(
  problem: _Problem, kept: Any, d_out_CBNTH: jax.Array
) -> tuple[_Inputs, None]:
  """Returns the gradients of the inputs; None in place of whole numbers.

  The numbers of the choices are settings, which have none.
  """
  inputs, numbers, sums, n_CB1T1 = kept
  problem = problem.bind(numbers)
  normalizer = problem.normalizer
  wide = sums.total_CBNT1.dtype
  # With out = sum / divisor(total), these follow from out alone.
  divisor_CBNT1, of_divisor = jax.vjp(normalizer.divisor, sums.total_CBNT1)
  d_sum_CBNTH = d_out_CBNTH.astype(wide) / divisor_CBNT1
  d_divisor_CBNT1 = -(d_sum_CBNTH * sums.out_CBNTH).sum(-1, keepdims=True)
  (d_total_CBNT1,) = of_divisor(d_divisor_CBNT1)

  def step(gradients: _Inputs, pair_2: jax.Array) -> tuple[_Inputs, None]:
    n_B1T1 = _take(n_CB1T1, pair_2[0])
    top_BNT1 = _take(sums.top_CBNT1, pair_2[0])

    def pair(some: _Inputs) -> tuple[jax.Array, jax.Array]:
      grown, out_BNTH = _attend_pair(problem, some, pair_2[1], n_B1T1, top_BNT1)
      return out_BNTH, _total(grown)

    _, of_pair = jax.vjp(pair, _take_pair(inputs, pair_2))
    (new,) = of_pair(_take((d_sum_CBNTH, d_total_CBNT1), pair_2[0]))
    return _add_pair(gradients, new, pair_2), None

  zeros = jax.tree.map(
    lambda x: jnp.zeros(x.shape, wide) if _is_real(x) else None, inputs
  )
  gradients, _ = jax.lax.scan(step, zeros, jnp.asarray(problem.pairs_P2))
  # What the normaliser starts with: the weight of a sink.
  row_CBNT1, params = jnp.zeros_like(d_total_CBNT1), inputs.tables['normalizer']
  _, of_start = jax.vjp(lambda p: normalizer.start(p, row_CBNT1)[1], params)
  (d_start,) = of_start(d_total_CBNT1 * sums.fade_CBNT1)
  d_params = jax.tree.map(jnp.add, gradients.tables['normalizer'], d_start)
  gradients = gradients._replace(
    tables={**gradients.tables, 'normalizer': d_params}
  )
  cast = jax.tree.map(
    lambda x, g: None if g is None else g.astype(x.dtype), inputs, gradients
  )
  return cast, None


def _attend_pair(
  problem: _Problem,
  some: _Inputs,
  chunk_of_keys: jax.Array,
  n_B1T1: jax.Array | None,
  top_BNT1: jax.Array,
) -> tuple[ChunkUpdate, jax.Array]:
  """Returns the update by one pair, and its weighted sum out_BNTH."""
  tables, queries, keys = some
  logits_BNTS = logits(problem.parts, tables, queries, keys, n_B1T1)
  grown = problem.normalizer.grow(
    tables['normalizer'],
    logits_BNTS,
    _visible(problem, some, chunk_of_keys),
    n_B1T1,
    top_BNT1,
  )
  # One chunk of values is small: XLA's CPU compiler cannot run the product of
  # grouped heads in bfloat16, with heads before positions.
  groups = logits_BNTS.shape[1] // keys.v_BSKH.shape[2]
  v_BSNH = (
    jnp.repeat(keys.v_BSKH, groups, axis=2) if groups > 1 else keys.v_BSKH
  )
  out_BTNH = weighted_sum(grown.weights_BNTS, v_BSNH, top_BNT1.dtype)
  return grown, jnp.swapaxes(out_BTNH, 1, 2)


def _visible(
  problem: _Problem, some: _Inputs, chunk_of_keys: jax.Array
) -> jax.Array:
  """Returns mask_B1TS of a pair: False in the padding of the last chunk."""
  mask_B1TS = visible(problem.parts, some.queries, some.keys)
  size = some.keys.at.t.size
  if problem.num_keys % size == 0:
    return mask_B1TS
  return mask_B1TS & (chunk_of_keys * size + np.arange(size) < problem.num_keys)


def _num_visible(problem: _Problem, inputs: _Inputs) -> jax.Array:
  """Returns n_CB1T1, the number of keys that each query sees."""

  def count(n_CB1T1: jax.Array, pair_2: jax.Array) -> tuple[jax.Array, None]:
    mask_B1TS = _visible(problem, _take_pair(inputs, pair_2), pair_2[1])
    n_B1T1 = mask_B1TS.sum(-1, keepdims=True, dtype=jnp.int32)
    n_B1T1 = _take(n_CB1T1, pair_2[0]) + n_B1T1
    return _put(n_CB1T1, n_B1T1, pair_2[0]), None

  chunks, batch, _, size, _ = inputs.queries.q_BTNH.shape
  none_CB1T1 = jnp.zeros((chunks, batch, 1, size, 1), jnp.int32)
  return jax.lax.scan(count, none_CB1T1, jnp.asarray(problem.pairs_P2))[0]


def _total(grown: ChunkUpdate) -> jax.Array:
  return grown.weights_BNTS.sum(-1, keepdims=True)


# Chunks. ----------------------------------------------------------------------


def _split_chunks(tree: _Side, chunk: int) -> _Side:
  """Splits arrays into chunks along a new first axis; the last has zeros."""
  length = tree.at.t.size
  size = min(chunk, length)
  count = -(-length // size)

  def cut(x: jax.Array) -> jax.Array:
    axis = 0 if x.ndim == 1 else 1  # positions have no batch axis
    pad = [
      (0, count * size - length if n == axis else 0) for n in range(x.ndim)
    ]
    shape = (*x.shape[:axis], count, size, *x.shape[axis + 1 :])
    x_C = jnp.moveaxis(jnp.pad(x, pad).reshape(shape), axis, 0)
    return jnp.swapaxes(x_C, 2, 3) if x.ndim == 4 else x_C  # heads first

  return jax.tree.map(cut, tree)


def _take_pair(inputs: _Inputs, pair_2: jax.Array) -> _Inputs:
  """Returns a chunk of queries and a chunk of keys, in the model's layout."""
  queries = _take(inputs.queries, pair_2[0])
  keys = _take(inputs.keys, pair_2[1])
  return inputs._replace(
    queries=queries._replace(q_BTNH=jnp.swapaxes(queries.q_BTNH, 1, 2)),
    keys=keys._replace(
      k_BSKH=jnp.swapaxes(keys.k_BSKH, 1, 2),
      v_BSKH=jnp.swapaxes(keys.v_BSKH, 1, 2),
    ),
  )


def _add_pair(gradients: _Inputs, new: _Inputs, pair_2: jax.Array) -> _Inputs:
  """Adds the gradients of a pair to those of all inputs."""

  def add(index: jax.Array, sum_C: Any, x: Any) -> Any:
    if sum_C is None:
      return None
    x = jnp.swapaxes(x, 1, 2) if x.ndim == 4 else x
    return _put(sum_C, _take(sum_C, index) + x.astype(sum_C.dtype), index)

  def add_all(index: jax.Array, sums: _Tree, some: _Tree) -> _Tree:
    return jax.tree.map(
      functools.partial(add, index), sums, some, is_leaf=lambda x: x is None
    )

  return _Inputs(
    jax.tree.map(jnp.add, gradients.tables, new.tables),
    add_all(pair_2[0], gradients.queries, new.queries),
    add_all(pair_2[1], gradients.keys, new.keys),
  )


def _take(tree: _Tree, index: jax.Array) -> _Tree:
  """Returns one chunk of each array."""
  return jax.tree.map(
    lambda x_C: jax.lax.dynamic_index_in_dim(x_C, index, keepdims=False), tree
  )


def _put(tree: _Tree, chunk: _Tree, index: jax.Array) -> _Tree:
  """Returns the arrays with one chunk replaced."""
  return jax.tree.map(
    lambda x_C, x: jax.lax.dynamic_update_index_in_dim(x_C, x, index, 0),
    tree,
    chunk,
  )


def _is_real(x: jax.Array) -> bool:
  return jnp.issubdtype(x.dtype, jnp.floating)
