"""Properties of the model, over architectures that hold every variant."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import transformer
from model.architecture.architecture import Architecture
from model.attention.mask import allowed
from model.attention.normalizers.base import NormalizerBase
from model.attention.normalizers.dense import Softmax
from model.attention.outputs.base import Plain
from model.attention.projections.base import Raw
from model.attention.scale import Constant, Rsqrt
from model.attention.scores.base import ScoreInputs
from model.core.dropout import dropout
from model.core.field import bind, split, variants
from model.core.inputs import (
  ModelInputs,
  Positions,
  Source,
  broadcast_positions,
)
from model.core.side_output import ATTENTION_MAPS
from model.interfaces import Call, NetworkOutput
from model.layers.feedforward import Mlp, NoFeedForward
from model.layers.norm import NoNorm
from model.layers.residual import NoResidual
from model.network import Transformer
from model.position.base import Rope
from spec import reference
from spec.architectures import (
  BASE,
  SEGMENTS_BT,
  SEQ_LEN,
  TOKENS_BT,
  VOCABULARY,
  covering,
  described,
  dims_of,
  discrete,
  draws,
  examples,
  mask_lists,
  params_of,
  shown,
  source_of,
  stacked_params,
)
from spec.simple import attend
from spec.tolerance import assert_close
from train.config.config import Config
from train.optim.objective import CrossEntropy, training_sums
from train.optim.optimizer import Optimization
from train.programs.state import init_state
from train.programs.step import train_step
from train.tasks.base import Batch

pytestmark = pytest.mark.usefixtures('quick_compilation')

# Normalisers that may leave a key that is seen, or all, without influence.
SPARSE = ('relu', 'relu2', 'sparsemax', 'entmax15', 'topk', 'hard')


def seen_of(arch: Architecture) -> np.ndarray:
  """Returns seen_BTS by the masks, for the segments above."""
  at = Positions(jnp.arange(6), jnp.asarray(SEGMENTS_BT))
  if any(mask.traits.separates for mask in arch.masks):
    firsts = [[row.index(own) for own in row] for row in SEGMENTS_BT.tolist()]
    at = at._replace(place=jnp.arange(6) - jnp.asarray(firsts))
  if not arch.stacks[-1].has_self_attention:
    return np.broadcast_to(np.eye(6, dtype=bool), (3, 6, 6))
  seen_B1TS = allowed(arch.masks, *broadcast_positions(at, at))
  return np.broadcast_to(seen_B1TS[:, 0], (3, 6, 6))


@pytest.mark.slow
def test_what_is_discrete() -> None:
  found = {
    tag
    for tag, cls in variants(NormalizerBase).items()
    if any(
      discrete(dataclasses.replace(BASE, normalizer=n)) for n in examples(cls)
    )
  }
  assert {'topk', 'hard'} <= found
  assert not found & {'softmax', 'sparsemax', 'entmax15', 'relu', 'sigmoid'}


# Who influences whom. ---------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('arch', covering(causal=True), ids=described)
def test_tokens_see_the_past_of_their_own_example(arch: Architecture) -> None:
  """Causality by gradient, batch-position invariance, float32 = the loops.

  The tokens of example 0 differ, so that a row of the embedding is one input.
  """
  # Without skip connections what tokens differ in fades to nothing (Dong et al.
  # 2021), a sub-layer that gives 0 ends it, and where it gives a rounding, the
  # next norm makes that large: its loops are those of test_reference_models.py.
  keeps = not isinstance(arch.residual, NoResidual)
  dims, wide = dims_of(arch), discrete(arch) or not keeps
  assert not arch.tie_embeddings, 'else logits depend on all rows directly'
  probe_TV = jnp.float32(draws(SEQ_LEN, VOCABULARY))

  source = source_of(arch, 3)
  if source is not None:
    # One table embeds both: in the source of example 0 no token of its target.
    source.tokens_BS[0] = 6

  @jax.jit
  def run(
    tokens_BT: jax.Array, segments_BT: jax.Array, source: Source | None
  ) -> tuple[NetworkOutput, jax.Array]:
    def probed(token_VD: jax.Array) -> tuple[jax.Array, Any]:
      own = params | {'embedding': {'token': token_VD}}
      out = transformer.apply(
        arch,
        dims,
        own,
        ModelInputs(tokens_BT, segments_BT=segments_BT, source=source),
        wanted=ATTENTION_MAPS,
      )
      return (out.logits_BTV[0] * probe_TV).sum(-1), out

    jacobian, out = jax.jacrev(probed, has_aux=True)(
      params['embedding']['token']
    )
    return out, jacobian

  given = TOKENS_BT, SEGMENTS_BT, source
  with jax.enable_x64(wide):
    params = params_of(arch, np.float64 if wide else np.float32)
    out, jacobian_TVD = run(*given)
    moved, _ = run(*jax.tree.map(lambda x: x[[2, 0, 1]], given))
  influence_TS = np.abs(jacobian_TVD).sum(-1)[:, TOKENS_BT[0]]
  assert np.isfinite(influence_TS).all()
  assert not np.triu(influence_TS, 1).any(), 'a token sees the future'
  if source is None:
    assert not np.asarray(jacobian_TVD)[:, 6].any(), 'it sees another example'
  else:
    reads = np.asarray(jacobian_TVD)[:, 6].any(-1)
    if not arch.stacks[-1].has_cross_attention:
      assert not reads.any()
    elif keeps:
      assert reads.any() if arch.normalizer.tag in SPARSE else reads.all()
  seen_BTS = seen_of(arch)
  if keeps and arch.normalizer.tag not in SPARSE:
    assert (influence_TS[seen_BTS[0]] > 0).all(), 'it does not see the past'
  if any(mask.tag == 'segments' for mask in arch.masks):
    same_TS = SEGMENTS_BT[0][:, None] == SEGMENTS_BT[0]
    # A running sum of the whole past cancels to rounding only.
    least = 1e-6 * influence_TS.max()
    assert (influence_TS[~same_TS] < least).all(), 'it sees another document'

  expected = reference.model(
    arch, stacked_params(arch), TOKENS_BT, SEGMENTS_BT, source
  )
  # Each block is a chain of some eight sums; twice that, and the last two.
  for actual, wanted in zip(shown(out), expected, strict=True):
    if wanted is not None and keeps:
      assert_close(actual, wanted, 64, factor=4.0 * 18)

  assert_close(moved.logits_BTV, np.asarray(out.logits_BTV)[[2, 0, 1]], 64)

  if not arch.stacks[-1].has_self_attention:
    assert out.weights_LBNTS is None
    return
  weights_LBNTS = np.asarray(out.weights_LBNTS)
  shape = (arch.num_layers, 3, arch.num_heads, SEQ_LEN, SEQ_LEN)
  assert weights_LBNTS.shape == shape
  assert weights_LBNTS.dtype == (np.float64 if wide else np.float32)
  seen_LBNTS = np.broadcast_to(seen_BTS[:, None], shape)
  assert not weights_LBNTS[~seen_LBNTS].any()
  if type(arch.normalizer) is Softmax and arch.output == (Plain(),):
    totals_LBNT = seen_LBNTS.any(-1).astype(float)
    assert_close(weights_LBNTS.sum(-1), totals_LBNT, SEQ_LEN)
    assert (weights_LBNTS[seen_LBNTS] > 0).all()


@pytest.mark.slow
@pytest.mark.parametrize('arch', covering(causal=False), ids=described)
def test_flax_and_init_and_table_agree(arch: Architecture) -> None:
  """Linen's own `init`, ours, and the table of paths: one tree of shapes."""
  dims, key = dims_of(arch), jax.random.key(0)
  module = Transformer(arch, dims)
  theirs = jax.eval_shape(
    lambda: module.init(
      key,
      ModelInputs(TOKENS_BT, SEGMENTS_BT, source_of(arch, 3)),
      Call(),
    )
  )
  ours = jax.eval_shape(lambda: transformer.init(arch, dims, key))

  def nonempty(shapes: Any) -> dict[str, Any]:
    return {
      jax.tree_util.keystr(path): (leaf.shape, leaf.dtype)
      for path, leaf in jax.tree_util.tree_leaves_with_path(shapes)
    }

  assert nonempty(ours) == nonempty(theirs['params'])
  assert nonempty(ours) == nonempty(params_of(arch))


