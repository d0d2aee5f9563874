"""Composed attention: how its parts meet, and which do not."""

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model import transformer
from model.architecture.architecture import Architecture
from model.architecture.family import Classifier, Encoder, EncoderDecoder
from model.attention.mask import (
  Causal,
  ExcludeSelf,
  Full,
  Padding,
  Prefix,
  Segments,
  Window,
)
from model.attention.normalizers.dense import Unnormalized
from model.attention.outputs.base import Gate, Plain
from model.attention.outputs.differential import Differential
from model.attention.outputs.forget import Forget
from model.attention.outputs.mixtures import ValueResidual
from model.attention.projections.base import Raw, SharedKv, SharedQk
from model.attention.qk_norm import LayerQkNorm, RmsQkNorm
from model.attention.scores.base import ScoreBase, ScoreTraits
from model.attention.scores.place_scores import NEITHER
from model.backends.base import Chunked, Reference
from model.backends.kernels import Tokamax
from model.core.field import FieldError
from model.core.inputs import HeadGates, ModelInputs, Source
from model.position.base import Rope
from spec.architectures import BASE, TOKENS_BT, dims_of, draws, params_of
from spec.tolerance import assert_close
from train.config.config import Config
from train.core.trees import flatten, unflatten
from train.flags.schema import override
from train.programs.state import init_state
from train.programs.step import train_step
from train.programs.validation import evaluation_step
from train.tasks.base import Batch
from train.tasks.texts.text import Text

pytestmark = pytest.mark.usefixtures('quick_compilation')

# Heads. -----------------------------------------------------------------------


def test_grouped_heads_are_repeated_heads() -> None:
  """Query heads 0 and 1 share the first key head, 2 and 3 the second."""
  grouped = dataclasses.replace(BASE, num_heads=4, num_kv_heads=2)
  params = flatten(params_of(grouped))
  repeated = dict(params)
  for name in ('key', 'value'):
    path = f'blocks/attention/{name}'
    assert params[path].shape == (2, 8, 2, 2)
    repeated[path] = np.repeat(np.asarray(params[path]), 2, axis=2)
  every = dataclasses.replace(grouped, num_kv_heads=None)
  got_BTV, wanted_BTV = (
    transformer.apply(
      arch, dims_of(arch), unflatten(given), ModelInputs(TOKENS_BT)
    ).logits_BTV
    for arch, given in ((grouped, params), (every, repeated))
  )
  assert_close(got_BTV, wanted_BTV, 64)


GATED = dataclasses.replace(
  BASE, output=(ValueResidual(), Gate()), num_kv_heads=1
)


SOURCE = Source(
  jnp.asarray([[3, 1, 5, 2], [6, 6, 0, 0], [1, 4, 2, 0]]),
  jnp.asarray([[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 1, 0]]),
)
FAMILIES = {
  'decoder': GATED,
  'encoder': dataclasses.replace(BASE, model=Encoder()),
  'classifier': dataclasses.replace(
    BASE, model=Classifier(), tie_embeddings=True
  ),
  'encoder_decoder': dataclasses.replace(
    BASE, model=EncoderDecoder(encoder_layers=3)
  ),
}
# Gates of an attention, and where its W_O lies.
GATES = {
  'self_LN': 'blocks/attention/out',
  'cross_LN': 'blocks/cross_attention/out',
  'encoder_LN': 'encoder/attention/out',
}
CASES = [
  (family, name)
  for family in FAMILIES
  for name in GATES
  if name == 'self_LN' or family == 'encoder_decoder'
]


@pytest.mark.slow
@pytest.mark.parametrize(('family', 'name'), CASES)
def test_head_gates(family: str, name: str) -> None:
  """Of 1 they change no bit, of 0 they remove the head; they have a gradient.

  That gradient is the importance of a head.
  """
  arch, path = FAMILIES[family], GATES[name]
  dims, params = dims_of(arch), params_of(arch)

  @jax.jit
  def run(params: Any, gates_LN: jax.Array | None) -> jax.Array:
    gates = HeadGates(**{name: gates_LN})
    source = SOURCE if arch.model.traits.has_source else None
    return transformer.apply(
      arch,
      dims,
      params,
      ModelInputs(TOKENS_BT, source=source),
      head_gates=gates,
    ).logits_BTV

  without = flatten(params)
  ones_LN = jnp.ones(without[path].shape[:2])
  assert ones_LN.shape == (3 if name == 'encoder_LN' else 2, 2)
  plain_BTV = run(params, None)
  np.testing.assert_array_equal(run(params, ones_LN), plain_BTV)
  without[path] = np.array(without[path])
  without[path][1, 0] = 0.0
  shut_BTV = run(params, ones_LN.at[1, 0].set(0.0))
  assert_close(shut_BTV, run(unflatten(without), None), 64)
  assert np.abs(shut_BTV - plain_BTV).max() > 1e-3
  probe_BTV = jnp.float32(draws(*plain_BTV.shape))

  def loss(gates_LN: jax.Array) -> jax.Array:
    return (run(params, gates_LN) * probe_BTV).sum()

  importance_LN = jax.grad(loss)(ones_LN)
  assert np.abs(importance_LN).min() > 0
  step_LN = jnp.float32(1e-2 * draws(*ones_LN.shape))
  slope = (loss(ones_LN + step_LN) - loss(ones_LN - step_LN)) / 2
  assert float((importance_LN * step_LN).sum()) == pytest.approx(
    float(slope), rel=1e-2
  )


