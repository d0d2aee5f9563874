"""Compiled gradients equal central differences, where XLA fuses logits too.

A forward pass cannot see that logits are computed twice and rounded in two
ways: the weights differ by a rounding, their gradients by a key.  Compiled as
trials are: `quick_compilation` fuses less, and would hide it.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import transformer
from model.architecture.architecture import Architecture
from model.attention.normalizers.base import NormalizerBase
from model.attention.normalizers.dense import Softmax
from model.attention.normalizers.sparse import Entmax15, Sparsemax
from model.attention.parts import Keys, Queries
from model.attention.scale import Rsqrt
from model.attention.scores.base import Dot
from model.backends.base import Chunked
from model.core.field import variants
from model.core.inputs import ModelInputs, Positions
from model.core.parameter import Dims
from model.layers.feedforward import Mlp
from model.layers.norm import LayerNorm
from spec import reference
from spec.architectures import (
  BARE,
  dims_of,
  draws,
  examples,
  sloped,
  stacked_params,
  unions,
)
from spec.reference import FEATURES, REFERENCES
from spec.simple import attend
from train.core.trees import unflatten

NORMALIZERS = [
  variant
  for cls in variants(NormalizerBase).values()
  for variant in examples(cls)
]
WIDTH, HEADS, LENGTH = 15, 3, 6
DIMS = Dims(1, WIDTH, HEADS, HEADS, WIDTH // HEADS, LENGTH, 7, False)
MASK_TS = np.tril(np.ones((LENGTH, LENGTH), bool))
TIMES = np.arange(LENGTH)
STEP = 1e-5


def by_tag(variant: Any) -> str:
  return variant.tag


def params_of(normalizer: Any) -> dict[str, np.ndarray]:
  """Returns the parameters of a normaliser; a sink is 0."""
  table = normalizer.params(DIMS)
  return {name: np.zeros(what.shape) for name, what in table.items()}


def compiled(normalizer: Any, wide: Any) -> Callable[..., Any]:
  """Returns (x, kernel) -> sum of weights times numbers, queries made inside.

  The gradient is by the kernel of queries, with logits made in one program.
  """
  params = {n: wide(p) for n, p in params_of(normalizer).items()}
  mask_B1TS = jnp.asarray(MASK_TS)[None, None]
  n_B1T1 = mask_B1TS.sum(-1, keepdims=True)

  def total(kernel_DNH: Any, x_BTD: Any, k_BSNH: Any, by_BNTS: Any) -> Any:
    q_BTNH = jnp.einsum('BTD,DNH->BTNH', x_BTD, kernel_DNH)
    q_BTNH, k_BSNH = normalizer.features(q_BTNH), normalizer.features(k_BSNH)
    logits_BNTS = Dot().logits({}, q_BTNH, k_BSNH, x_BTD, TIMES, TIMES)
    logits_BNTS = logits_BNTS * Rsqrt().factor({}, q_BTNH.shape[-1], None)
    weights_BNTS = normalizer.weights(params, logits_BNTS, mask_B1TS, n_B1T1)
    return (weights_BNTS * by_BNTS).sum()

  return jax.jit(jax.grad(total))


def by_loop(
  normalizer: Any,
  kernel_DNH: np.ndarray,
  x_BTD: np.ndarray,
  k_BSNH: np.ndarray,
  by_BNTS: np.ndarray,
) -> float:
  """Returns the same sum in float64 loops; `hard` goes straight through."""
  tag = 'softmax' if normalizer.tag == 'hard' else normalizer.tag
  features = FEATURES.get(tag, np.asarray)
  q_BTNH = np.einsum('BTD,DNH->BTNH', x_BTD, kernel_DNH)
  params, total = params_of(normalizer), 0.0
  for b, n, t in np.ndindex(by_BNTS.shape[:3]):
    q_H = features(q_BTNH[b, t, n])
    logits_S = np.array(
      [q_H @ features(k_H) / len(q_H) ** 0.5 for k_H in k_BSNH[b, :, n]]
    )
    weights_S = REFERENCES['normalizer'][tag](
      normalizer, params, n, logits_S, MASK_TS[t]
    )
    total += float(np.dot(weights_S, by_BNTS[b, n, t]))
  return total


def given(case: str, seed: int) -> tuple[np.ndarray, ...]:
  """Returns kernel, x, k, factors: of one key a row that holds all, or ties."""
  size = 12.0 if case == 'one key' else 1.0
  x_BTD = draws(1, LENGTH, WIDTH, seed=seed)
  kernel_DNH = draws(WIDTH, HEADS, WIDTH // HEADS, seed=seed) / WIDTH**0.5
  k_BSNH = size * draws(1, LENGTH, HEADS, WIDTH // HEADS, seed=seed)
  if case == 'ties':
    k_BSNH[:, 1::2] = k_BSNH[:, ::2]
  by_BNTS = draws(1, HEADS, LENGTH, LENGTH, seed=seed)
  return kernel_DNH, x_BTD, k_BSNH, by_BNTS


@pytest.mark.parametrize('normalizer', NORMALIZERS, ids=by_tag)
def test_compiled_gradients_are_central_differences(normalizer: Any) -> None:
  with jax.enable_x64(True):
    in_64 = compiled(normalizer, np.float64)
    for case in ('plain', 'one key', 'ties'):
      for seed in range(4):
        kernel_DNH, *rest = given(case, seed)
        way_DNH = draws(*kernel_DNH.shape, seed=99)
        up, down = (
          by_loop(normalizer, kernel_DNH + step * way_DNH, *rest)
          for step in (STEP, -STEP)
        )
        expected = (up - down) / (2 * STEP)
        found = np.sum(in_64(kernel_DNH, *rest) * way_DNH)
        size = np.abs(rest[-1]).sum()
        assert found == pytest.approx(expected, rel=1e-5, abs=1e-6 * size), (
          case,
          seed,
        )


def with_part(field: str, variant: Any) -> Architecture:
  """Returns an architecture of one small block with an output or a residual."""
  if field == 'output':
    return sloped(field, variant)
  return dataclasses.replace(
    BARE, feedforward=Mlp(width=5), norm=LayerNorm(), residual=variant
  )


PARTS = {
  f'{field}-{tag}-{n}': with_part(field, variant)
  for field in ('output', 'residual')
  for tag, cls in unions(Architecture)[field].items()
  for n, variant in enumerate(examples(cls))
}


@pytest.mark.slow
def test_compiled_gradients_of_outputs_and_residuals() -> None:
  """In one program, along one direction of all parameters of each."""
  tokens_BT, probe_BTV = np.array([[3, 0, 5, 1]]), draws(1, 4, 7)
  params = {name: stacked_params(arch) for name, arch in PARTS.items()}

  def total(given: Any) -> jax.Array:
    outs = [
      transformer.apply(
        arch, dims_of(arch), unflatten(given[name]), ModelInputs(tokens_BT)
      )
      for name, arch in PARTS.items()
    ]
    return sum(
      ((out.logits_BTV * probe_BTV).sum() for out in outs), jnp.array(0)
    )

  with jax.enable_x64(True):
    grads = jax.jit(jax.grad(total))(jax.tree.map(jnp.asarray, params))
  found = jax.tree.map(np.asarray, grads)
  for name, arch in PARTS.items():
    way = {path: draws(*x.shape, seed=9) for path, x in params[name].items()}
    ends = []
    for step in (STEP, -STEP):
      moved = {path: x + step * way[path] for path, x in params[name].items()}
      out = reference.model(arch, moved, tokens_BT)
      ends.append(float((out.logits_BTV * probe_BTV).sum()))
    slope = sum(float((found[name][p] * way[p]).sum()) for p in way)
    expected = (ends[0] - ends[1]) / (2 * STEP)
    assert slope == pytest.approx(expected, rel=1e-6), name
    own = [p for p in way if 'output_' in p]
    assert all(np.abs(found[name][p]).max() > 1e-3 for p in own), name


@pytest.mark.parametrize(
  'normalizer', [Softmax(), Sparsemax(), Entmax15()], ids=by_tag
)
def test_float32_rounds_the_gradient_of_float64(normalizer: Any) -> None:
  """Of the same program: which keys have weight is not a matter of rounding."""
  with jax.enable_x64(True):
    gradient = compiled(normalizer, jnp.asarray)
    for case in ('plain', 'one key'):
      for seed in range(4):
        exact = np.asarray(gradient(*given(case, seed)))
        narrow = gradient(*(np.float32(a) for a in given(case, seed)))
        size = np.abs(exact).max()
        allowed = 1e-4 + 1e-3 * size
        np.testing.assert_allclose(narrow, exact, rtol=0, atol=allowed)


@pytest.mark.parametrize('normalizer', [Sparsemax(), Entmax15()], ids=by_tag)
def test_a_key_at_the_cut_has_no_weight_and_no_gradient(
  normalizer: Sparsemax | Entmax15,
) -> None:
  """Exactly at tau: 1 below one key (2 for entmax15), or below two equal."""
  cut = 1.0 if normalizer.tag == 'sparsemax' else 2.0
  two = 0.5 if normalizer.tag == 'sparsemax' else 2.0**0.5
  rows = [
    [0.0, -cut, -cut, -9.0],
    [0.0, 0.0, -two, -two],
    [3.0, 3.0 - cut, 0, 0],
  ]
  logits_BNTS = jnp.float32(rows)[None, None]
  mask_B1TS = jnp.ones((1, 1, 3, 4), bool)

  def first(logits_BNTS: jax.Array) -> jax.Array:
    weights = normalizer.weights({}, logits_BNTS, mask_B1TS, None)
    return (weights * jnp.float32([1.0, 2.0, 4.0, 8.0])).sum()

  gradient = jax.jit(jax.grad(first))(logits_BNTS)[0, 0]
  np.testing.assert_array_equal(gradient[0], 0.0)
  np.testing.assert_array_equal(gradient[2], 0.0)
  # The root of 2 is rounded, so that such a key is at the cut all but.
  np.testing.assert_allclose(gradient[1, 2:], 0.0, atol=1e-6)
  np.testing.assert_allclose(gradient[1, 0], -gradient[1, 1], rtol=1e-5)
  assert abs(gradient[1, 0]) > 0.1


@pytest.mark.parametrize('normalizer', NORMALIZERS, ids=by_tag)
def test_logits_of_1e10_give_finite_weights_and_gradients(
  normalizer: Any,
) -> None:
  params = {n: jnp.float32(p) for n, p in params_of(normalizer).items()}
  mask_B1TS = jnp.asarray(MASK_TS)[None, None]
  n_B1T1 = mask_B1TS.sum(-1, keepdims=True)

  def weights(q_BTNH: Any, k_BSNH: Any) -> Any:
    q_BTNH, k_BSNH = normalizer.features(q_BTNH), normalizer.features(k_BSNH)
    logits_BNTS = Dot().logits({}, q_BTNH, k_BSNH, q_BTNH, TIMES, TIMES)
    logits_BNTS = logits_BNTS * Rsqrt().factor({}, q_BTNH.shape[-1], None)
    return normalizer.weights(params, logits_BNTS, mask_B1TS, n_B1T1)

  @jax.jit
  def both(*given: Any) -> tuple[Any, Any]:
    by = jnp.arange(1.0, LENGTH + 1)
    gradient = jax.grad(lambda *given: (weights(*given) * by).sum())
    return weights(*given), gradient(*given)

  shape = (2, LENGTH, HEADS, WIDTH // HEADS)
  for seed in range(3):
    q, k = (np.float32(1e5 * draws(*shape, seed=s)) for s in (seed, 7 + seed))
    made, gradient = both(q, k)
    assert np.isfinite(made).all()
    assert np.isfinite(gradient).all()
    # A sink of 0 takes what logits far below it leave.
    if normalizer.tag in ('softmax', 'topk', 'hard', 'sparsemax', 'entmax15'):
      np.testing.assert_allclose(made.sum(-1), 1.0, rtol=1e-6)


def test_chunks_of_logits_of_1e10_are_the_whole() -> None:
  q, k, v = (draws(1, LENGTH, HEADS, 5, seed=s) for s in range(3))
  arch = Architecture(d_model=WIDTH, num_heads=HEADS, backend=Chunked(2))
  q, k = np.float32(1e5 * q), np.float32(1e5 * k)
  whole = jax.jit(lambda *x: attend(*x, MASK_TS, Rsqrt(), Softmax()).out_BTNH)

  @jax.jit
  def chunked(q: Any, k: Any, v: Any) -> Any:
    names = ('score', 'scale', 'position', 'normalizer', 'output_plain')
    queries = Queries(q, q[..., 0], Positions(jnp.asarray(TIMES)), {})
    keys = Keys(k, v, Positions(jnp.asarray(TIMES)), {})
    tables = {name: {} for name in names}
    return Chunked(2).attend(arch.parts, tables, queries, keys, None).out_BTNH

  np.testing.assert_allclose(
    chunked(q, k, np.float32(v)), whole(q, k, np.float32(v)), rtol=1e-5
  )


# `hard` goes straight through: its forward pass stands still.
IN_A_MODEL = [
  pytest.param(n, marks=() if n.tag == 'sparsemax' else pytest.mark.slow)
  for n in NORMALIZERS
  if n.tag != 'hard'
]


@pytest.mark.slow
@pytest.mark.parametrize('normalizer', IN_A_MODEL, ids=by_tag)
def test_a_whole_model_has_the_gradient_of_central_differences(
  normalizer: Any,
) -> None:
  arch = Architecture(
    d_model=WIDTH, num_heads=HEADS, num_layers=1, normalizer=normalizer
  )
  tokens_BT = np.random.default_rng(0).integers(0, 7, (2, LENGTH))
  by_BTV = draws(2, LENGTH, 7)

  @jax.jit
  def total(params: Any) -> Any:
    out = transformer.apply(arch, DIMS, params, ModelInputs(tokens_BT))
    return (out.logits_BTV * by_BTV).sum()

  start = transformer.init(arch, DIMS, jax.random.key(0))
  with jax.enable_x64(True):
    gradient_of = jax.jit(jax.grad(total))
    for size in (20.0, 150.0):
      params = jax.tree.map(lambda p, s=size: s * np.float64(p), start)
      params['blocks']['norm_attention'] = start['blocks']['norm_attention']
      gradient = gradient_of(params)['blocks']['attention']['query']
      way = draws(*gradient.shape, seed=1)

      def moved(step: float, params: Any = params, way: Any = way) -> float:
        own = params['blocks']['attention']
        attention = own | {'query': own['query'] + step * way}
        blocks = params['blocks'] | {'attention': attention}
        return float(total(params | {'blocks': blocks}))

      expected = (moved(STEP) - moved(-STEP)) / (2 * STEP)
      scale = float(np.abs(gradient).sum())
      found = float(np.sum(gradient * way))
      assert found == pytest.approx(expected, rel=1e-4, abs=1e-5 * scale)
