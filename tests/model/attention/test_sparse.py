"""Normalisers with weights of exactly 0: their limits, and straight through."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.architecture.family import (
  Decoder,
  Encoder,
  EncoderDecoder,
  FamilyBase,
)
from model.attention.mask import Causal, ExcludeSelf, MaskBase, Window, allowed
from model.attention.normalizers.dense import Relu, Softmax
from model.attention.normalizers.sparse import Entmax15, Hard, Sparsemax, TopK
from model.attention.scale import LogN, Rsqrt
from model.attention.scores.place_scores import Fixed
from model.backends.base import Chunked
from model.core.field import FieldError
from model.core.inputs import Positions, broadcast_positions
from model.position.base import Alibi
from spec.architectures import BASE, draws
from spec.simple import attend
from train.config.config import Config
from train.tasks.texts.mlm import Mlm
from train.tasks.texts.text import Text
from train.tasks.texts.translation import Translation

pytestmark = pytest.mark.usefixtures('quick_compilation')

MASK_TS = np.tril(np.ones((4, 4), bool), -1)  # row 0 sees nothing


@pytest.mark.slow
def test_hard_goes_straight_through() -> None:
  """Queries get the gradient of the softmax, values that of the choice."""
  q_BTNH, k_BTNH, v_BTNH, target_BTNH = (
    draws(2, 4, 2, 3, seed=n) for n in range(4)
  )

  def grads(normalizer: Hard | Softmax) -> tuple[jax.Array, jax.Array]:
    def loss(q_BTNH: jax.Array, v_BTNH: jax.Array) -> jax.Array:
      mixed = attend(q_BTNH, k_BTNH, v_BTNH, MASK_TS, Rsqrt(), normalizer)
      return (mixed.out_BTNH * target_BTNH).sum()

    return jax.grad(loss, (0, 1))(q_BTNH, v_BTNH)

  with jax.enable_x64(True):
    by_query, by_value = grads(Hard())
    wanted, _ = grads(Softmax())
    np.testing.assert_allclose(by_query, wanted, rtol=1e-12)
    mixed = attend(q_BTNH, k_BTNH, v_BTNH, MASK_TS, Rsqrt(), Hard())
    weights_BNTS = np.asarray(mixed.weights_BNTS)
    assert set(np.unique(weights_BNTS)) == {0.0, 1.0}
    expected_BSNH = np.einsum('BNTS,BTNH->BSNH', weights_BNTS, target_BTNH)
    np.testing.assert_allclose(by_value, expected_BSNH, rtol=1e-12)
    assert np.abs(wanted).max() > 1e-2


@pytest.mark.parametrize('normalizer', [Sparsemax(), Entmax15()])
def test_probabilities_with_zeros_in_long_rows(
  normalizer: Sparsemax | Entmax15,
) -> None:
  logits_BNTS = jnp.float32(draws(2, 2, 8, 512) / 4)
  mask_B1TS = jnp.ones((1, 1, 8, 512), bool)
  weights_BNTS = normalizer.weights({}, logits_BNTS, mask_B1TS, None)
  np.testing.assert_allclose(weights_BNTS.sum(-1), 1.0, rtol=1e-5)
  used_BNT = (weights_BNTS > 0).sum(-1)
  assert used_BNT.max() < 256
  assert used_BNT.min() > 1
  assert (weights_BNTS >= 0).all()


def test_all_keys_are_the_softmax_and_a_long_row_is_refused() -> None:
  logits_BNTS = jnp.float32(draws(1, 2, 3, 5))
  mask_B1TS = jnp.ones((1, 1, 3, 5), bool)
  np.testing.assert_allclose(
    TopK(9).weights({}, logits_BNTS, mask_B1TS, None),
    Softmax().weights({}, logits_BNTS, mask_B1TS, None),
    rtol=1e-6,
  )
  arch = dataclasses.replace(BASE, normalizer=TopK(8))
  assert Config(seq_len=9, architecture=arch).seq_len == 9
  with pytest.raises(FieldError, match=r'--normalizer\.k=8: leaves nothing'):
    Config(seq_len=8, architecture=arch)


@pytest.mark.parametrize(
  ('model', 'masks'),
  [
    (Decoder(), (Causal(), Window(4))),
    (Decoder(), (Causal(), ExcludeSelf(), Window(4))),
    (Encoder(), (Window(4),)),
    (Encoder(), (ExcludeSelf(), Window(4))),
    # Wider than what there is: then the length says it.
    (Encoder(), (Window(7),)),
  ],
)
def test_all_keys_in_a_window_are_the_softmax_and_refused(
  model: FamilyBase, masks: tuple[MaskBase, ...]
) -> None:
  at = Positions(jnp.arange(9))
  seen = allowed(masks, *broadcast_positions(at, at))
  most = int(seen.sum(-1).max())

  def made(k: int) -> Config:
    arch = dataclasses.replace(
      BASE, normalizer=TopK(k), mask=masks, model=model
    )
    task = Text() if model.traits.writes else Mlm()
    return Config(seq_len=9, architecture=arch, task=task)

  assert made(most - 1).seq_len == 9
  with pytest.raises(FieldError, match=rf'\.k={most}: leaves nothing'):
    made(most)


def test_a_window_leaves_a_source_whole() -> None:
  """Which cross-attention has up to --seq_len keys of, and `k` a meaning."""
  arch = dataclasses.replace(
    BASE, normalizer=TopK(8), mask=(Causal(), Window(4)), model=EncoderDecoder()
  )
  assert Config(seq_len=9, architecture=arch, task=Translation()).seq_len == 9


def test_as_many_keys_as_asked_whatever_is_compiled() -> None:
  """Logits may be computed twice, and rounded in two ways; others are equal."""
  t_T, mask_B1TS = jnp.arange(8), jnp.tri(8, dtype=bool)[None, None]
  n_B1T1 = mask_B1TS.sum(-1, keepdims=True)
  seen_T = np.minimum(np.arange(8) + 1, 3)

  @jax.jit
  def kept(head_N: jax.Array) -> jax.Array:
    x_BTNH = jnp.zeros((1, 8, 4, 4), head_N.dtype)
    logits_BNTS = Fixed().logits({}, x_BTNH, x_BTNH, x_BTNH[..., 0], t_T, t_T)
    scale = LogN(learned=True).factor({'head': head_N}, 4, n_B1T1)
    bias_NTS = Alibi().bias({}, 4, t_T, t_T)
    logits_BNTS = logits_BNTS * scale + bias_NTS
    weights_BNTS = TopK(3).weights({}, logits_BNTS, mask_B1TS, None)
    return (weights_BNTS > 0).sum(-1)

  with jax.enable_x64(True):
    for seed in range(20):
      kept_BNT = kept(jnp.asarray(draws(4, seed=seed)))
      np.testing.assert_array_equal(
        kept_BNT, np.broadcast_to(seen_T, kept_BNT.shape)
      )
    same_BNTS = TopK(3).weights({}, jnp.zeros((1, 4, 8, 8)), mask_B1TS, None)
    assert (same_BNTS[..., 3:] == 0).all()  # of equals the first


def test_chunks_serve_what_judges_keys_one_by_one() -> None:
  chunked = dataclasses.replace(BASE, backend=Chunked())
  assert dataclasses.replace(chunked, normalizer=Relu()).normalizer == Relu()
  for normalizer in (Sparsemax(), Entmax15(), TopK(), Hard()):
    with pytest.raises(FieldError, match=r'--normalizer=.*--backend=reference'):
      dataclasses.replace(chunked, normalizer=normalizer)
