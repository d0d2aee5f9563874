"""Gradients equal differences of the float64 loops."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import transformer
from model.architecture.architecture import Architecture
from model.attention.scale import Rsqrt
from model.core.inputs import ModelInputs
from spec import reference
from spec.architectures import (
  BARE,
  BASE,
  VOCABULARY,
  dims_of,
  draws,
  examples,
  named,
  sloped,
  stacked_params,
)
from spec.simple import attend
from spec.units import ALL
from train.core.trees import flatten, unflatten

pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.mark.slow
@pytest.mark.parametrize(
  'normalizer',
  # The gradient of `hard` is not its slope, which is 0: see test_sparse.py.
  [
    v
    for c in ALL['normalizer'].values()
    for v in examples(c)
    if v.tag != 'hard'
  ],
)
def test_gradients_of_attention_by_differences(normalizer: Any) -> None:
  """Also that a row in which nothing is seen gives 0 and a finite gradient."""
  mask_TS = np.tril(np.ones((4, 4), bool), -1)  # row 0 sees nothing
  given = [draws(2, 4, 2, 3, seed=n) for n in range(3)]
  direction = [draws(2, 4, 2, 3, seed=n) for n in range(3, 6)]
  target_BTNH = draws(2, 4, 2, 3, seed=6)

  with jax.enable_x64(True):

    @jax.jit
    def loss(heads: list[jax.Array]) -> tuple[jax.Array, Any]:
      mixed = attend(*heads, mask_TS, Rsqrt(), normalizer)
      return (mixed.out_BTNH * target_BTNH).sum(), mixed

    grads, mixed = jax.jit(jax.grad(loss, has_aux=True))(given)
    slope = sum(
      float((g * d).sum()) for g, d in zip(grads, direction, strict=True)
    )
    step = 1e-5
    ends = [
      float(
        loss(
          [x + sign * step * d for x, d in zip(given, direction, strict=True)]
        )[0]
      )
      for sign in (1, -1)
    ]
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-7)
    assert abs(slope) > 1e-2
  assert not np.asarray(mixed.out_BTNH)[:, 0].any()
  assert not np.asarray(mixed.weights_BNTS)[:, :, 0].any()
  assert all(np.isfinite(g).all() for g in grads)
  assert not np.asarray(grads[0])[:, 0].any()


# Where the parameters of each union lie.
OWN = {
  'projections': 'blocks/attention/',
  'qk_norm': 'blocks/qk_norm/',
  'score': 'blocks/score/',
  'scale': 'blocks/scale/',
  'normalizer': 'blocks/normalizer/',
  'position': 'position/',
  'output': 'blocks/output_',
}


SLOPED = [
  pytest.param(sloped(field, v), own, id=f'{field}-{named(v)}')
  for field, own in OWN.items()
  for cls in ALL[field].values()
  for v in examples(cls)
  # The gradient of `hard` is not its slope, which is 0: see test_sparse.py.
  if v.tag != 'hard'
]
SLOPED += [
  pytest.param(
    dataclasses.replace(BARE, num_heads=4, num_kv_heads=2, logit_cap=1.5),
    'blocks/attention/',
    id='grouped-and-capped',
  )
]


def test_slopes_are_of_parameters() -> None:
  """Each path of `OWN` is that of a parameter of some member."""
  tables = [case.values[0].parameter_table(dims_of(BASE)) for case in SLOPED]
  paths = {path for table in tables for path in table}
  assert all(any(p.startswith(own) for p in paths) for own in OWN.values())


@pytest.mark.slow
@pytest.mark.parametrize(('arch', 'own'), SLOPED)
def test_gradients_equal_differences_of_the_loops(
  arch: Architecture, own: str
) -> None:
  """Of the input, and of each parameter whose path begins with `own`."""
  params, dims = stacked_params(arch), dims_of(arch)
  tokens_BT, probe_BTV = np.array([[3, 0, 5, 1]]), draws(1, 4, VOCABULARY)

  def loss(params: Any) -> jax.Array:
    out = transformer.apply(arch, dims, params, ModelInputs(tokens_BT))
    return (out.logits_BTV * probe_BTV).sum()

  with jax.enable_x64(True):
    given = jax.tree.map(jnp.asarray, unflatten(params))
    grads = jax.tree.map(np.asarray, flatten(jax.jit(jax.grad(loss))(given)))
  slopes = {}
  for path in ['embedding/token', *(p for p in params if p.startswith(own))]:
    direction, step, ends = draws(*params[path].shape, seed=9), 1e-5, []
    for sign in (1, -1):
      moved = params | {path: params[path] + sign * step * direction}
      out = reference.model(arch, moved, tokens_BT)
      ends.append(float((out.logits_BTV * probe_BTV).sum()))
    slope = float((grads[path] * direction).sum())
    expected = (ends[0] - ends[1]) / (2 * step)
    # Differences are as exact as the loss is, about 1e-16 / step.
    assert slope == pytest.approx(expected, rel=1e-7, abs=1e-10), path
    slopes[path] = abs(slope)
  token = slopes.pop('embedding/token')
  assert min(token, max(slopes.values(), default=1.0)) > 1e-3