def test_rotary_scores_depend_on_the_distance_alone() -> None:
  q_BTNH, k_BSNH = (
    jnp.float32(draws(1, 5, 1, 8)),
    jnp.float32(draws(1, 5, 1, 8)),
  )
  mask_TS = jnp.ones((5, 5), bool)

  def weights(start: int) -> jax.Array:
    t_T = start + jnp.arange(5)
    q, k = Rope().rotate(q_BTNH, t_T), Rope().rotate(k_BSNH, t_T)
    return attend(q, k, k, mask_TS, Rsqrt(), Softmax()).weights_BNTS

  near, far = weights(0), weights(100)
  # An angle of 100 is rounded to 100 eps.
  assert_close(far, near, 8, factor=400.0)
  other = Rope().rotate(q_BTNH, jnp.arange(5)[::-1])
  assert np.abs(other - Rope().rotate(q_BTNH, jnp.arange(5))).max() > 0.1


# Ways to compute the same. ----------------------------------------------------


def loss_of(
  arch: Architecture,
) -> Callable[[Any, Any], tuple[jax.Array, jax.Array]]:
  """Returns (params, rngs_B) -> mean loss and logits on the tokens above."""
  dims, ones_BT = dims_of(arch), jnp.ones(TOKENS_BT.shape)

  def loss(params: Any, rngs_B: Any = None) -> tuple[jax.Array, jax.Array]:
    out = transformer.apply(arch, dims, params, ModelInputs(TOKENS_BT), rngs_B)
    targets_BT = np.roll(TOKENS_BT, -1, 1)
    terms = (CrossEntropy(),)
    sums = training_sums(terms, out.logits_BTV, targets_BT, ones_BT, 0.0)
    return sums.loss / sums.count, out.logits_BTV

  return loss


