"""The questions that Ablax started from, each answered by a test."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import transformer
from model.architecture.architecture import Architecture
from model.architecture.family import Classifier, EncoderDecoder
from model.attention.mask import Full
from model.attention.normalizers.dense import Softmax, Unnormalized
from model.attention.parts import HeadOutputs
from model.attention.projections.base import Qkv, Raw, SharedKv
from model.attention.scale import NoScale, Rsqrt
from model.attention.scores.base import ScoreInputs
from model.backends.kernels import FusedKernel
from model.core.inputs import ModelInputs
from model.core.parameter import ParamRole
from model.layers.feedforward import Mlp, NoFeedForward
from model.position.base import LearnedPosition, NoPosition, Rope, Sinusoidal
from spec.architectures import (
  BASE,
  SEQ_LEN,
  VOCABULARY,
  dims_of,
  draws,
  examples,
  mask_lists,
  named,
  output_lists,
  stacked_params,
  unions,
)
from spec.simple import attend
from spec.tolerance import assert_close
from train.config.config import Config
from train.core.trees import flatten, unflatten
from train.optim.optimizer import Optimization
from train.programs.state import TrainState, init_state
from train.programs.step import train_step
from train.tasks.base import Batch

pytestmark = pytest.mark.usefixtures('quick_compilation')

STEPS = 4


def trained(
  config: Config, params: Mapping[str, np.ndarray], batches: list[Batch]
) -> dict[str, np.ndarray]:
  """Returns the parameters after a real step of training for each batch."""
  dims = config.dims(VOCABULARY)

  @jax.jit
  def step(state: TrainState, batch: Batch) -> TrainState:
    return train_step(config, dims, state, batch, None)[0]

  state = init_state(config, dims, jax.tree.map(jnp.float32, unflatten(params)))
  for batch in batches:
    state = step(state, batch)
  assert int(state.step) == len(batches)
  assert int(state.diverged) == -1
  return {
    path: np.asarray(value) for path, value in flatten(state.params).items()
  }


def batches_of(symbols: int, seq_len: int) -> list[Batch]:
  """Returns batches that hold all of the first `symbols` tokens, no others."""
  rng, found = np.random.default_rng(0), []
  for n in range(STEPS):
    tokens_BT = rng.integers(0, symbols, (4, seq_len + 1))
    tokens_BT[0, :symbols] = np.arange(symbols)
    found.append(
      Batch(
        ModelInputs(jnp.asarray(tokens_BT[:, :-1])),
        jnp.asarray(tokens_BT[:, 1:]),
        jnp.ones((4, seq_len)),
        4 * n + jnp.arange(4),
      )
    )
  return found


def config_of(arch: Architecture, optimization: Optimization) -> Config:
  return Config(
    seq_len=SEQ_LEN,
    batch_size=4,
    steps=STEPS,
    architecture=arch,
    optimization=dataclasses.replace(optimization, warmup_steps=0),
  )


def start_of(arch: Architecture) -> dict[str, np.ndarray]:
  """Returns float32 numbers to start from, by path."""
  return {
    path: value.astype(np.float32)
    for path, value in stacked_params(arch).items()
  }


# What attention knows of positions. -------------------------------------------


@pytest.mark.parametrize(
  'position', [NoPosition(), Sinusoidal(), LearnedPosition(), Rope()]
)
def test_attention_alone_does_not_know_the_order(position: Any) -> None:
  """What does attention know of position?

  Nothing: without positions and with a full mask, permuting the tokens permutes
  the outputs and changes nothing else.  Positions must be put in.
  """
  arch = dataclasses.replace(BASE, mask=(Full(),), position=position)
  dims, params = dims_of(arch), stacked_params(arch)
  order = np.array([3, 0, 5, 1, 4, 2])
  tokens_BT = np.array([[0, 1, 2, 3, 4, 5], [6, 6, 1, 0, 2, 2]])
  with jax.enable_x64(True):
    own = jax.tree.map(jnp.asarray, unflatten(params))
    run = jax.jit(
      lambda t: transformer.apply(arch, dims, own, ModelInputs(t)).logits_BTV
    )
    permuted_BTV = np.asarray(run(tokens_BT[:, order]))
    expected_BTV = np.asarray(run(tokens_BT))[:, order]
  scale = np.abs(expected_BTV).max()
  far = np.abs(permuted_BTV - expected_BTV).max() / scale
  assert far < 1e-12 if position == NoPosition() else far > 1e-2


# What is trained. -------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize('tied', [False, True])
def test_embeddings_are_trained_where_tokens_occur(tied: bool) -> None:
  """Are embeddings trained, or only W_Q, W_K, W_V?

  Embeddings are parameters like all others: each step changes the rows of the
  tokens in the batch, and of no others, for nothing flows back to a row that
  was not looked up.  Where the same matrix unembeds, every token is a possible
  prediction and so every row learns.
  """
  arch = dataclasses.replace(BASE, num_layers=1, tie_embeddings=tied)
  config = config_of(arch, Optimization(weight_decay=0.0))
  before, symbols = start_of(arch), 5
  after = trained(config, before, batches_of(symbols, SEQ_LEN))
  changed = np.any(
    after['embedding/token'] != before['embedding/token'], axis=1
  )
  assert changed.tolist() == [tied or v < symbols for v in range(VOCABULARY)]
  for path in before:
    assert (after[path] != before[path]).any(), path


def test_frozen_embeddings_do_not_change_by_a_bit() -> None:
  """If the W are trained, must the embeddings be?

  No: `--freeze=^embedding/` leaves them as they were drawn, to the bit, decay
  included, while everything else is trained around them.
  """
  arch = dataclasses.replace(BASE, num_layers=1)
  config = config_of(arch, Optimization(freeze='^embedding/'))
  before = start_of(arch)
  after = trained(config, before, batches_of(VOCABULARY, SEQ_LEN))
  for path, start in before.items():
    same = after[path].tobytes() == start.tobytes()
    assert same == path.startswith('embedding/'), path


# Why heads differ. ------------------------------------------------------------

HEAD_AXES = {'query': 2, 'key': 2, 'value': 2, 'out': 1}  # axis of N in LDNH


def head_of(params: Mapping[str, Any], name: str, n: int) -> np.ndarray:
  """Returns one head's slice of a projection, in all layers."""
  values = np.asarray(params[f'blocks/attention/{name}'])
  return values.take(n, axis=HEAD_AXES[name])


