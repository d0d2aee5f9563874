"""Whole models equal their float64 loops."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import transformer
from model.architecture.architecture import Architecture
from model.architecture.family import EncoderDecoder
from model.attention.outputs.base import Gate
from model.attention.outputs.forget import Forget
from model.attention.outputs.mixtures import ValueResidual
from model.attention.projections.latent import Mla
from model.attention.scores.place_scores import Fixed
from model.backends.base import Chunked
from model.core.field import members
from model.core.inputs import ModelInputs
from model.core.side_output import ATTENTION_MAPS
from model.layers.read_in import ReadInBase
from model.layers.read_out import ReadOutBase
from model.layers.residual import NoResidual
from model.position.base import Rope
from spec import reference
from spec.architectures import (
  BASE,
  SEQ_LEN,
  VOCABULARY,
  covering,
  described,
  dims_of,
  drawn_params,
  draws,
  shown,
  source_of,
  stacked_params,
)
from spec.tolerance import EXACT, assert_exact
from train.core.trees import unflatten

pytestmark = pytest.mark.usefixtures('quick_compilation')

SIZED = [
  *covering(causal=False),
  dataclasses.replace(BASE, model=EncoderDecoder(), score=Fixed()),
  dataclasses.replace(BASE, tie_embeddings=True, head_dim=3, num_heads=3),
  dataclasses.replace(BASE, num_heads=4, num_kv_heads=2, output=(Forget(),)),
  dataclasses.replace(BASE, num_layers=3, output=(ValueResidual(), Gate())),
  dataclasses.replace(
    BASE, position=Rope(), projections=Mla(5, 2, 3), backend=Chunked(2)
  ),
]
# Three documents packed into two examples, and padding.
SEGMENTS_BT = np.array([[1, 1, 2, 2, 2], [1, 1, 1, 0, 0]])


def rounded(params: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns parameters that differ by a few roundings."""
  rng = np.random.default_rng(2)
  return {
    path: x * (1 + 1e-15 * rng.standard_normal(x.shape))
    for path, x in params.items()
  }


def steady(values: Sequence[Any], others: Sequence[Any]) -> list[Any]:
  """Returns where values stay what they are when parameters are rounded.

  Without skip connections a state that should be 0 is what rounding left; a
  router that chooses by it, an output that takes its direction, or norms that
  enlarge it, give anything.
  """
  found = []
  for value, other in zip(values, others, strict=True):
    if value is None or other is None:
      found.append(None)
      continue
    value, other = np.asarray(value), np.asarray(other)
    size = np.abs(value).max(initial=1e-300)
    found.append(np.abs(value - other) <= 0.1 * EXACT * size)
    assert found[-1].mean() > 0.5
  return found


@pytest.mark.slow
@pytest.mark.parametrize('arch', SIZED, ids=described)
def test_model_equals_its_loops(arch: Architecture) -> None:
  """Everywhere; without skip connections where rounding does not decide."""
  params, dims = stacked_params(arch), dims_of(arch)
  rng = np.random.default_rng(1)
  tokens_BT = rng.integers(0, VOCABULARY, (2, SEQ_LEN - 1))
  source = source_of(arch, 2)
  inputs = ModelInputs(tokens_BT, segments_BT=SEGMENTS_BT, source=source)

  def loops(params: Mapping[str, np.ndarray]) -> Sequence[Any]:
    return reference.model(arch, params, tokens_BT, SEGMENTS_BT, source)

  compiled = jax.jit(
    lambda params: shown(
      transformer.apply(arch, dims, params, inputs, wanted=ATTENTION_MAPS)
    )
  )

  def run(params: Mapping[str, np.ndarray]) -> Sequence[Any]:
    return compiled(jax.tree.map(jnp.asarray, unflatten(params)))

  with jax.enable_x64(True):
    found, expected = run(params), loops(params)
    kept: list[Any] = [True] * len(found)
    if isinstance(arch.residual, NoResidual):
      near = rounded(params)
      kept = [
        None if a is None else a & b
        for a, b in zip(
          steady(found, run(near)), steady(expected, loops(near)), strict=True
        )
      ]
    for actual, wanted, where in zip(found, expected, kept, strict=True):
      assert (actual is None) == (wanted is None)
      if wanted is not None:
        assert_exact(np.where(where, actual, 0), np.where(where, wanted, 0))


@pytest.mark.parametrize('read_out', ['linear', 'last'])
@pytest.mark.parametrize('read_in', ['linear', 'identity'])
def test_a_model_of_vectors_equals_its_loops(
  read_in: str, read_out: str
) -> None:
  parts = members(ReadInBase)[read_in](), members(ReadOutBase)[read_out]()
  arch = dataclasses.replace(
    BASE, read_in=parts[0], read_out=parts[1], tie_embeddings=True
  )
  dims = dataclasses.replace(dims_of(arch), num_inputs=8, num_outputs=3)
  table = {
    path: dataclasses.replace(what, shape=what.struct.shape)
    for path, what in arch.parameter_table(dims).items()
  }
  assert not [path for path in table if 'embedding' in path]
  params, v_BTI = drawn_params(table), draws(2, SEQ_LEN, 8)
  expected = reference.model(arch, params, v_BTI, num_outputs=3)
  with jax.enable_x64(True):
    given = jax.tree.map(jnp.asarray, unflatten(params))
    inputs = ModelInputs(vectors_BTI=jnp.asarray(v_BTI))
    out = transformer.apply(arch, dims, given, inputs)
    assert_exact(out.logits_BTV, expected.logits_BTV)