@pytest.mark.slow
def test_remat_and_unrolling_change_no_number() -> None:
  """Also that each does something: recompute, and no loop over layers."""
  base = dataclasses.replace(BASE, feedforward=NoFeedForward(), norm=NoNorm())
  params, results = params_of(base), []
  for remat, scan in ((False, True), (True, True), (True, False)):
    arch = dataclasses.replace(base, remat=remat, scan_layers=scan)
    gradient = jax.jit(jax.value_and_grad(loss_of(arch), has_aux=True))
    traced = gradient.trace(params)
    text, lowered = str(traced.jaxpr), traced.lower()
    assert ('remat' in text or 'checkpoint' in text) == remat
    assert ('stablehlo.while' in lowered.as_text()) == scan
    results.append(jax.tree.leaves(lowered.compile()(params)))
  for result in results[1:]:
    for actual, wanted in zip(result, results[0], strict=True):
      assert_close(actual, wanted, 64)


def test_bfloat16_computes_narrow_and_keeps_wide() -> None:
  """Logits, softmax and parameters in float32; a loss near the float32 one."""
  narrow = dataclasses.replace(BASE, dtype='bfloat16', position=Rope())
  wide = dataclasses.replace(narrow, dtype='float32')
  dims, params = dims_of(narrow), params_of(narrow)
  run = jax.jit(
    lambda params: transformer.apply(
      narrow, dims, params, ModelInputs(TOKENS_BT), wanted=ATTENTION_MAPS
    )
  )
  out = run(params)
  assert out.logits_BTV.dtype == jnp.float32
  assert out.weights_LBNTS is not None
  assert out.weights_LBNTS.dtype == jnp.float32
  totals_LBNT = np.asarray(out.weights_LBNTS).sum(-1)
  assert_close(totals_LBNT, np.ones_like(totals_LBNT), SEQ_LEN)
  # Their terms are products of rounded numbers, themselves not rounded again.
  exact = jax.jit(loss_of(wide))(params)[1]
  assert 'bf16' in run.lower(params).as_text()
  assert (np.asarray(out.logits_BTV) != np.asarray(exact)).any()
  # Two blocks of four roundings and two norms that each divide by the spread.
  narrow_exact = jnp.asarray(exact, jnp.bfloat16)
  assert_close(
    out.logits_BTV.astype(jnp.bfloat16), narrow_exact, dims.d_model, factor=16.0
  )