def test_heads_that_start_equal_stay_equal() -> None:
  """All heads get the same input: why do they learn different things?

  Because they start from different numbers, and for no other reason.  Heads
  equal in W_Q, W_K, W_V and in their slices of W_O get equal gradients and stay
  equal to the bit, however long they train.  Equal in W_Q, W_K, W_V alone, they
  part: the gradient reaches a head through its own slice of W_O.
  """
  arch = Architecture(num_layers=1, d_model=16, num_heads=2)
  config = config_of(arch, Optimization(learning_rate=0.01))
  dims, batches = dims_of(arch), batches_of(VOCABULARY, SEQ_LEN)
  step = jax.jit(
    lambda state, batch: train_step(config, dims, state, batch, None)[0]
  )

  def equal_after(equal_before: tuple[str, ...]) -> dict[str, bool]:
    params = start_of(arch)
    for name in equal_before:
      path = f'blocks/attention/{name}'
      params[path] = params[path].take([0, 0], HEAD_AXES[name])
    state = init_state(
      config, dims, jax.tree.map(jnp.asarray, unflatten(params))
    )
    for batch in batches:
      state = step(state, batch)
    end = flatten(state.params)
    for name in HEAD_AXES:
      assert (head_of(end, name, 0) != head_of(params, name, 0)).any()
    return {
      name: head_of(end, name, 0).tobytes() == head_of(end, name, 1).tobytes()
      for name in HEAD_AXES
    }

  assert all(equal_after(('query', 'key', 'value', 'out')).values())
  assert not any(equal_after(('query', 'key', 'value')).values())
  assert not any(equal_after(()).values())


# From raw embeddings to queries, keys and values. -----------------------------


