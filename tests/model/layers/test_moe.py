"""Mixture of experts: what is computed, counted and punished."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import cache, transformer
from model.attention.mask import Causal, Segments
from model.core.field import FieldError
from model.core.inputs import ModelInputs
from model.core.side_output import totals
from model.layers.balance import (
  DROPPED_CHOICES,
  LOAD,
  PROBABILITY,
  BatchBalance,
  NoBalance,
  SequenceBalance,
)
from model.layers.moe import Moe
from spec.architectures import BASE, dims_of, drawn_params, draws
from train.config.config import Config

pytestmark = pytest.mark.usefixtures('quick_compilation')

LENGTH = 48


def layer(variant: Moe, batch: int = 2) -> tuple[Any, jax.Array]:
  """Returns float64 parameters of one layer, and an input."""
  dims = dataclasses.replace(dims_of(BASE), use_bias=True)
  params = jax.tree.map(jnp.asarray, drawn_params(variant.params(dims)))
  return params, jnp.asarray(draws(batch, LENGTH, 8))


def dense(variant: Moe, params: Any, x_D: np.ndarray) -> np.ndarray:
  """Returns the output for one token, by all experts and numpy."""
  logits_E = x_D @ params['router']
  p_E = np.exp(logits_E - logits_E.max())
  p_E /= p_E.sum()
  chosen = np.argsort(-p_E, kind='stable')[: variant.top_k]
  gates = p_E[chosen] / (p_E[chosen].sum() if variant.renormalize else 1.0)
  out_D = np.zeros_like(x_D)
  for gate, e in zip(gates, chosen, strict=True):
    h_F = np.maximum(x_D @ params['up'][e] + params['up_bias'][e], 0.0)
    out_D += gate * (h_F @ params['down'][e] + params['down_bias'][e])
  return out_D


@pytest.mark.slow
@pytest.mark.parametrize(
  ('experts', 'top_k', 'length'),
  [(2, 1, LENGTH), (4, 2, LENGTH), (4, 2, 1), (3, 3, 7)],
)
def test_groups_give_what_each_token_gives(
  experts: int, top_k: int, length: int
) -> None:
  """In groups of several rows, and of single rows where there are few."""
  variant = Moe(experts, top_k, top_k > 1, activation='relu', width=5)
  with jax.enable_x64(True):
    params, x_BTD = layer(variant)
    y_BTD, aux = jax.jit(variant.apply)(params, x_BTD[:, :length], None, None)
    host = {name: np.asarray(x) for name, x in params.items()}
    for b in range(2):
      for t in range(length):
        want_D = dense(variant, host, np.asarray(x_BTD[b, t]))
        np.testing.assert_allclose(y_BTD[b, t], want_D, rtol=0, atol=1e-12)
    assert aux[LOAD].sum() == 2 * length * top_k
    np.testing.assert_allclose(aux[PROBABILITY].sum(-1), length, rtol=1e-12)
    assert not aux[DROPPED_CHOICES].any()


@pytest.mark.slow
def test_one_expert_that_gets_all_is_computed() -> None:
  """The load may be as uneven as it likes: no choice is lost."""
  variant = Moe(4, 1, renormalize=False, activation='relu', width=5)
  with jax.enable_x64(True):
    params, x_BTD = layer(variant)
    x_BTD = jnp.abs(x_BTD)
    params['router'] = jnp.zeros((8, 4)).at[:, 2].set(5.0)
    y_BTD, aux = variant.apply(params, x_BTD, None, None)
    assert aux[LOAD].tolist() == [[0, 0, LENGTH, 0]] * 2
    host = {name: np.asarray(x) for name, x in params.items()}
    np.testing.assert_allclose(
      y_BTD[1, -1], dense(variant, host, np.asarray(x_BTD[1, -1])), atol=1e-12
    )


@pytest.mark.slow
def test_capacity_drops_later_choices_and_counts_them() -> None:
  variant = Moe(4, 2, activation='relu', width=5, capacity=0.5)
  room = math.ceil(0.5 * LENGTH * 2 / 4)
  free = dataclasses.replace(variant, capacity=None)
  with jax.enable_x64(True):
    params, x_BTD = layer(variant)
    y_BTD, aux = variant.apply(params, x_BTD, None, None)
    free_BTD, _ = free.apply(params, x_BTD, None, None)
    p_BTE = jax.nn.softmax(x_BTD @ params['router'])
    chosen_BTJ = np.argsort(-np.asarray(p_BTE), -1)[..., :2]
    dropped = 0
    for b in range(2):
      count_E = np.zeros(4, int)
      for t in range(LENGTH):
        kept = []
        for e in chosen_BTJ[b, t]:
          kept.append(count_E[e] < room)
          count_E[e] += 1
        dropped += 2 - sum(kept)
        if all(kept):
          np.testing.assert_allclose(y_BTD[b, t], free_BTD[b, t], atol=1e-12)
        elif not any(kept):
          assert not y_BTD[b, t].any()
    assert dropped > 0
    assert float(aux[DROPPED_CHOICES].sum()) == dropped
    sums = totals({'blocks': {k: x[None] for k, x in aux.items()}})['blocks']
    figures = variant.figures(sums)
    assert figures['dropped_choices'] == pytest.approx(
      dropped / (2 * 2 * LENGTH)
    )
    # What comes later changes nothing of what was before.
    half, _ = variant.apply(
      params, x_BTD.at[:, LENGTH // 2 :].set(1.0), None, None
    )
    np.testing.assert_array_equal(
      half[:, : LENGTH // 2], y_BTD[:, : LENGTH // 2]
    )


@pytest.mark.slow
def test_padding_is_not_counted() -> None:
  variant = Moe(4, 2, activation='relu', width=5)
  with jax.enable_x64(True):
    params, x_BTD = layer(variant)
    segments_BT = jnp.ones((2, LENGTH), int).at[1, 10:].set(0)
    y_BTD, aux = variant.apply(params, x_BTD, None, segments_BT)
    assert aux[LOAD].sum(-1).tolist() == [2 * LENGTH, 20]
    np.testing.assert_allclose(aux[PROBABILITY][1].sum(), 10)
    # It is computed as if it were none: nobody reads it.
    same_BTD, _ = variant.apply(params, x_BTD, None, None)
    np.testing.assert_array_equal(y_BTD, same_BTD)


@pytest.mark.slow
@pytest.mark.parametrize('balance', [SequenceBalance(0.1), BatchBalance(0.1)])
def test_penalty_equals_its_loop(balance: Any) -> None:
  """Weight E sum_e f_e P_e, of a sequence or of the batch; 1 where even."""
  variant = Moe(4, 2, activation='relu', width=5, balance=balance)
  with jax.enable_x64(True):
    params, x_BTD = layer(variant, batch=3)
    _, aux = variant.apply(params, x_BTD, None, None)
    stacked = {k: x[None] for k, x in aux.items()}
    penalty_B = variant.penalty_B(stacked, lambda x: x)
    p_BTE = np.asarray(jax.nn.softmax(x_BTD @ params['router']))
    f_BE, chosen = np.zeros((3, 4)), np.argsort(-p_BTE, -1)[..., :2]
    for b in range(3):
      for e in chosen[b].ravel():
        f_BE[b, e] += 4 / (2 * LENGTH)
    if isinstance(balance, BatchBalance):
      want = 0.1 * (f_BE.mean(0) * p_BTE.mean((0, 1))).sum()
      assert float(penalty_B.mean()) == pytest.approx(want, rel=1e-12)
    else:
      want_B = 0.1 * (f_BE * p_BTE.mean(1)).sum(-1)
      np.testing.assert_allclose(penalty_B, want_B, rtol=1e-12)
    assert NoBalance().penalty_B(aux[LOAD], aux[LOAD], lambda x: x) is None


@pytest.mark.slow
def test_operations_follow_what_is_chosen() -> None:
  """Of 8 or 16 experts as many are computed; of 1, 2 or 4 a token, as many."""

  def flops(experts: int, top_k: int) -> float:
    variant = Moe(experts, top_k, top_k > 1, activation='relu', width=256)
    shapes = jax.eval_shape(
      lambda: {
        name: jnp.zeros(what.shape)
        for name, what in variant.params(
          dataclasses.replace(dims_of(BASE), d_model=64)
        ).items()
      }
    )
    x_BTD = jax.ShapeDtypeStruct((4, 256, 64), jnp.float32)

    def run(params: Any, x_BTD: jax.Array) -> jax.Array:
      return variant.apply(params, x_BTD, None, None)[0]

    analysis = jax.jit(run).lower(shapes, x_BTD).compile().cost_analysis()
    assert analysis is not None
    return analysis['flops']

  one = 4 * 256 * 2 * 2 * 64 * 256  # two products of a token and an expert
  assert 1.0 < flops(8, 2) / (2 * one) < 1.45
  assert 1.0 < flops(8, 4) / (4 * one) < 1.45
  assert flops(16, 2) < 1.1 * flops(8, 2)


@pytest.mark.parametrize(
  ('fields', 'match'),
  [
    ({'experts': 4, 'top_k': 5}, 'at most --feedforward.experts=4'),
    ({'top_k': 1}, 'makes the gate of a single expert 1'),
  ],
)
def test_what_has_no_meaning_is_refused(
  fields: dict[str, Any], match: str
) -> None:
  with pytest.raises(FieldError, match=match):
    Moe(**fields)


@pytest.mark.slow
def test_side_outputs_reach_the_output_of_the_model() -> None:
  arch = dataclasses.replace(BASE, feedforward=Moe(4, 2, width=5))
  dims = dims_of(arch)
  params = transformer.init(arch, dims, jax.random.key(0))
  tokens_BT = jnp.zeros((3, 6), jnp.int32)
  out = transformer.apply(arch, dims, params, ModelInputs(tokens_BT))
  assert out.aux['blocks'][LOAD].shape == (arch.num_layers, 3, 4)
  assert out.weights_LBNTS is None


def test_what_is_counted_along_a_row_is_refused_where_it_must_not_be() -> None:
  capped = dataclasses.replace(BASE, feedforward=Moe(4, 2, capacity=1.0))
  assert 'feedforward.capacity=1.0' in str(cache.decoding_problem(capped))
  with pytest.raises(FieldError, match='of other documents too'):
    dataclasses.replace(capped, mask=(Causal(), Segments()))
  batch = Moe(balance=BatchBalance())
  with pytest.raises(FieldError, match='micro-batches do not see'):
    Config(
      microbatches=2, architecture=dataclasses.replace(BASE, feedforward=batch)
    )


def test_each_expert_is_a_matrix_of_its_own() -> None:
  what = Moe(3, 2, width=5).params(dims_of(BASE))['up']
  assert (what.axes, what.letters) == ('E|D->F', 'EDF')
  assert what.is_matrix
  assert what.fans == (8, 5)
  assert what.shape == (3, 8, 5)
  stacked = dataclasses.replace(what, depth=2)
  assert stacked.matrices == (2, 3, 8, 5)
  bias = Moe(3, 2, width=5).params(
    dataclasses.replace(dims_of(BASE), use_bias=True)
  )['up_bias']
  assert not bias.is_matrix
