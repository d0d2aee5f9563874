"""Each union of attention: what the model computes, and what the loops do."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from model.attention.outputs.base import QueryContext
from model.attention.parts import Keys, Queries
from model.attention.scores.base import ScoreInputs
from model.backends.kernels import FusedKernel
from model.core.inputs import Positions, broadcast_positions
from model.position.base import Rope
from spec import reference
from spec.architectures import BASE, dims_of, drawn_params, draws
from spec.reference import REFERENCES

Cast = Callable[[Any], Any]
Pair = tuple[Any, Any]


def score_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop = REFERENCES['score'][variant.tag]
  t_T, s_S, num_heads = np.array([0, 3, 1]), np.array([2, 0, 1, 4]), 4
  q_BTNH, x_BTD = draws(2, 3, num_heads, 6), draws(2, 3, 8)
  for num_kv_heads in (4, 2, 1):
    dims = dims_of(
      dataclasses.replace(BASE, num_heads=4, num_kv_heads=num_kv_heads)
    )
    dims = dataclasses.replace(dims, head_dim=6)
    params = drawn_params(variant.params(dims))
    k_BSKH = draws(2, 4, num_kv_heads, 6)
    actual = variant.logits(
      cast(params), cast(q_BTNH), cast(k_BSKH), cast(x_BTD), t_T, s_S
    )
    expected_BNTS = np.zeros((2, num_heads, 3, 4))
    for b, n, t, s in np.ndindex(*expected_BNTS.shape):
      expected_BNTS[b, n, t, s] = loop(
        variant,
        params,
        n,
        q_BTNH[b, t, n],
        k_BSKH[b, s, n * num_kv_heads // num_heads],
        x_BTD[b, t],
        int(t_T[t]),
        int(s_S[s]),
      )
    yield actual, expected_BNTS


def scale_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  params = drawn_params(variant.params(dims_of(BASE)))
  loop = REFERENCES['scale'][variant.tag]
  seen_T = np.array([0, 1, 5])
  for head_dim in (1, 4, 8):
    n_B1T1 = cast(seen_T[None, None, :, None])
    factor = cast(variant.factor(cast(params), head_dim, n_B1T1))
    yield (
      factor + cast(np.zeros((1, 2, 3, 1))),
      [
        [
          [[loop(variant, params, n, head_dim, seen)] for seen in seen_T]
          for n in range(2)
        ]
      ],
    )


def normalizer_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  logits_BNTS = 3 * draws(2, 2, 5, 5)
  mask_TS = draws(5, 5) > 0.3
  mask_TS[1] = False  # a row in which nothing is seen
  mask_TS[2] = True
  params = drawn_params(variant.params(dims_of(BASE)))
  loop = REFERENCES['normalizer'][variant.tag]
  # Far from 0 the exponential overflows unless the largest is taken off.
  for offset in (0.0, 1000.0, -1000.0):
    shifted_BNTS = (logits_BNTS + offset).astype(np.float32).astype(np.float64)
    expected_BNTS = np.zeros(logits_BNTS.shape)
    for b, n, t in np.ndindex(2, 2, 5):
      expected_BNTS[b, n, t] = loop(
        variant, params, n, shifted_BNTS[b, n, t], mask_TS[t]
      )
    mask_B1TS = mask_TS[None, None]
    n_B1T1 = mask_B1TS.sum(-1, keepdims=True)
    yield (
      variant.weights(cast(params), cast(shifted_BNTS), mask_B1TS, n_B1T1),
      expected_BNTS,
    )


def mask_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop = REFERENCES['mask'][variant.tag]
  if loop is None:
    return  # it stands for others
  for num_queries, num_keys in ((4, 4), (3, 5)):
    a_T, b_S = np.array([1, 2, 0, 1]), np.array([1, 1, 2, 0, 2])
    a_T, b_S = a_T[:num_queries], b_S[:num_keys]
    query = Positions(jnp.arange(num_queries), jnp.asarray(a_T[None]))
    key = Positions(jnp.arange(num_keys), jnp.asarray(b_S[None]))
    seen_11TS = variant.allowed(*broadcast_positions(query, key))
    seen_TS = np.broadcast_to(seen_11TS[0, 0], (num_queries, num_keys))
    yield (
      seen_TS,
      [
        [loop(variant, t, s, a_T[t], b_S[s]) for s in range(num_keys)]
        for t in range(num_queries)
      ],
    )


def position_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop = REFERENCES['position'][variant.tag]
  x_BTD, t_T = draws(2, 4, 8), np.array([0, 1, 3, 5])
  params = drawn_params(variant.params(dims_of(BASE)))
  yield (
    variant.embed(cast(params), cast(x_BTD), jnp.asarray(t_T)),
    [
      [
        loop.embed(variant, params, x_D, t)
        for x_D, t in zip(x, t_T, strict=True)
      ]
      for x in x_BTD
    ],
  )
  x_BTNH = draws(2, 4, 2, 6)
  yield (
    variant.rotate(cast(x_BTNH), jnp.asarray(t_T)),
    [
      [
        [loop.rotate(variant, x_H, t) for x_H in x_NH]
        for x_NH, t in zip(x_TNH, t_T, strict=True)
      ]
      for x_TNH in x_BTNH
    ],
  )
  s_S = np.array([4, 0, 9, 2, 30])
  for num_heads in (1, 2, 6):
    dims = dataclasses.replace(dims_of(BASE), num_heads=num_heads)
    params = drawn_params(variant.params(dims))
    bias_NTS = variant.bias(
      cast(params), num_heads, jnp.asarray(t_T), jnp.asarray(s_S)
    )
    yield (
      cast(np.zeros((num_heads, 4, 5)) if bias_NTS is None else bias_NTS),
      [
        [
          [loop.bias(variant, params, n, num_heads, t, s) for s in s_S]
          for t in t_T
        ]
        for n in range(num_heads)
      ],
    )


def qk_norm_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop, x_BTNH = REFERENCES['qk_norm'][variant.tag], draws(2, 3, 2, 4)
  x_BTNH[0] = (0.01 * x_BTNH[0]).astype(np.float32)  # where eps shows
  params = drawn_params(variant.params(dims_of(BASE)))
  for normalize, normalized in (
    (variant.query, loop.query),
    (variant.key, loop.key),
  ):
    expected_BTNH = np.zeros(x_BTNH.shape)
    for b, t, n in np.ndindex(2, 3, 2):
      expected_BTNH[b, t, n] = normalized(variant, params, x_BTNH[b, t, n])
    yield normalize(cast(params), cast(x_BTNH)), expected_BTNH


def output_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop = REFERENCES['output'][variant.tag]
  dims = dims_of(BASE)
  for use_bias in (False, True):
    dims = dataclasses.replace(dims, use_bias=use_bias)
    params = drawn_params(variant.params(dims))
    given = cast(params)
    assert variant.traits.maps == loop.maps
    v_BSKH, first_BSKH = draws(1, 3, 2, 4), draws(1, 3, 2, 4, seed=1)
    expected_SKH = np.zeros((3, 2, 4))
    for s, k in np.ndindex(3, 2):
      expected_SKH[s, k] = loop.values(
        params, v_BSKH[0, s, k], first_BSKH[0, s, k]
      )
    yield (
      variant.values(given, cast(v_BSKH), cast(first_BSKH)),
      expected_SKH[None],
    )
    x_BTD = draws(1, 5, 8)
    c_TN = variant.running(given, cast(x_BTD), cast(np.full((1, 2), 0.5)))[0]
    decay_NTS = np.zeros((2, 5, 5))
    for n, t, s in np.ndindex(2, 5, 5):
      if s <= t:
        decay_NTS[n, t, s] = loop.decay(params, x_BTD[0], n, t, s)
    bias_NTS = np.moveaxis(np.asarray(c_TN[:, None] - c_TN[None]), -1, 0)
    yield cast(np.tril(bias_NTS)), decay_NTS
    x_BNTS = draws(1, 2, 3, 4)
    for mix, mixed in (
      (variant.mix_logits, loop.mix_logits),
      (variant.mix_weights, loop.mix_weights),
    ):
      expected_BNTS = np.zeros(x_BNTS.shape)
      for t, s in np.ndindex(3, 4):
        expected_BNTS[0, :, t, s] = mixed(params, x_BNTS[0, :, t, s])
      yield mix(given, cast(x_BNTS)), expected_BNTS
    out_BTNH, layer = draws(1, 5, 2, 4), 3
    maps = [draws(2, 3, seed=m) for m in range(variant.traits.maps)]
    yield (
      variant.join(given, [cast(x) for x in maps], jnp.asarray(layer)),
      [
        [loop.join(params, layer, [x[i, j] for x in maps]) for j in range(3)]
        for i in range(2)
      ],
    )
    for num_kv_heads in (2, 1):
      own_BTKH = draws(1, 5, num_kv_heads, 4, seed=2)
      own = QueryContext(cast(x_BTD), cast(own_BTKH), jnp.asarray(layer))
      expected_TNH = [
        loop.finish(params, out_BTNH[0, t], x_BTD[0, t], own_BTKH[0, t], layer)
        for t in range(5)
      ]
      yield variant.finish(given, cast(out_BTNH), own), [expected_TNH]


def backend_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  """Each backend, of plain attention, is the loop of attention."""
  if isinstance(variant, FusedKernel):
    pytest.skip('test_kernels.py compares it with the reference')
  arch = dataclasses.replace(
    BASE, backend=variant, position=Rope(), num_kv_heads=1
  )
  tables = {
    part: drawn_params(table)
    for part, table in arch.block_tables(dims_of(arch)).items()
  } | {'position': {}}
  x_BTD, t_T = draws(1, 5, 8), np.arange(5)
  heads = arch.projections.split(
    cast(tables['attention']),
    *2 * [cast(x_BTD)],
    dims_of(arch),
    arch.score.traits.reads,
  )
  q_BTNH, k_BSKH = (arch.position.rotate(x, t_T) for x in heads[:2])
  attended = arch.backend.attend(
    arch.parts,
    cast(tables),
    Queries(q_BTNH, cast(x_BTD), Positions(t_T), {}),
    Keys(k_BSKH, heads.v_BSKH, Positions(t_T), {}),
    None,
  )
  expected = reference.attention(arch, tables, x_BTD[0], [1] * 5)
  yield attended.out_BTNH, expected.out_TNH[None]
  if attended.weights_BNTS is not None:
    yield attended.weights_BNTS, expected.weights_NTS[None]


def projection_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop = REFERENCES['projections'][variant.tag]
  x_BTD, y_BSD, reads = draws(2, 3, 8), draws(2, 4, 8), ScoreInputs()
  for use_bias in (False, True):
    dims = dataclasses.replace(dims_of(BASE), use_bias=use_bias)
    params = drawn_params(variant.params(dims, reads))
    x, y = cast(x_BTD), cast(y_BSD)
    itself = variant.split(cast(params), x, x, dims, reads)
    other = variant.split(cast(params), x, y, dims, reads)
    for heads, keys_BSD in ((itself, x_BTD), (other, y_BSD)):
      for actual, project, given in (
        (heads.q_BTNH, loop.query, x_BTD),
        (heads.k_BSKH, loop.key, keys_BSD),
        (heads.v_BSKH, loop.value, keys_BSD),
      ):
        yield (
          actual,
          [
            [project(variant, params, x_D, 2) for x_D in x_TD] for x_TD in given
          ],
        )
    heads_BTNH = draws(2, 3, 2, 4)
    merged_BTD = [
      [loop.merge(params, heads_NH) for heads_NH in heads_TNH]
      for heads_TNH in heads_BTNH
    ]
    yield variant.merge(cast(params), cast(heads_BTNH)), merged_BTD