def mixed_raw(x_TD: np.ndarray, normalizer: Any) -> np.ndarray:
  """Returns attention without any W, one head, over a full mask."""
  x_BTD = jnp.asarray(x_TD[None])
  dims = dims_of(dataclasses.replace(BASE, num_heads=1))
  heads = Raw().split({}, x_BTD, x_BTD, dims, ScoreInputs())
  mask_TS = jnp.ones((len(x_TD), len(x_TD)), bool)
  mixed = attend(*heads, mask_TS, Rsqrt(), normalizer)
  return np.asarray(Raw().merge({}, mixed.out_BTNH))[0]


def test_what_is_orthogonal_counts_only_through_the_softmax() -> None:
  """What do raw embeddings see when they score each other?

  What they are alike to.  An input orthogonal to all others scores 0 with them
  and without a softmax leaves them as they were; the softmax turns a score of 0
  into exp(0) = 1, so that it takes its share of the weight whatever it says.
  """
  x_TD = np.array(
    [[1, 2, 0, 0], [3, -1, 0, 0], [2, 2, 0, 0], [0, 0, 1, 0]], np.float32
  )
  changed_TD = x_TD.copy()
  changed_TD[3] = [0, 0, 5, -7]  # still orthogonal to the others
  linear_TD, moved_TD = (
    mixed_raw(given, Unnormalized()) for given in (x_TD, changed_TD)
  )
  np.testing.assert_array_equal(linear_TD[:3], moved_TD[:3])
  np.testing.assert_array_equal(
    linear_TD[:3], mixed_raw(x_TD[:3], Unnormalized())
  )
  soft_TD, moved_TD = (
    mixed_raw(given, Softmax()) for given in (x_TD, changed_TD)
  )
  assert (soft_TD[:3] != moved_TD[:3]).any(axis=1).all()
  assert (soft_TD[:3, :2] != mixed_raw(x_TD[:3], Softmax())[:, :2]).all()


def test_worked_example() -> None:
  """What does attention compute, in numbers?

  One query of width d = 4, three keys, so that logits are divided by 2:

    q = (2, 2, 0, 1)
    k_1 = (1, 1, 5, 0)   q.k_1 = 2 + 2 = 4    4 / 2 = 2
    k_2 = (0, 0, 3, 2)   q.k_2 = 2            2 / 2 = 1
    k_3 = (1, -1, 7, 0)  q.k_3 = 2 - 2 = 0    0 / 2 = 0

    exp(2) = 7.389056, exp(1) = 2.718282, exp(0) = 1;  sum 11.107338
    weights = 0.665241, 0.244728, 0.090031

    v_1 = (1, 0, 0, 1), v_2 = (0, 10, 0, 1), v_3 = (0, 0, 100, 1)
    out = (0.665241, 2.447285, 9.003057, 1)

  Not divided, the weights are exp(4, 2, 0) / 62.987206 = 0.866814, 0.117310,
  0.015876: nearer to one key alone.
  """
  q_BTNH = np.array([2, 2, 0, 1], np.float32).reshape(1, 1, 1, 4)
  k_BSNH = np.array([[1, 1, 5, 0], [0, 0, 3, 2], [1, -1, 7, 0]], np.float32)
  v_BSNH = np.array([[1, 0, 0, 1], [0, 10, 0, 1], [0, 0, 100, 1]], np.float32)
  heads = (q_BTNH, k_BSNH.reshape(1, 3, 1, 4), v_BSNH.reshape(1, 3, 1, 4))
  mask_TS = np.ones((1, 3), bool)
  mixed = attend(*heads, mask_TS, Rsqrt(), Softmax())
  weights_S, out_H = mixed.weights_BNTS[0, 0, 0], mixed.out_BTNH[0, 0, 0]
  np.testing.assert_allclose(weights_S, [0.665241, 0.244728, 0.090031], 1e-5)
  np.testing.assert_allclose(out_H, [0.665241, 2.447285, 9.003057, 1], 1e-6)
  sharp = attend(*heads, mask_TS, NoScale(), Softmax())
  np.testing.assert_allclose(
    sharp.weights_BNTS[0, 0, 0], [0.866814, 0.117310, 0.015876], 1e-4
  )


# Why logits are divided by sqrt(d_k). -----------------------------------------