@pytest.mark.parametrize(
  ('name', 'shape', 'message'),
  [
    ('cross_LN', (2, 2), 'cross_LN: the model has no such attention'),
    ('encoder_LN', (2, 2), 'encoder_LN: the model has no such attention'),
    ('self_LN', (2, 3), r'self_LN: must be of 2 layers x 2 heads, .* \(2, 3\)'),
    ('self_LN', (2,), 'must be of 2 layers x 2 heads'),
  ],
)
def test_gates_of_heads_that_are_not_there_are_refused(
  name: str, shape: tuple[int, ...], message: str
) -> None:
  gates = HeadGates(**{name: jnp.ones(shape)})
  with pytest.raises(ValueError, match=message):
    transformer.apply(
      GATED,
      dims_of(GATED),
      params_of(GATED),
      ModelInputs(TOKENS_BT),
      head_gates=gates,
    )


@pytest.mark.slow
def test_ways_to_compute_the_same_with_all_that_is_carried() -> None:
  """Recomputed, unrolled, in chunks, and several models by vmap."""
  arch = dataclasses.replace(
    GATED, output=(ValueResidual(), Forget(), Differential(), Gate())
  )
  dims, params = dims_of(arch), params_of(arch)

  def gradient(changed: Architecture, params: Any) -> Any:
    def loss(params: Any) -> jax.Array:
      out = transformer.apply(changed, dims, params, ModelInputs(TOKENS_BT))
      return jnp.square(out.logits_BTV).mean()

    return jax.jit(jax.grad(loss))(params)

  wanted = flatten(gradient(arch, params))
  largest = max(float(jnp.abs(g).max()) for g in wanted.values())
  for change in (
    {'remat': True},
    {'remat': True, 'scan_layers': False},
    {'remat': True, 'backend': Chunked(4)},
  ):
    got = flatten(gradient(dataclasses.replace(arch, **change), params))
    for path, value in wanted.items():
      assert_close(got[path], value, 64, factor=72.0, scale=largest)
  pair = jax.tree.map(lambda p: jnp.stack([0.5 * p, p]), params)
  chunked = dataclasses.replace(arch, backend=Chunked(4))
  lanes = flatten(jax.vmap(lambda p: gradient(chunked, p))(pair))
  for path, value in wanted.items():
    assert_close(lanes[path][1], value, 64, factor=72.0, scale=largest)


def test_the_order_of_a_list_does_not_matter() -> None:
  one, other = (
    dataclasses.replace(BASE, output=outputs)
    for outputs in ((Gate(), Differential()), (Differential(), Gate()))
  )
  params = params_of(one)
  np.testing.assert_array_equal(
    *(
      transformer.apply(
        arch, dims_of(arch), params, ModelInputs(TOKENS_BT)
      ).logits_BTV
      for arch in (one, other)
    )
  )


# Segments. --------------------------------------------------------------------


@pytest.mark.slow
def test_packed_documents_are_documents_by_themselves() -> None:
  """Rotary scores know distances alone, so a document may start anywhere."""
  arch = dataclasses.replace(
    BASE, mask=(Causal(), Segments()), position=Rope(), output=(Forget(),)
  )
  dims, params = dims_of(arch), params_of(arch)
  packed_BT = np.array([[0, 1, 2, 3, 4, 5]])
  for backend in (Reference(), Chunked(4)):
    own = dataclasses.replace(arch, backend=backend)

    def run(
      tokens_BT: Any, segments_BT: Any, own: Architecture = own
    ) -> np.ndarray:
      out = transformer.apply(
        own,
        dims,
        params,
        ModelInputs(tokens_BT, segments_BT=jnp.asarray(segments_BT)),
      )
      return np.asarray(out.logits_BTV)

    together_BTV = run(packed_BT, [[1, 1, 2, 2, 2, 0]])
    for first, last in ((0, 2), (2, 5)):
      alone_BTV = run(packed_BT[:, first:last], [[1] * (last - first)])
      assert_close(together_BTV[:, first:last], alone_BTV, 64, factor=4.0 * 18)
    assert np.isfinite(together_BTV).all()


