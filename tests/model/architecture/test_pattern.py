"""Choices that repeat over the layers: as if each layer were written down."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import cache, transformer
from model.architecture.architecture import Architecture
from model.architecture.layer_choices import LayerChoices
from model.attention.mask import Causal, Window
from model.core.field import FieldError
from model.core.inputs import ModelInputs
from model.core.side_output import ATTENTION_MAPS
from model.layers.balance import LOAD
from model.layers.feedforward import Mlp
from model.layers.moe import Moe
from model.position.base import LearnedPosition, NoPosition, Rope
from spec import reference
from spec.architectures import BASE, dims_of, stacked_params
from spec.tolerance import assert_exact
from train.config.config import Config
from train.core.trees import unflatten
from train.flags.schema import override, to_flags

pytestmark = pytest.mark.usefixtures('quick_compilation')

NEAR = LayerChoices(mask=(Causal(), Window(2)))
FAR = LayerChoices(mask=(Causal(),), position=NoPosition())
# Three windowed and one full, RoPE and none in turn; two layers are left over.
LOCAL = dataclasses.replace(
  BASE, num_layers=6, position=Rope(), pattern=(NEAR, NEAR, NEAR, FAR)
)
MIXED = dataclasses.replace(
  BASE,
  num_layers=3,
  position=Rope(),
  pattern=(
    LayerChoices(feedforward=Moe(4, 2, activation='relu', width=5)),
    LayerChoices(feedforward=Mlp('relu', width=3)),
  ),
)
TOKENS_BT = np.random.default_rng(0).integers(0, 7, (2, 6))


def exact_params(arch: Architecture) -> Any:
  """Returns drawn parameters in float64."""
  return jax.tree.map(jnp.asarray, unflatten(stacked_params(arch)))


@pytest.mark.slow
@pytest.mark.parametrize('arch', [LOCAL, MIXED], ids=['local', 'mixed'])
def test_layers_equal_their_loops(arch: Architecture) -> None:
  """Each with its own choices, in one scan and one after another."""
  segments_BT = np.ones_like(TOKENS_BT)
  want = reference.model(arch, stacked_params(arch), TOKENS_BT, segments_BT)
  with jax.enable_x64(True):
    params = exact_params(arch)
    for unrolled in (False, True):
      own = dataclasses.replace(arch, scan_layers=not unrolled)
      out = jax.jit(
        lambda params, own=own: transformer.apply(
          own,
          dims_of(own),
          params,
          ModelInputs(TOKENS_BT),
          wanted=ATTENTION_MAPS,
        )
      )(params)
      assert_exact(out.logits_BTV, want.logits_BTV)
      assert_exact(out.weights_LBNTS, want.weights_LBNTS)


@pytest.mark.slow
@pytest.mark.parametrize('arch', [LOCAL, MIXED], ids=['local', 'mixed'])
def test_cached_equals_uncached(arch: Architecture) -> None:
  dims = dims_of(arch)
  with jax.enable_x64(True):
    params = exact_params(arch)
    whole = transformer.apply(arch, dims, params, ModelInputs(TOKENS_BT))
    kept = jax.tree.map(
      lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x,
      cache.empty(arch, dims, 2, 6),
    )
    step = jax.jit(
      lambda tokens_BT, kept: transformer.decode_step(
        arch, dims, params, ModelInputs(tokens_BT), kept
      )
    )
    for t in range(6):
      out, kept = step(TOKENS_BT[:, t : t + 1], kept)
      assert_exact(out.logits_BTV[:, 0], whole.logits_BTV[:, t])


@pytest.mark.slow
def test_one_period_is_compiled() -> None:
  """In a scan, the program of twelve layers is no longer than that of eight."""

  def size(num_layers: int) -> int:
    arch = dataclasses.replace(LOCAL, num_layers=num_layers, scan_layers=True)
    dims = dims_of(arch)
    shapes = jax.eval_shape(
      lambda: transformer.init(arch, dims, jax.random.key(0))
    )
    run = jax.jit(
      lambda params: (
        transformer.apply(arch, dims, params, ModelInputs(TOKENS_BT)).logits_BTV
      )
    )
    return len(run.lower(shapes).as_text().splitlines())

  assert size(12) == size(8)
  assert size(4) > 2 * size(8) / 4


@pytest.mark.slow
def test_a_layer_starts_from_what_it_starts_from_without() -> None:
  plain = dataclasses.replace(LOCAL, pattern=())
  key = jax.random.key(3)
  own, without = (
    transformer.init(arch, dims_of(arch), key) for arch in (LOCAL, plain)
  )
  for n in range(6):
    for name, x_L in without['blocks']['attention'].items():
      np.testing.assert_array_equal(
        own[f'blocks_{n % 4}']['attention'][name][n // 4], x_L[n]
      )
  np.testing.assert_array_equal(
    own['embedding']['token'], without['embedding']['token']
  )


@pytest.mark.slow
def test_equal_layers_are_no_pattern() -> None:
  """Two layers that choose what all have: to the last digit the same."""
  same = LayerChoices(norm=BASE.norm)
  arch = dataclasses.replace(BASE, num_layers=4, pattern=(same, same))
  plain = dataclasses.replace(arch, pattern=())
  with jax.enable_x64(True):
    params = exact_params(plain)
    split = {k: v for k, v in params.items() if k != 'blocks'}
    for n in range(2):
      split[f'blocks_{n}'] = jax.tree.map(
        lambda x_L, n=n: x_L[n::2], params['blocks']
      )
    one, other = (
      transformer.apply(a, dims_of(a), p, ModelInputs(TOKENS_BT)).logits_BTV
      for a, p in ((arch, split), (plain, params))
    )
    assert_exact(one, other)


@pytest.mark.slow
def test_side_outputs_are_those_of_the_layers_that_have_them() -> None:
  params = transformer.init(MIXED, dims_of(MIXED), jax.random.key(0))
  out = transformer.apply(
    MIXED, dims_of(MIXED), params, ModelInputs(TOKENS_BT), wanted=ATTENTION_MAPS
  )
  load_LBE = out.layers('blocks', LOAD)
  assert load_LBE is not None
  assert load_LBE.shape == (2, 2, 4)  # of layers 0 and 2
  assert out.weights_LBNTS is not None
  assert out.weights_LBNTS.shape[0] == 3


TEXT = 'mask=causal,window&mask.window=4;mask=causal&position=none'


@pytest.mark.parametrize(
  'given', [TEXT, TEXT.replace('&', ' ').replace(';', ' ; ')]
)
def test_a_pattern_is_read_and_written(given: str) -> None:
  config = override(Config(), {'position': 'rope', 'pattern': given})
  assert config.architecture.pattern == (
    LayerChoices(mask=(Causal(), Window(4))),
    LayerChoices(mask=(Causal(),), position=NoPosition()),
  )
  assert to_flags(config)['pattern'] == TEXT
  assert override(Config(), to_flags(config)) == config


@pytest.mark.parametrize(
  ('flags', 'match'),
  [
    ({'pattern': 'norm=none'}, 'has one layer, so all layers are equal'),
    ({'pattern': 'norm=none;;norm=none'}, 'has 3 layers, and a stack has 2'),
    ({'pattern': 'norm=non;norm=none'}, 'norm=non: must be one of'),
    ({'pattern': 'd_model=3;norm=none'}, 'd_model=3: is not a flag'),
    ({'pattern': 'norm;norm=none'}, 'must be "name=value name=value;'),
    ({'pattern': 'position=rope;norm=none'}, 'is added to the input of the'),
    (
      {'position': 'rope', 'pattern': 'position=t5;norm=none'},
      'has parameters that all layers share',
    ),
    ({'pattern': 'mask=full;mask=causal'}, 'causal decides what can be'),
    (
      {'position': 'rope', 'pattern': 'score=fixed;norm=none'},
      'in score=fixed, --position=rope: changes queries and keys',
    ),
    ({'pattern': 'mask.window=3;norm=none'}, 'has no effect with'),
  ],
)
def test_what_a_layer_cannot_have_is_refused(
  flags: dict[str, str], match: str
) -> None:
  with pytest.raises(FieldError, match=match):
    override(Config(), flags)


def test_positions_with_parameters_may_be_left_out_of_layers() -> None:
  with pytest.raises(FieldError, match='is added to the input'):
    dataclasses.replace(
      BASE, position=LearnedPosition(), pattern=(FAR, LayerChoices())
    )