NUM_KEYS, NUM_QUERIES = 64, 256
# shared/papers.md, section 3: entropy / ln 64, largest weight, and the median
# Frobenius norm of the derivative of the softmax.
UNSCALED = {
  4: (0.66, 0.29, 0.27),
  16: (0.35, 0.56, 0.33),
  64: (0.15, 0.78, 0.21),
}
UNSCALED |= {256: (0.054, 0.92, 0.017)}
SCALED = (0.885, 0.107, 0.18)


def softmax_figures(head_dim: int) -> tuple[float, np.ndarray, np.ndarray]:
  """Returns the variance of q.k, and figures without and with the scale."""
  rng = np.random.default_rng(head_dim)
  q_BTNH = rng.standard_normal((NUM_QUERIES, 1, 1, head_dim), np.float32)
  k_BSNH = rng.standard_normal((NUM_QUERIES, NUM_KEYS, 1, head_dim), np.float32)
  mask_TS = np.ones((1, NUM_KEYS), bool)

  @jax.jit
  def run(q: jax.Array, k: jax.Array) -> list[HeadOutputs]:
    return [
      attend(q, k, k, mask_TS, NoScale(), Unnormalized()),
      attend(q, k, k, mask_TS, NoScale(), Softmax()),
      attend(q, k, k, mask_TS, Rsqrt(), Softmax()),
    ]

  logits, *weights = (
    np.asarray(mixed.weights_BNTS, np.float64)[:, 0, 0]
    for mixed in run(q_BTNH, k_BSNH)
  )
  return float(logits.var()), *(figures(p_BS) for p_BS in weights)


def figures(p_BS: np.ndarray) -> np.ndarray:
  """Returns mean entropy / ln S, mean largest p, median ||diag(p) - p p^T||."""
  entropy_B = -(p_BS * np.log(np.maximum(p_BS, 1e-300))).sum(-1)
  second_B, third_B = (p_BS**2).sum(-1), (p_BS**3).sum(-1)
  norm_B = np.sqrt(second_B - 2 * third_B + second_B**2)
  return np.array(
    [
      entropy_B.mean() / np.log(p_BS.shape[-1]),
      p_BS.max(-1).mean(),
      np.median(norm_B),
    ]
  )


def test_scaling_keeps_the_softmax_where_it_learns() -> None:
  """Why divide by sqrt(d_k), and what breaks at large d_k without it?

  For standard normal q and k the variance of q.k is d_k.  Undivided, the
  softmax over 64 keys turns into an argmax as d_k grows (entropy 0.66, 0.35,
  0.15, 0.05 of ln 64) and its derivative vanishes with it; divided, all of it
  is the same at every d_k.
  """
  entropies = []
  for head_dim, published in UNSCALED.items():
    variance, unscaled, scaled = softmax_figures(head_dim)
    # Four standard errors: keys share their query, so 256 draws, not 16,384.
    error = 4 * (2 / (NUM_QUERIES * head_dim)) ** 0.5 + 0.03
    assert variance == pytest.approx(head_dim, rel=error)
    np.testing.assert_allclose(unscaled[:2], published[:2], atol=0.04)
    np.testing.assert_allclose(scaled, SCALED, atol=0.04)
    entropies.append(unscaled[0])
  assert entropies == sorted(entropies, reverse=True)
  assert unscaled[2] < 0.5 * scaled[2]


# What rows of an ablation have in common. -------------------------------------


# Few different shapes, because each costs a second to compile a sampler for.
SQUARE = dataclasses.replace(BASE, feedforward=Mlp(width=8))
SQUARE_DIMS = {'seq_len': 8, 'vocab_size': 8, 'num_classes': 8}