@pytest.mark.slow
def test_the_step_hands_segments_to_the_model() -> None:
  @dataclasses.dataclass(frozen=True)
  class Packed(Text, tag='packed'):
    """Text whose batches have segments."""

    gives_segments: ClassVar[bool] = True

  arch = dataclasses.replace(BASE, mask=(Causal(), Segments()))
  config = Config(
    seq_len=6, batch_size=3, architecture=arch, microbatches=3, task=Packed()
  )
  dims, losses = dims_of(arch), []
  for segments_BT in (
    np.ones((3, 6), int),
    np.tile([1, 1, 1, 2, 2, 2], (3, 1)),
  ):
    batch = Batch(
      ModelInputs(jnp.asarray(TOKENS_BT), jnp.asarray(segments_BT)),
      *map(jnp.asarray, (TOKENS_BT, np.ones((3, 6)), np.arange(3))),
    )
    state = init_state(config, dims, params_of(arch))
    after, metrics = train_step(config, dims, state, batch, None)
    assert int(after.step) == 1
    sums = evaluation_step(config, dims, params_of(arch), batch, {})
    assert float(metrics.loss) == pytest.approx(
      float(sums.loss / sums.count), rel=1e-5
    )
    losses.append(float(metrics.loss))
  assert abs(losses[0] - losses[1]) > 1e-3
  with pytest.raises(ValueError, match='needs segments_BT'):
    transformer.apply(arch, dims, params_of(arch), ModelInputs(TOKENS_BT))


# A prefix. --------------------------------------------------------------------


@pytest.mark.slow
def test_a_prefix_is_seen_by_all_and_nothing_behind_it_early() -> None:
  arch = dataclasses.replace(BASE, mask=(Prefix(3),), num_layers=1)
  dims, params = dims_of(arch), params_of(arch)

  def probed(token_VD: jax.Array) -> jax.Array:
    own = params | {'embedding': {'token': token_VD}}
    out = transformer.apply(arch, dims, own, ModelInputs(TOKENS_BT[:1]))
    return jnp.square(out.logits_BTV[0]).sum(-1)

  jacobian_TVD = jax.jacrev(probed)(params['embedding']['token'])
  influence_TS = np.abs(jacobian_TVD).sum(-1)[:, TOKENS_BT[0]]
  expected_TS = np.tri(6, dtype=bool)
  expected_TS[:, :3] = True
  np.testing.assert_array_equal(influence_TS > 0, expected_TS)


def test_what_sees_its_target_does_not_count() -> None:
  """Positions 0 and 1 of a prefix of 3 see the next token, 2 does not."""
  arch = dataclasses.replace(BASE, mask=(Prefix(3),))
  config = Config(seq_len=6, batch_size=3, architecture=arch)
  weights_BT = np.tile([1.0, 1.0, 1.0, 0.5, 1.0, 1.0], (3, 1))
  batch = Batch(
    ModelInputs(jnp.asarray(TOKENS_BT)),
    *map(jnp.asarray, (TOKENS_BT, weights_BT, [0, 1, 2])),
  )
  sums = evaluation_step(config, dims_of(arch), params_of(arch), batch, {})
  assert float(sums.count) == 3 * 3.5


# What has no meaning. ---------------------------------------------------------


