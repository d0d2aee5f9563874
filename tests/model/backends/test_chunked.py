"""The chunked backend: the reference's numbers and gradients, linear memory."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import transformer
from model.architecture.architecture import Architecture
from model.attention.mask import (
  Causal,
  ExcludeSelf,
  Full,
  MaskBase,
  Prefix,
  Window,
  allowed,
)
from model.attention.normalizers.base import OnlineNormalizer
from model.attention.outputs.base import Plain
from model.attention.outputs.differential import Differential
from model.attention.outputs.forget import Forget
from model.attention.outputs.mixtures import TalkingHeads
from model.attention.parts import Keys, Queries
from model.backends.base import LONG, AutoBackend, Chunked, Reference
from model.backends.chunked import visible_pairs
from model.core.field import FieldError, bind, split
from model.core.inputs import ModelInputs, Positions
from model.core.side_output import ATTENTION_MAPS
from model.layers.feedforward import NoFeedForward
from model.layers.norm import NoNorm
from model.layers.residual import PreNorm
from model.position.base import T5, Alibi
from spec.architectures import (
  BASE,
  SEGMENTS_BT,
  TOKENS_BT,
  covering,
  described,
  dims_of,
  draws,
  examples,
  named,
  params_of,
  source_of,
  stacked_params,
  unions,
)
from spec.others import others_slow
from spec.tolerance import EXACT, assert_close, assert_exact
from train.core.trees import flatten, unflatten

pytestmark = pytest.mark.usefixtures('quick_compilation')

EVERYTHING = dataclasses.replace(
  BASE,
  num_heads=4,
  num_kv_heads=2,
  position=T5(buckets=6, max_distance=4, bidirectional=True),
  output=(Differential(), Forget()),
  logit_cap=2.0,
  mask=(Causal(), ExcludeSelf()),
)


def bare(arch: Architecture) -> Architecture:
  """Returns an architecture without what has no part in attention.

  It compiles in a third of the time.
  """
  without = {
    'feedforward': NoFeedForward(),
    'norm': NoNorm(),
    'residual': PreNorm(),
  }
  try:
    return dataclasses.replace(arch, **without)
  except FieldError:  # all biases were there
    return dataclasses.replace(arch, use_bias=False, **without)


SERVED = [
  bare(arch)
  for arch in [*covering(causal=False), EVERYTHING]
  if Chunked().problem(arch.parts) is None
]


@pytest.mark.slow
@pytest.mark.parametrize(
  'arch', others_slow(SERVED, SERVED[::2]), ids=described
)
def test_chunked_equals_reference(arch: Architecture) -> None:
  """Logits, and gradients of all parameters; 6 positions in chunks of 4.

  As programs have them: numbers are arguments, and layers may be a scan.
  """
  dims, classes = dims_of(arch), arch.model.traits.has_classes
  probe_BTV = draws(3, 1, dims.num_classes) if classes else draws(3, 6, 7)

  def run(backend: Any) -> Any:
    own = dataclasses.replace(arch, backend=backend, scan_layers=True)
    static, numbers = split(own)

    @jax.jit
    def loss(params: Any, numbers: Any) -> tuple[jax.Array, jax.Array]:
      out = transformer.apply(
        bind(static, numbers),
        dims,
        params,
        ModelInputs(
          TOKENS_BT, segments_BT=SEGMENTS_BT, source=source_of(arch, 3)
        ),
      )
      return (out.logits_BTV * probe_BTV).sum(), out.logits_BTV

    return jax.jit(jax.grad(loss, has_aux=True))(params, numbers)

  with jax.enable_x64(True):
    params = jax.tree.map(jnp.asarray, unflatten(stacked_params(arch)))
    wanted, wanted_BTV = run(Reference())
    got, got_BTV = run(Chunked(4))
    assert_exact(got_BTV, wanted_BTV)
    # Some gradients are 0 by symmetry: relative to the largest of all.
    largest = max(np.abs(g).max() for g in jax.tree.leaves(wanted))
    for path, value in flatten(got).items():
      np.testing.assert_allclose(
        value,
        flatten(wanted)[path],
        rtol=0.0,
        atol=EXACT * largest,
        err_msg=path,
      )
      if arch == SERVED[-1]:
        assert np.abs(value).max() > 1e-3 * largest, path


@pytest.mark.slow
def test_chunked_equals_reference_in_short_types() -> None:
  arch = dataclasses.replace(EVERYTHING, output=(Forget(),))
  params, dims = params_of(arch), dims_of(arch)
  for dtype in ('float32', 'bfloat16'):
    got_BTV, wanted_BTV = (
      transformer.apply(
        dataclasses.replace(arch, backend=backend, dtype=dtype),
        dims,
        params,
        ModelInputs(TOKENS_BT),
      ).logits_BTV
      for backend in (Chunked(4), Reference())
    )
    narrow = jnp.dtype(dtype)
    # Two blocks, as in `test_model`.
    assert_close(
      got_BTV.astype(narrow), wanted_BTV.astype(narrow), 8, factor=4.0 * 18
    )
    assert got_BTV.dtype == jnp.float32


# Pairs of chunks. ------------------------------------------------------------


@pytest.mark.parametrize(
  ('masks', 'count'),
  [
    ((Full(),), 25),
    ((Causal(),), 15),
    ((Window(5),), 13),  # one chunk to each side
    ((Causal(), Window(6)), 12),  # two chunks back: the last sees one of them
    ((ExcludeSelf(),), 25),
    ((Prefix(2),), 25),
  ],
  ids=str,
)
def test_pairs_of_chunks_have_all_that_a_query_sees(
  masks: tuple[MaskBase, ...], count: int
) -> None:
  """And no pair that distance alone hides, in a row of 5 chunks of 4."""
  parts = dataclasses.replace(BASE, mask=masks).parts
  at_T = jnp.arange(18)
  mask_TS = allowed(masks, Positions(at_T[:, None]), Positions(at_T[None]))
  seen = {(t // 4, s // 4) for t, s in np.argwhere(mask_TS)}
  pairs = [tuple(pair) for pair in visible_pairs(parts, 18, 18, 4)]
  assert seen <= {*pairs}
  assert len(pairs) == len({*pairs}) == count
  # A query from a cache may be anywhere.
  assert len(visible_pairs(parts, 1, 18, 4)) == 5


# Memory. ----------------------------------------------------------------------


def temporary_bytes(arch: Architecture, length: int) -> int:
  """Returns what attention and its gradient need beside arguments, compiled."""
  dims = arch.dims(length, 7)
  heads = (1, length, dims.num_heads, dims.head_dim)
  tables = arch.block_tables(dims) | {'position': arch.position.params(dims)}
  shapes = {
    part: {
      name: jax.ShapeDtypeStruct(what.shape, jnp.float32)
      for name, what in table.items()
    }
    for part, table in tables.items()
  }
  x_BTNH = jax.ShapeDtypeStruct(heads, jnp.float32)
  t_T = jax.ShapeDtypeStruct((length,), jnp.int32)
  c_BTN = jax.ShapeDtypeStruct(heads[:3], jnp.float32)

  def loss(given: Any, t_T: jax.Array) -> jax.Array:
    tables, q_BTNH, k_BSKH, v_BSKH, c_BTN = given
    queries = Queries(
      q_BTNH, q_BTNH[:, :, 0], Positions(t_T), {'forget': c_BTN}
    )
    keys = Keys(k_BSKH, v_BSKH, Positions(t_T), {'forget': c_BTN})
    attended = arch.backend.attend(arch.parts, tables, queries, keys, None)
    return jnp.square(attended.out_BTNH).sum()

  given = shapes, x_BTNH, x_BTNH, x_BTNH, c_BTN
  compiled = jax.jit(jax.grad(loss)).lower(given, t_T).compile()
  analysis = compiled.memory_analysis()
  assert analysis is not None
  return analysis.temp_size_in_bytes


def exponent(arch: Architecture, lengths: tuple[int, int]) -> float:
  few, many = (temporary_bytes(arch, length) for length in lengths)
  return math.log(many / few) / math.log(lengths[1] / lengths[0])


# The quickest, and what has most; by `pytest -m full` each by itself.
MEASURED = {
  'plain': BASE,
  'biases': dataclasses.replace(
    BASE, position=T5(), output=(Forget(),), logit_cap=2.0
  ),
}
ALONE = {
  'logit_cap': dataclasses.replace(BASE, logit_cap=2.0),
  'forget': dataclasses.replace(BASE, output=(Forget(),)),
} | {
  f'{field}-{named(variant)}': dataclasses.replace(BASE, **{field: variant})
  for field in ('normalizer', 'position')
  for cls in unions(Architecture)[field].values()
  for variant in examples(cls)
  if (
    isinstance(variant, OnlineNormalizer)
    if field == 'normalizer'
    else variant.traits.biases
  )
}


@pytest.mark.slow
@pytest.mark.parametrize(
  'arch',
  [
    *(pytest.param(arch, id=name) for name, arch in MEASURED.items()),
    *(
      pytest.param(arch, id=name, marks=pytest.mark.full)
      for name, arch in ALONE.items()
      if arch not in MEASURED.values()
    ),
  ],
)
def test_memory_grows_with_the_length_and_not_with_its_square(
  arch: Architecture,
) -> None:
  """What does N x N cost on long documents?  Nothing, in chunks.

  Gradients included, those of learned biases and sinks too.
  """
  chunked = dataclasses.replace(arch, backend=Chunked())
  assert exponent(chunked, (1024, 16384)) < 1.1
  whole = dataclasses.replace(arch, backend=Reference())
  assert exponent(whole, (1024, 4096)) > 1.9


# Which backend. ---------------------------------------------------------------


def test_auto_takes_chunks_where_they_serve_and_pay() -> None:
  talking = dataclasses.replace(BASE, output=(TalkingHeads(),))
  for arch, length, wanted in (
    (BASE, LONG, Chunked()),
    (BASE, LONG - 1, Reference()),
    (talking, LONG, Reference()),
  ):
    for platform in ('cpu', 'gpu'):  # no kernel takes float32
      best = AutoBackend().resolved(arch.parts, length, platform)
      assert best.backend == wanted


def test_weights_come_from_the_reference() -> None:
  arch = dataclasses.replace(BASE, backend=Chunked(2), position=Alibi())
  out = transformer.apply(
    arch,
    dims_of(arch),
    params_of(arch),
    ModelInputs(TOKENS_BT),
    wanted=ATTENTION_MAPS,
  )
  assert out.weights_LBNTS is not None


@pytest.mark.parametrize(
  ('change', 'flag'),
  [
    ({'dropout_attention': 0.1}, 'dropout_attention'),
    ({'output': (TalkingHeads(),)}, 'output'),
  ],
)
def test_what_chunks_cannot_serve_is_refused(
  change: dict[str, Any], flag: str
) -> None:
  with pytest.raises(FieldError, match=f'--{flag}=.*try --backend=reference'):
    dataclasses.replace(BASE, backend=Chunked(), **change)
  assert dataclasses.replace(BASE, **change).output in (
    (Plain(),),
    (TalkingHeads(),),
  )