def neighbours() -> dict[str, Architecture]:
  """Returns the base changed in one place: every member of every union."""
  changes: dict[str, dict[str, Any]] = {
    f'{field}={named(variant)}': {field: variant}
    for field, choices in unions(Architecture).items()
    for cls in choices.values()
    for variant in examples(cls)
    if field not in ('init', 'mask', 'output')
    # Kernels serve other types and machines, and have no parameters.
    and not isinstance(variant, FusedKernel)
  }
  changes |= {str(m): {'mask': m} for m in mask_lists(causal=False)}
  changes |= {str(o): {'output': o} for o in output_lists()}
  changes |= {
    'tied': {'tie_embeddings': True},
    'biases': {'use_bias': True},
    'scanned': {'scan_layers': True},
  }
  for change in changes.values():
    if isinstance(change.get('model'), Classifier):
      change['tie_embeddings'] = True  # there is none to tie
  return {
    name: dataclasses.replace(SQUARE, **change)
    for name, change in changes.items()
  }


def initial(arch: Architecture) -> dict[str, np.ndarray]:
  dims = arch.dims(**SQUARE_DIMS)
  params = flatten(transformer.init(arch, dims, jax.random.key(3)))
  return {path: np.asarray(value) for path, value in params.items()}


@pytest.mark.slow
def test_rows_start_from_equal_values_where_they_share_a_parameter() -> None:
  """Does removing W_V change what else the model starts from?

  No: a parameter's first value is a function of the seed, its path and its
  shape.  So rows of an ablation differ by what was ablated, and by no draw.
  """
  base = initial(SQUARE)
  drawn = [value.tobytes() for value in base.values() if value.std()]
  assert len(set(drawn)) == len(drawn) > 8
  removed = set()
  for name, arch in neighbours().items():
    params = initial(arch)
    removed |= base.keys() - params.keys()
    for path in base.keys() & params.keys():
      same = params[path].tobytes() == base[path].tobytes()
      assert same or params[path].shape != base[path].shape, (name, path)
  # That W_V, W_O and others were indeed removed from beside the rest.
  assert {'blocks/attention/value', 'blocks/attention/out'} <= removed
  assert {'unembedding/kernel', 'position/table'} <= removed


def test_depth_scales_what_is_added_to_the_residual_and_nothing_else() -> None:
  """Do more layers change how the first ones start?

  With --init=gpt2 only in size, by 1 / sqrt(2L), where a sub-layer is added.
  """
  shallow = dataclasses.replace(SQUARE, feedforward=NoFeedForward())
  few = initial(shallow)
  many = initial(dataclasses.replace(shallow, num_layers=8))
  table = shallow.parameter_table(shallow.dims(**SQUARE_DIMS))
  for path, value in few.items():
    first = many[path][:2] if path.startswith('blocks/') else many[path]
    if table[path].role is ParamRole.RESIDUAL:
      assert_close(2 * first, value, 1)  # sqrt(2 * 8) / sqrt(2 * 2)
    else:
      np.testing.assert_array_equal(first, value)


# Paths are an interface. ------------------------------------------------------