REFUSED = {
  'kv heads that do not divide': ({'num_kv_heads': 3}, 'try --num_kv_heads=2'),
  'kv heads of raw': (
    {'num_kv_heads': 1, 'projections': Raw()},
    'must be none with --projections=raw',
  ),
  'kv heads of one array': (
    {'num_kv_heads': 1, 'projections': SharedQk()},
    'must be none with --projections=shared_qk',
  ),
  'plain and another': ({'output': (Plain(), Gate())}, 'plain has no effect'),
  'an output twice': ({'output': (Gate(), Gate())}, 'each output once'),
  'halves of an odd width': (
    {'output': (Differential(),), 'head_dim': 3},
    'must be even',
  ),
  'pairs of an odd half': (
    {'output': (Differential(),), 'head_dim': 6, 'position': Rope()},
    '^--head_dim=6: must be a multiple of 4, .*--output=differential has 2',
  ),
  'the mean of one unit': (
    {'qk_norm': LayerQkNorm(), 'head_dim': 1},
    '^--qk_norm=layernorm: .*try --qk_norm=rms',
  ),
  'the mean of one unit of a map': (
    {'qk_norm': LayerQkNorm(), 'head_dim': 2, 'output': (Differential(),)},
    '^--qk_norm=layernorm: .*try --qk_norm=rms',
  ),
  'nothing in sight': (
    {'mask': (Causal(), ExcludeSelf(), Window(1))},
    '^--mask.window=1: hides all that exclude_self leaves',
  ),
  'a prefix of what is yet to be written': (
    {'mask': (Prefix(3),), 'model': EncoderDecoder()},
    '^--mask=prefix: prefix shows the given beginning of a text',
  ),
  'padding by a kernel': (
    {'backend': Tokamax(), 'model': Encoder()},
    '^--backend=tokamax: cannot hide padding',
  ),
  'padding of a source by a kernel': (
    {'backend': Tokamax(), 'model': EncoderDecoder()},
    '^--backend=tokamax: cannot hide padding',
  ),
  'a decay into the future': (
    {'output': (Forget(),), 'mask': (Full(),)},
    'add causal to --mask',
  ),
  'a decay of what is no exponent': (
    {'output': (Forget(),), 'normalizer': Unnormalized()},
    'try softmax',
  ),
  'full and another': ({'mask': (Full(), Window())}, 'full has no effect'),
  'prefix and causal': ({'mask': (Prefix(), Causal())}, 'prefix has no effect'),
  'padding and segments': (
    {'mask': (Segments(), Padding())},
    'padding has no effect',
  ),
  'a mask twice': ({'mask': (Causal(), Causal())}, 'each mask once'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_has_no_meaning_is_refused(case: str) -> None:
  change, reason = REFUSED[case]
  with pytest.raises(FieldError, match=reason):
    dataclasses.replace(BASE, **change)
  # It is the pair that has no meaning: the first choice alone is fine.
  if len(change) > 1:
    flag, value = next(iter(change.items()))
    assert vars(dataclasses.replace(BASE, **{flag: value}))[flag] == value


@dataclasses.dataclass(frozen=True)
class Near(ScoreBase):
  """The nearer the better: a score of neither queries nor keys."""

  traits: ClassVar[ScoreTraits] = ScoreTraits(NEITHER)

  def logits(
    self,
    params: Any,
    q_BTNH: jax.Array,
    k_BSKH: jax.Array,
    x_BTD: jax.Array,
    t_T: jax.Array,
    s_S: jax.Array,
  ) -> jax.Array:
    """Returns -|t - s|."""
    assert q_BTNH.shape[-1] == k_BSKH.shape[-1] == 0
    near_TS = -jnp.abs(t_T[:, None] - s_S).astype(x_BTD.dtype)
    return jnp.broadcast_to(
      near_TS, (q_BTNH.shape[0], q_BTNH.shape[2], *near_TS.shape)
    )


def test_what_a_score_does_not_read_is_not_made() -> None:
  """Neither W_Q nor W_K, and nothing that would only change queries."""
  arch = dataclasses.replace(BASE, score=Near())
  paths = arch.parameter_table(dims_of(arch))
  assert 'blocks/attention/value' in paths
  assert not {'blocks/attention/query', 'blocks/attention/key'} & set(paths)
  logits = [
    transformer.apply(
      dataclasses.replace(arch, backend=backend),
      dims_of(arch),
      params_of(arch),
      ModelInputs(TOKENS_BT),
    ).logits_BTV
    for backend in (Reference(), Chunked(4))
  ]
  assert_close(logits[1], logits[0], 64, factor=4.0 * 18)
  for change in (
    {'position': Rope()},
    {'qk_norm': RmsQkNorm()},
    {'output': (Differential(),)},
    {'projections': SharedKv()},
    {'projections': SharedQk()},
  ):
    with pytest.raises(FieldError, match='--score'):
      dataclasses.replace(arch, **change)


@pytest.mark.parametrize(
  ('flags', 'reason'),
  [
    ({'mask': 'full'}, 'add causal'),
    ({'mask': 'window'}, 'add causal'),
    (
      {'mask': 'causal,window', 'mask.window': '64'},
      '--mask.window=64: hides nothing at --seq_len=64',
    ),
    (
      {'mask': 'prefix', 'mask.prefix': '64'},
      '--mask.prefix=64: hides nothing at --seq_len=64',
    ),
    (
      {'mask': 'prefix', 'mask.prefix': '1'},
      '--mask.prefix=1: shows nothing that causal hides',
    ),
    ({'mask': 'causal,padding'}, '--task=text, which pads nothing'),
  ],
)
def test_masks_that_do_not_suit_the_trial_are_refused(
  flags: dict[str, str], reason: str
) -> None:
  with pytest.raises(FieldError, match=reason):
    override(Config(), flags)
