"""Decoding from a cache equals the whole sequence at once."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import cache, transformer
from model.architecture.architecture import Architecture
from model.architecture.family import EncoderDecoder
from model.attention.mask import (
  Causal,
  ExcludeSelf,
  Full,
  Prefix,
  Segments,
  Window,
)
from model.attention.normalizers.dense import Elu, Unnormalized
from model.attention.outputs.differential import Differential
from model.attention.outputs.forget import Forget
from model.attention.outputs.mixtures import ValueResidual
from model.attention.parts import Keys
from model.attention.scale import LearnedScale
from model.backends.recurrent import RecurrentState
from model.core.inputs import ModelInputs
from model.core.parameter import Dims
from model.position import base as position
from model.position.base import Rope
from spec.architectures import (
  BASE,
  SEGMENTS_BT,
  TOKENS_BT,
  covering,
  described,
  dims_of,
  discrete,
  params_of,
  source_of,
)
from spec.others import others_slow
from spec.tolerance import assert_close

pytestmark = pytest.mark.usefixtures('quick_compilation')

ARCHITECTURES = [
  *covering(causal=True),
  dataclasses.replace(
    BASE, mask=(Prefix(3),), num_kv_heads=1, output=(Differential(),)
  ),
  # Without keys of its own, beside which the places of documents are kept.
  dataclasses.replace(
    BASE,
    model=EncoderDecoder(self_attention=False),
    mask=(Causal(), Segments()),
    position=position.LearnedPosition(),
  ),
]


def as_wide_as(params: object, kept: cache.Cache) -> cache.Cache:
  """Returns a cache in float64, if the parameters are."""
  if jax.tree.leaves(params)[0].dtype != np.float64:
    return kept
  return jax.tree.map(
    lambda x: x.astype(np.float64) if x.dtype == np.float32 else x, kept
  )


def decoded(
  arch: Architecture, dims: Dims, params: object, cuts: tuple[int, ...]
) -> np.ndarray:
  """Returns logits_BTV from steps that begin at `cuts`, with room left over.

  In the type of the parameters.
  """

  @jax.jit
  def run(tokens_BT, segments_BT, kept, source):
    return transformer.decode_step(
      arch, dims, params, ModelInputs(tokens_BT, segments_BT, source), kept
    )

  reads_segments = any(mask.traits.reads_segments for mask in arch.masks)
  kept = as_wide_as(
    params,
    cache.empty(arch, dims, len(TOKENS_BT), TOKENS_BT.shape[1] + 2, prompt=3),
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
  dims, wide = dims_of(arch), discrete(arch)
  assert cache.decoding_problem(arch, prompt=3) is None
  with jax.enable_x64(wide):
    params = params_of(arch, np.float64 if wide else np.float32)
    whole = jax.jit(
      lambda params: transformer.apply(
        arch,
        dims,
        params,
        ModelInputs(
          TOKENS_BT, segments_BT=SEGMENTS_BT, source=source_of(arch, 3)
        ),
      )
    )(params)
    got_BTV = decoded(arch, dims, params, (0, 3, 4))
  # Two blocks of some eight sums each, as in `test_model`.
  assert_close(got_BTV, whole.logits_BTV, 64, factor=4.0 * 18)


@pytest.mark.slow
def test_cached_equals_uncached_to_the_last_digits() -> None:
  arch = dataclasses.replace(
    BASE, output=(Forget(),), mask=(Causal(), ExcludeSelf(), Window(3))
  )
  with jax.enable_x64(True):
    dims = dims_of(arch)
    params = params_of(arch, np.float64)
    wide = as_wide_as(params, cache.empty(arch, dims, 3, 6))
    step = jax.jit(
      lambda tokens_BT, kept: transformer.decode_step(
        arch, dims, params, ModelInputs(tokens_BT), kept
      )
    )
    whole = jax.jit(
      lambda params: transformer.apply(
        arch, dims, params, ModelInputs(TOKENS_BT)
      )
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
    {'num_kv_heads': 1, 'scale': LearnedScale(), 'position': Rope()},
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
  assert isinstance(kept.entries[0], RecurrentState)
  longer = cache.empty(arch, dims, 3, 600)
  assert jax.tree.map(jnp.shape, longer) == jax.tree.map(jnp.shape, kept)
  got_BTV = decoded(arch, dims, params, (0, 3, 4))
  whole_BTV = transformer.apply(
    arch, dims, params, ModelInputs(TOKENS_BT)
  ).logits_BTV
  narrow = jnp.dtype(arch.dtype)
  assert_close(
    jnp.asarray(got_BTV, narrow), whole_BTV.astype(narrow), 64, factor=4.0 * 18
  )
  full = dataclasses.replace(arch, mask=(Causal(), Window(3)))
  assert isinstance(cache.empty(full, dims, 3, 6).entries[0], Keys)


def test_what_cannot_be_cached_says_why() -> None:
  full = dataclasses.replace(BASE, mask=(Full(),))
  window = dataclasses.replace(BASE, mask=(Window(3),))
  prefix = dataclasses.replace(BASE, mask=(Prefix(3),))
  assert cache.decoding_problem(BASE) is None
  for arch in (full, window):
    with pytest.raises(ValueError, match='add causal to --mask'):
      cache.empty(arch, dims_of(arch), 1, 6)
  with pytest.raises(ValueError, match='needs 3 positions, not 2'):
    cache.empty(prefix, dims_of(prefix), 1, 6, prompt=2)
  assert cache.decoding_problem(prefix, prompt=3) is None