DEFAULT_TABLE = """
embedding/token                    V->D    67,64  embedding
position/table                     T->D    64,64  embedding
norm_final/scale                   ->D     64  scale
blocks/attention/query             D->NH   64,4,16  matrix
blocks/attention/key               D->KH   64,4,16  matrix
blocks/attention/value             D->KH   64,4,16  matrix
blocks/attention/out               NH->D   4,16,64  residual
blocks/norm_attention/scale        ->D     64  scale
blocks/feedforward/up              D->F    64,256  matrix
blocks/feedforward/down            F->D    256,64  residual
blocks/norm_feedforward/scale      ->D     64  scale
"""
FULL_TABLE = """
embedding/token                    V->D    67,64  embedding
position/table                     T->D    64,64  embedding
norm_final/scale                   ->D     64  scale
norm_final/bias                    ->D     64  bias
unembedding/kernel                 D->V    64,67  matrix
blocks/attention/query_up          D->F    64,64  matrix
blocks/attention/query             F->NH   64,4,8  matrix
blocks/attention/query_up_bias     ->F     64  bias
blocks/attention/query_bias        ->NH    4,8  bias
blocks/attention/key_up            D->F    64,64  matrix
blocks/attention/key               F->KH   64,4,8  matrix
blocks/attention/key_up_bias       ->F     64  bias
blocks/attention/key_bias          ->KH    4,8  bias
blocks/attention/value_up          D->F    64,64  matrix
blocks/attention/value             F->KH   64,4,8  matrix
blocks/attention/value_up_bias     ->F     64  bias
blocks/attention/value_bias        ->KH    4,8  bias
blocks/attention/out               NH->D   4,8,64  residual
blocks/attention/out_bias          ->D     64  bias
blocks/norm_attention/scale        ->D     64  scale
blocks/norm_attention/bias         ->D     64  bias
blocks/feedforward/up              D->F    64,256  matrix
blocks/feedforward/down            F->D    256,64  residual
blocks/feedforward/up_bias         ->F     256  bias
blocks/feedforward/down_bias       ->D     64  bias
blocks/norm_feedforward/scale      ->D     64  scale
blocks/norm_feedforward/bias       ->D     64  bias
"""
TWO_STACKS_TABLE = """
embedding/token                    V->D    67,64  embedding
position/table                     T->D    64,64  embedding
norm_final/scale                   ->D     64  scale
position_encoder/table             T->D    64,64  embedding
norm_encoder/scale                 ->D     64  scale
encoder/attention/query            D->NH   64,4,16  matrix
encoder/attention/key              D->KH   64,4,16  matrix
encoder/attention/value            D->KH   64,4,16  matrix
encoder/attention/out              NH->D   4,16,64  residual
encoder/norm_attention/scale       ->D     64  scale
encoder/feedforward/up             D->F    64,256  matrix
encoder/feedforward/down           F->D    256,64  residual
encoder/norm_feedforward/scale     ->D     64  scale
blocks/attention/query             D->NH   64,4,16  matrix
blocks/attention/key               D->KH   64,4,16  matrix
blocks/attention/value             D->KH   64,4,16  matrix
blocks/attention/out               NH->D   4,16,64  residual
blocks/norm_attention/scale        ->D     64  scale
blocks/cross_attention/query       D->NH   64,4,16  matrix
blocks/cross_attention/key         D->KH   64,4,16  matrix
blocks/cross_attention/value       D->KH   64,4,16  matrix
blocks/cross_attention/out         NH->D   4,16,64  residual
blocks/norm_cross/scale            ->D     64  scale
blocks/feedforward/up              D->F    64,256  matrix
blocks/feedforward/down            F->D    256,64  residual
blocks/norm_feedforward/scale      ->D     64  scale
"""
MEANING = (
  'The parameter paths are an interface: old checkpoints no longer load, '
  '--freeze, decay and sharding rules match other parameters, and initial '
  'values are drawn anew, so that published tables no longer reproduce.  If '
  'that is meant, say so in CHANGELOG.md and change this table.'
)


@pytest.mark.parametrize(
  ('arch', 'pinned'),
  [
    (Architecture(), DEFAULT_TABLE),
    (
      Architecture(
        projections=Qkv(kind='mlp'),
        head_dim=8,
        tie_embeddings=False,
        use_bias=True,
      ),
      FULL_TABLE,
    ),
    (Architecture(model=EncoderDecoder()), TWO_STACKS_TABLE),
  ],
  ids=['default', 'every option', 'encoder-decoder'],
)
def test_parameter_paths_are_pinned(arch: Architecture, pinned: str) -> None:
  expected = {}
  for line in pinned.strip().splitlines():
    path, axes, shape, kind = line.split()
    expected[path] = (axes, tuple(map(int, shape.split(','))), kind)
  actual = {
    path: (what.axes, what.shape, what.role.value)
    for path, what in arch.parameter_table(arch.dims(64, 67)).items()
  }
  assert actual == expected, MEANING


def test_shared_values_are_the_keys() -> None:
  """What does W_V buy?  `shared_kv` is `qkv` whose W_V is its W_K."""
  params = {
    name: draws(8, 2, 4, seed=n) for n, name in enumerate(('query', 'key'))
  }
  x_BTD, dims = draws(2, 3, 8), dims_of(BASE)
  shared = SharedKv().split(params, x_BTD, x_BTD, dims, ScoreInputs())
  full = Qkv().split(
    params | {'value': params['key']}, x_BTD, x_BTD, dims, ScoreInputs()
  )
  for one, other in zip(shared, full, strict=True):
    np.testing.assert_array_equal(one, other)