def test_bfloat16_trains_float32() -> None:
  """Shapes and types of a step, without running it."""
  arch = dataclasses.replace(BASE, dtype='bfloat16')
  config = Config(
    seq_len=SEQ_LEN, architecture=arch, optimization=Optimization()
  )
  dims = dims_of(arch)
  batch = Batch(
    ModelInputs(TOKENS_BT), TOKENS_BT, np.ones((3, 6), np.float32), np.arange(3)
  )
  before = jax.eval_shape(lambda: init_state(config, dims))
  after, metrics = jax.eval_shape(
    lambda state: train_step(config, dims, state, batch, None), before
  )
  assert jax.tree.structure(after) == jax.tree.structure(before)
  for old, new in zip(*map(jax.tree.leaves, (before, after)), strict=True):
    assert (old.shape, old.dtype) == (new.shape, new.dtype)
  types = {leaf.dtype for leaf in jax.tree.leaves((after.params, metrics))}
  assert types == {np.dtype('float32')}


# Dropout. ---------------------------------------------------------------------

RATES = ('embedding', 'attention', 'residual')
DROPPED = dataclasses.replace(
  BASE,
  feedforward=Mlp(dropout=0.5),
  dropout_embedding=0.5,
  dropout_attention=0.5,
  dropout_residual=0.5,
)


def test_dropout_of_an_example_does_not_depend_on_the_batch() -> None:
  """A batch of 8 = two batches of 4 with the same keys, to the bit."""
  rngs_B = jax.random.split(jax.random.key(0), 8)
  x_BTD = jnp.float32(draws(8, 6, 4))
  whole_BTD = dropout(x_BTD, 0.3, rngs_B)
  halves = [
    dropout(x_BTD[i], 0.3, rngs_B[i]) for i in np.split(np.arange(8), 2)
  ]
  np.testing.assert_array_equal(whole_BTD, np.concatenate(halves))
  kept_BTD = np.asarray(whole_BTD) != 0
  assert len({kept_TD.tobytes() for kept_TD in kept_BTD}) == 8
  np.testing.assert_array_equal(
    whole_BTD, np.where(kept_BTD, x_BTD / jnp.float32(0.7), 0.0)
  )


def test_every_rate_is_traced_and_every_site_its_own() -> None:
  """One program for all rates; each rate acts; masks go by example alone."""
  arch, values = split(DROPPED)
  assert set(values) == {
    'feedforward.dropout',
    *(f'dropout_{place}' for place in RATES),
    'init.std',
  }
  dims, params = dims_of(DROPPED), params_of(DROPPED)
  rngs_B = jax.random.split(jax.random.key(0), 3)

  @jax.jit
  def run(rates: Any, rngs_B: jax.Array, tokens_BT: jax.Array) -> jax.Array:
    bound = bind(arch, rates)
    return transformer.apply(
      bound, dims, params, ModelInputs(tokens_BT), rngs_B
    ).logits_BTV

  off = dict.fromkeys(values, np.float32(0.0))
  on = dict.fromkeys(values, np.float32(0.5))
  clean_BTV = run(off, rngs_B, TOKENS_BT)
  plain = jax.jit(loss_of(BASE))(params)[1]
  assert_close(clean_BTV, plain, 64)
  seen = []
  for name in values:
    if name != 'init.std':
      noisy_BTV = run(off | {name: np.float32(0.5)}, rngs_B, TOKENS_BT)
      seen.append(np.asarray(noisy_BTV - clean_BTV))
      assert (np.abs(seen[-1]).max((1, 2)) > 1e-3).all(), name
  all_BTV, order = run(on, rngs_B, TOKENS_BT), np.array([2, 0, 1])
  moved_BTV = run(on, rngs_B[order], TOKENS_BT[order])
  assert_close(moved_BTV, np.asarray(all_BTV)[order], 64)
  assert run._cache_size() == 1


