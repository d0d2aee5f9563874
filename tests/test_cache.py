"""Decoding from a cache equals the whole sequence at once."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import cache, transformer
from model.architecture import Architecture
from model.attention import Keys
from model.differential import Differential
from model.forget import Forget
from model.mask import Causal, ExcludeSelf, Full, Prefix, Window
from model.normalizer import Elu, Unnormalized
from model.output import ValueResidual
from model.parameter import Dims
from model.position import Rope
from model.recurrent import State
from model.scale import Learned
from others import others_slow
from test_model import SEGMENTS_BT, TOKENS_BT, params_of
from test_reference import (
  BASE,
  covering,
  described,
  dims_of,
  source_of,
  stacked_params,
)
from tolerance import assert_close
from train.optimizer import tree

pytestmark = pytest.mark.usefixtures('quick_compilation')

ARCHITECTURES = [
  *covering(causal=True),
  dataclasses.replace(
    BASE, mask=(Prefix(3),), num_kv_heads=1, output=(Differential(),)
  ),
]


def decoded(
  arch: Architecture, dims: Dims, params: object, cuts: tuple[int, ...]
) -> np.ndarray:
  """Returns logits_BTV from steps that begin at `cuts`, with room left over."""

  @jax.jit
  def run(tokens_BT, segments_BT, kept, source):
    return transformer.step(
      arch, dims, params, tokens_BT, kept, segments_BT, source
    )

  reads_segments = any(mask.reads_segments for mask in arch.masks)
  kept = cache.empty(
    arch, dims, len(TOKENS_BT), TOKENS_BT.shape[1] + 2, prompt=3
  )
  parts = []
  for first, last in zip(cuts, [*cuts[1:], TOKENS_BT.shape[1]], strict=True):
    segments_BT = SEGMENTS_BT[:, first:last] if reads_segments else None
    # Later steps have what they need of the source in the cache.
    source = source_of(arch, 3) if first == 0 else None
    out, kept = run(TOKENS_BT[:, first:last], segments_BT, kept, source)
    parts.append(out.logits_BTV)
  assert int(kept.index) == TOKENS_BT.shape[1]
  return np.concatenate(parts, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
  'arch', others_slow(ARCHITECTURES, ARCHITECTURES[::2]), ids=described
)
def test_cached_equals_uncached(arch: Architecture) -> None:
  """A prompt, single tokens and several at once, against one pass."""
  dims, params = dims_of(arch), params_of(arch)
  assert cache.uncacheable(arch, prompt=3) is None
  whole = jax.jit(
    lambda params: transformer.apply(
      arch,
      dims,
      params,
      TOKENS_BT,
      segments_BT=SEGMENTS_BT,
      source=source_of(arch, 3),
    )
  )(params)
  # Two blocks of some eight sums each, as in `test_model`.
  got_BTV = decoded(arch, dims, params, (0, 3, 4))
  assert_close(got_BTV, whole.logits_BTV, 64, factor=4.0 * 18)


@pytest.mark.slow
def test_cached_equals_uncached_to_the_last_digits() -> None:
  arch = dataclasses.replace(
    BASE, output=(Forget(),), mask=(Causal(), ExcludeSelf(), Window(3))
  )
  with jax.enable_x64(True):
    dims = dims_of(arch)
    params = jax.tree.map(jnp.asarray, tree(stacked_params(arch)))
    kept = cache.empty(arch, dims, 3, 6)
    wide = jax.tree.map(
      lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x, kept
    )
    step = jax.jit(
      lambda tokens_BT, kept: transformer.step(
        arch, dims, params, tokens_BT, kept
      )
    )
    whole = jax.jit(
      lambda params: transformer.apply(arch, dims, params, TOKENS_BT)
    )(params)
    for t in range(6):
      out, wide = step(TOKENS_BT[:, t : t + 1], wide)
      np.testing.assert_allclose(
        out.logits_BTV[:, 0], whole.logits_BTV[:, t], rtol=0, atol=1e-12
      )


@pytest.mark.slow
@pytest.mark.parametrize(
  'change',
  [
    {},
    {'num_kv_heads': 1, 'scale': Learned(), 'position': Rope()},
    {'output': (ValueResidual(),), 'dtype': 'bfloat16'},
    {'normalizer': Elu(), 'num_kv_heads': 1, 'position': Rope()},
  ],
  ids=['plain', 'grouped', 'bfloat16', 'elu'],
)
def test_linear_attention_keeps_a_state_that_does_not_grow(
  change: dict[str, Any],
) -> None:
  arch = dataclasses.replace(BASE, **{'normalizer': Unnormalized()} | change)
  dims, params = dims_of(arch), params_of(arch)
  kept = cache.empty(arch, dims, 3, 6)
  assert isinstance(kept.kept[0], State)
  longer = cache.empty(arch, dims, 3, 600)
  assert jax.tree.map(jnp.shape, longer) == jax.tree.map(jnp.shape, kept)
  got_BTV = decoded(arch, dims, params, (0, 3, 4))
  whole_BTV = transformer.apply(arch, dims, params, TOKENS_BT).logits_BTV
  narrow = jnp.dtype(arch.dtype)
  assert_close(
    jnp.asarray(got_BTV, narrow), whole_BTV.astype(narrow), 64, factor=4.0 * 18
  )
  full = dataclasses.replace(arch, mask=(Causal(), Window(3)))
  assert isinstance(cache.empty(full, dims, 3, 6).kept[0], Keys)


def test_what_cannot_be_cached_says_why() -> None:
  full = dataclasses.replace(BASE, mask=(Full(),))
  window = dataclasses.replace(BASE, mask=(Window(3),))
  prefix = dataclasses.replace(BASE, mask=(Prefix(3),))
  assert cache.uncacheable(BASE) is None
  for arch in (full, window):
    with pytest.raises(ValueError, match='add causal to --mask'):
      cache.empty(arch, dims_of(arch), 1, 6)
  with pytest.raises(ValueError, match='needs 3 positions, not 2'):
    cache.empty(prefix, dims_of(prefix), 1, 6, prompt=2)
  assert cache.uncacheable(prefix, prompt=3) is None
