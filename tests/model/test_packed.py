"""A document says the same alone and packed, to the last digits."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import cache, transformer
from model.architecture.architecture import Architecture
from model.attention.mask import (
  Causal,
  Full,
  MaskBase,
  Padding,
  Prefix,
  Segments,
)
from model.attention.outputs.forget import Forget
from model.attention.scores.place_scores import (
  Fixed,
  SynthesizerDense,
  SynthesizerRandom,
)
from model.backends.base import Chunked, Reference
from model.core.field import FieldError
from model.core.inputs import ModelInputs, document_places
from model.position.base import (
  LearnedPosition,
  PositionBase,
  PositionTraits,
  Sinusoidal,
)
from spec.architectures import (
  BASE,
  SEQ_LEN,
  VOCABULARY,
  covering,
  described,
  dims_of,
  source_of,
  stacked_params,
)
from spec.others import others_slow
from spec.tolerance import assert_exact
from train.core.trees import unflatten

pytestmark = pytest.mark.usefixtures('quick_compilation')

# Packed, they are longer than SEQ_LEN: no place may be beyond it.
SIZES = (4, 3, 2)
LENGTH = sum(SIZES) + 1  # and padding
FIRSTS = (0, 4, 7)
assert max(SIZES) <= SEQ_LEN < sum(SIZES)


def _packed(arch: Architecture) -> Architecture | None:
  """Returns it with `segments`, and no mask that has no effect beside it."""
  beside: tuple[MaskBase, ...] = tuple(
    mask
    for mask in arch.masks
    if not isinstance(mask, Full | Padding | Segments)
  )
  try:
    return dataclasses.replace(arch, mask=(*beside, Segments()))
  except FieldError:
    return None


def _every() -> list[Architecture]:
  """Returns architectures that hold each choice that goes with `segments`."""
  found = [
    own
    for arch in [*covering(causal=False), *covering(causal=True)]
    if not arch.model.traits.has_classes and (own := _packed(arch)) is not None
  ]
  return list(dict.fromkeys(found))


EVERY = _every()
both = (Causal(), Segments())


@dataclasses.dataclass(frozen=True)
class ByPlace(PositionBase):
  """A bias that is not of distances alone."""

  traits = PositionTraits(biases=True, biases_by_place=True)

  def bias(
    self, params: Any, num_heads: int, t_T: jax.Array, s_S: jax.Array
  ) -> jax.Array:
    del params
    bias_TS = jnp.sin(t_T)[:, None] * s_S[None, :]
    return jnp.broadcast_to(bias_TS, (num_heads, *bias_TS.shape))


# What reads positions.
READING = [
  dataclasses.replace(
    BASE, mask=both, position=LearnedPosition(), output=(Forget(),)
  ),
  dataclasses.replace(
    BASE, mask=(Prefix(3), Segments()), position=Sinusoidal()
  ),
  dataclasses.replace(BASE, mask=both, position=ByPlace()),
  dataclasses.replace(BASE, mask=both, position=ByPlace(), backend=Chunked(4)),
  dataclasses.replace(BASE, mask=both, score=SynthesizerRandom()),
  dataclasses.replace(BASE, mask=both, score=SynthesizerDense(), use_bias=True),
  dataclasses.replace(BASE, mask=(Segments(),), score=Fixed()),
]


def _rows() -> tuple[np.ndarray, np.ndarray]:
  """Returns a row of all documents, and one of each: tokens and segments."""
  rng = np.random.default_rng(0)
  # What stands behind a document alone differs from what is packed behind it.
  tokens_BT = rng.integers(0, VOCABULARY, (1 + len(SIZES), LENGTH))
  segments_BT = np.zeros_like(tokens_BT)
  for n, (first, size) in enumerate(zip(FIRSTS, SIZES, strict=True), 1):
    segments_BT[0, first : first + size] = n
    tokens_BT[n, :size] = tokens_BT[0, first : first + size]
    segments_BT[n, :size] = 1
  return tokens_BT, segments_BT


TOKENS_BT, SEGMENTS_BT = _rows()


def _source(arch: Architecture) -> Any:
  """Returns the same source for each row, where one is read."""
  source = source_of(arch, 1)
  return jax.tree.map(lambda x: np.repeat(x, len(TOKENS_BT), axis=0), source)


def _params(arch: Architecture) -> Any:
  return jax.tree.map(jnp.asarray, unflatten(stacked_params(arch)))


def _logits(arch: Architecture) -> np.ndarray:
  """Returns logits_BTV of all rows in float64."""
  dims = dims_of(arch)

  @jax.jit
  def run(params: Any) -> jax.Array:
    return transformer.apply(
      arch,
      dims,
      params,
      ModelInputs(
        jnp.asarray(TOKENS_BT),
        segments_BT=jnp.asarray(SEGMENTS_BT),
        source=_source(arch),
      ),
    ).logits_BTV

  with jax.enable_x64(True):
    return np.asarray(run(_params(arch)))


def _assert_alike(packed_TV: np.ndarray, alone: list[np.ndarray]) -> None:
  for first, size, own_TV in zip(FIRSTS, SIZES, alone, strict=True):
    assert_exact(packed_TV[first : first + size], own_TV[:size])


@pytest.mark.slow
@pytest.mark.parametrize(
  'arch', others_slow([*READING, *EVERY], READING), ids=described
)
def test_alone_and_packed_are_equal(arch: Architecture) -> None:
  backends = [arch.backend]
  if arch not in READING:
    backends = [Reference(), Chunked(4)]
  for backend in backends:
    if backend.problem(arch.parts) is None:
      own = dataclasses.replace(arch, backend=backend)
      packed_TV, *alone = _logits(own)
      _assert_alike(packed_TV, alone)


@pytest.mark.parametrize(
  'arch', others_slow([READING[0], *EVERY], READING[:1]), ids=described
)
def test_packed_is_what_a_model_without_segments_says(
  arch: Architecture,
) -> None:
  """Documents of three tokens, against rows that hold nothing else."""
  rest = tuple(m for m in arch.masks if not isinstance(m, Segments))
  plain = dataclasses.replace(arch, mask=rest or (Full(),))
  if arch.model.traits.has_source and not rest:
    return  # it would name other masks for its encoder
  dims, tokens_BT = dims_of(arch), TOKENS_BT[:3, :3]
  with jax.enable_x64(True):
    params = _params(arch)

    @jax.jit
    def both_ways(params: Any) -> tuple[jax.Array, jax.Array]:
      one, all_ = source_of(arch, 1), source_of(arch, 1)
      all_ = jax.tree.map(lambda x: np.repeat(x, 3, axis=0), all_)
      packed = transformer.apply(
        arch,
        dims,
        params,
        ModelInputs(
          jnp.asarray(tokens_BT.reshape(1, -1)),
          segments_BT=jnp.asarray(np.repeat([[1, 2, 3]], 3, axis=1)),
          source=one,
        ),
      )
      alone = transformer.apply(
        plain, dims, params, ModelInputs(jnp.asarray(tokens_BT), source=all_)
      )
      return packed.logits_BTV, alone.logits_BTV

    packed_BTV, alone_BTV = both_ways(params)
  assert_exact(np.asarray(packed_BTV).reshape(alone_BTV.shape), alone_BTV)


CACHED = [
  arch
  for arch in [*READING, *EVERY]
  if cache.decoding_problem(arch) is None and not arch.model.traits.has_source
]


@pytest.mark.slow
@pytest.mark.parametrize('arch', others_slow(CACHED, CACHED[:1]), ids=described)
def test_packed_documents_are_decoded_from_a_cache(arch: Architecture) -> None:
  """In two steps, the second of which begins within a document."""
  dims, half = dims_of(arch), LENGTH // 2

  @jax.jit
  def run(params: Any, tokens: Any, segments: Any, kept: Any) -> Any:
    return transformer.decode_step(
      arch, dims, params, ModelInputs(tokens, segments), kept
    )

  with jax.enable_x64(True):
    params, parts = _params(arch), []
    kept = jax.tree.map(
      lambda x: x.astype(jnp.float64) if x.dtype == jnp.float32 else x,
      cache.empty(arch, dims, len(TOKENS_BT), LENGTH),
    )
    for at in (slice(0, half), slice(half, LENGTH)):
      given = jnp.asarray(TOKENS_BT[:, at]), jnp.asarray(SEGMENTS_BT[:, at])
      out, kept = run(params, *given, kept)
      parts.append(np.asarray(out.logits_BTV))
  packed_TV, *alone = np.concatenate(parts, 1)
  _assert_alike(packed_TV, alone)
  # Not only like each other: also like all of a row at once.
  assert_exact(packed_TV[: sum(SIZES)], _logits(arch)[0, : sum(SIZES)])


@pytest.mark.slow
def test_long_rows_lose_no_digits() -> None:
  """The thousandth document says what the first says, in float32 too."""
  arch = dataclasses.replace(
    BASE,
    mask=both,
    num_layers=1,
    position=LearnedPosition(),
    output=(Forget(),),
  )
  dims, params = dims_of(arch), unflatten(stacked_params(arch))
  params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
  tokens_BT = jnp.tile(jnp.array([[1, 5, 2]]), 340)
  segments_BT = jnp.repeat(jnp.arange(1, 341), 3)[None]
  logits_BTV = jax.jit(
    lambda params: (
      transformer.apply(
        arch, dims, params, ModelInputs(tokens_BT, segments_BT=segments_BT)
      ).logits_BTV
    )
  )(params)
  logits_XTV = np.asarray(logits_BTV).reshape(340, 3, -1)
  np.testing.assert_allclose(
    logits_XTV, np.broadcast_to(logits_XTV[:1], logits_XTV.shape), atol=2e-6
  )


def test_places_count_from_the_first_of_each_document() -> None:
  rng = np.random.default_rng(1)
  segments_BT = np.cumsum(rng.random((5, 12)) < 0.3, axis=1)
  want_BT = np.zeros_like(segments_BT)
  for b, t in np.ndindex(*segments_BT.shape):
    same = t and segments_BT[b, t] == segments_BT[b, t - 1]
    want_BT[b, t] = want_BT[b, t - 1] + 1 if same else 0
  np.testing.assert_array_equal(
    document_places(jnp.asarray(segments_BT)), want_BT
  )
  for cut in (1, 6):
    before = segments_BT[:, cut - 1], want_BT[:, cut - 1]
    found_BT = document_places(
      jnp.asarray(segments_BT[:, cut:]),
      (jnp.asarray(before[0]), jnp.asarray(before[1])),
    )
    np.testing.assert_array_equal(found_BT, want_BT[:, cut:])