def test_a_rate_of_zero_compiles_to_nothing() -> None:
  """Static 0: the program has no random numbers in it."""
  params, rngs_B = params_of(BASE), jax.random.split(jax.random.key(0), 3)
  x_BTD = jnp.ones((3, 2, 4))
  made = jax.make_jaxpr(lambda x, keys: dropout(x, 0.0, keys))(x_BTD, rngs_B)
  assert not made.eqns
  without = jax.make_jaxpr(lambda x: dropout(x, 0.5, None))(x_BTD)
  assert not without.eqns

  def text(arch: Architecture, rngs_B: jax.Array | None) -> str:
    return jax.jit(loss_of(arch)).lower(params, rngs_B).as_text()

  assert text(BASE, rngs_B) == text(BASE, None)
  assert text(DROPPED, rngs_B) != text(DROPPED, None) == text(BASE, None)


def test_dropout_keeps_the_mean() -> None:
  rate, rngs_B = 0.3, jax.random.split(jax.random.key(1), 4)
  y_BT = np.asarray(dropout(jnp.ones((4, 5000)), rate, rngs_B))
  error = (rate / (1 - rate) / y_BT.size) ** 0.5  # of the mean, one sigma
  assert abs(y_BT.mean() - 1.0) < 5 * error
  assert abs((y_BT == 0).mean() - rate) < 5 * (rate * 0.7 / y_BT.size) ** 0.5


# Known limits. ----------------------------------------------------------------


def test_raw_attention_with_one_head_is_a_matrix_product() -> None:
  """softmax(x x^T / sqrt(D)) x, with no parameter anywhere."""
  x_TD = draws(5, 8)
  raw, x_BTD = Raw(), jnp.float32(x_TD[None])
  assert not raw.params(dims_of(BASE), ScoreInputs())
  dims = dims_of(dataclasses.replace(BASE, num_heads=1))
  heads = raw.split({}, x_BTD, x_BTD, dims, ScoreInputs())
  mixed = attend(*heads, np.ones((5, 5), bool), Rsqrt(), Softmax())
  exp_TS = np.exp(x_TD @ x_TD.T / 8**0.5)
  expected_TD = exp_TS / exp_TS.sum(1, keepdims=True) @ x_TD
  assert_close(raw.merge({}, mixed.out_BTNH)[0], expected_TD, 8)


def test_constant_scale_of_rsqrt_is_rsqrt() -> None:
  q_BTNH, k_BSNH = (
    jnp.float32(draws(2, 3, 2, 4)),
    jnp.float32(draws(2, 5, 2, 4)),
  )
  mask_TS = np.ones((3, 5), bool)
  results = [
    attend(q_BTNH, k_BSNH, k_BSNH, mask_TS, scale, Softmax())
    for scale in (Rsqrt(), Constant(4**-0.5), Constant(0.4))
  ]
  np.testing.assert_array_equal(results[0].out_BTNH, results[1].out_BTNH)
  assert (results[0].out_BTNH != results[2].out_BTNH).any()


def test_every_mask_list_is_tried() -> None:
  """The lists above hold each mask, and causal beside each it goes with."""
  assert {len(masks) for masks in mask_lists(causal=False)} == {1, 2}
  assert all(masks[0].tag == 'causal' for masks in mask_lists(causal=True))
