"""Backends of other libraries: what they are asked for, and where they run.

On a CPU the arguments are tried: XLA computes from them what the kernels would.
On a GPU (`pytest -m gpu`) the kernels themselves are compared.
"""

import dataclasses
import functools
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo as cudnn_checks

from experiments.experiment import Row
from experiments.planning import row_backends as attention
from helpers.commands import run
from model import cache, transformer
from model.architecture.architecture import Architecture
from model.attention.mask import (
  Causal,
  ExcludeSelf,
  Full,
  Prefix,
  Segments,
  Window,
)
from model.attention.normalizers.dense import SinkSoftmax
from model.attention.outputs.base import Gate
from model.attention.outputs.differential import Differential
from model.attention.outputs.forget import Forget
from model.attention.outputs.mixtures import TalkingHeads, ValueResidual
from model.attention.parts import Keys, Queries
from model.attention.projections.base import SharedKv
from model.attention.projections.latent import Mla
from model.attention.qk_norm import RmsQkNorm
from model.attention.scale import Constant, Inverse, LearnedScale, LogN, NoScale
from model.attention.scores.base import L2
from model.backends.base import (
  KERNEL_LENGTH,
  LONG,
  AutoBackend,
  BackendBase,
  Chunked,
  Reference,
  kernel_platform,
)
from model.backends.kernels import Cudnn, Tokamax
from model.core.field import FieldError
from model.core.inputs import ModelInputs, Positions
from model.core.side_output import ATTENTION_MAPS
from model.position.base import Alibi, Rope
from spec.architectures import draws
from spec.tolerance import assert_close, tolerance
from train.config.config import Config
from train.core.trees import flatten
from train.flags.schema import override
from train.inference.load import with_available_backend

PLAIN = Architecture(
  num_layers=2, d_model=32, num_heads=4, dtype='bfloat16', backend=Cudnn()
)
SERVED = [
  PLAIN,
  dataclasses.replace(
    PLAIN,
    num_kv_heads=2,
    head_dim=16,
    position=Rope(),
    scale=NoScale(),
    qk_norm=RmsQkNorm(),
    mask=(Causal(), Window(3)),
    output=(Gate(), ValueResidual()),
  ),
  dataclasses.replace(
    PLAIN, mask=(Full(),), projections=SharedKv(), scale=Inverse()
  ),
]
LENGTH = 8
TOKENS_BT = np.arange(2 * LENGTH).reshape(2, LENGTH) % 7
served = pytest.mark.parametrize(
  'arch', SERVED, ids=['plain', 'window', 'full']
)


def by_xla(
  query: jax.Array,
  key: jax.Array,
  value: jax.Array,
  *,
  scale: float,
  is_causal: bool,
  local_window_size: tuple[int, int] | None,
  implementation: str | None,
) -> jax.Array:
  """Returns what a kernel is asked for; a GPU is not needed."""
  assert implementation in ('cudnn', None)
  assert isinstance(scale, float)  # cuDNN compiles it in
  return PLAIN_JAX(
    query,
    key,
    value,
    scale=scale,
    is_causal=is_causal,
    local_window_size=local_window_size,
    implementation='xla',
  )


PLAIN_JAX = jax.nn.dot_product_attention


@pytest.fixture
def _no_gpu_needed(monkeypatch: pytest.MonkeyPatch) -> None:
  package = types.ModuleType('tokamax')
  monkeypatch.setattr(package, 'dot_product_attention', by_xla, raising=False)
  monkeypatch.setitem(sys.modules, 'tokamax', package)
  monkeypatch.setattr(jax.nn, 'dot_product_attention', by_xla)


# None of what is served has parameters of its own within attention.
TABLES = {
  name: {}
  for name in (
    'score',
    'scale',
    'normalizer',
    'position',
    'output_plain',
    'output_gate',
    'output_value_residual',
  )
}


def sides(arch: Architecture) -> tuple[Queries, Keys]:
  """Returns queries and keys of a sequence."""
  dims, t_T = arch.dims(LENGTH, 7), np.arange(LENGTH)
  query, _, value = arch.projections.widths(dims)
  x_BTD, q_BTNH, k_BSKH, v_BSKH = (
    jnp.float32(draws(2, LENGTH, *shape, seed=n))
    for n, shape in enumerate(
      [
        (dims.d_model,),
        (dims.num_heads, query),
        (dims.num_kv_heads, query),
        (dims.num_kv_heads, value),
      ]
    )
  )
  queries = Queries(q_BTNH, x_BTD, Positions(jnp.asarray(t_T)), {})
  return queries, Keys(k_BSKH, v_BSKH, Positions(jnp.asarray(t_T)), {})


# What kernels are asked for. --------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures('_no_gpu_needed')
@pytest.mark.parametrize('backend', [Cudnn(), Tokamax()], ids=lambda b: b.tag)
@served
def test_kernels_are_asked_for_the_same(
  arch: Architecture, backend: BackendBase
) -> None:
  queries, keys = sides(arch)
  got, wanted = (
    own.attend(arch.parts, TABLES, queries, keys, None)
    for own in (backend, Reference())
  )
  assert got.weights_BNTS is None
  assert_close(got.out_BTNH, wanted.out_BTNH, LENGTH, factor=16.0)


def assert_short(actual: Any, expected: Any) -> None:
  """Fails unless logits agree to a few roundings of bfloat16."""
  bound = tolerance(jnp.bfloat16, LENGTH, 16.0) * np.abs(expected).max()
  np.testing.assert_allclose(actual, expected, rtol=0, atol=bound)


def logits_and_gradient(
  arch: Architecture, length: int, params: Any
) -> tuple[jax.Array, Any]:
  """Returns the logits of two sequences, and the gradient of a probe."""
  dims = arch.dims(length, 7)
  tokens_BT = np.arange(2 * length).reshape(2, length) % 7
  probe_BTV = draws(2, length, 7)

  def loss(params: Any) -> tuple[jax.Array, jax.Array]:
    out = transformer.apply(arch, dims, params, ModelInputs(tokens_BT))
    return (out.logits_BTV * probe_BTV).mean(), out.logits_BTV

  gradient, logits_BTV = jax.grad(loss, has_aux=True)(params)
  return logits_BTV, gradient


@pytest.mark.slow
@served
@pytest.mark.parametrize('lanes', [False, True], ids=['alone', 'vmap'])
def test_programs_for_a_gpu_call_cudnn(
  arch: Architecture, lanes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
  """Lowered without a GPU, where JAX cannot ask which cuDNN there is."""
  module = 'jax._src.cudnn.fused_attention_stablehlo'
  monkeypatch.setattr(f'{module}.check_cudnn_version', lambda: 91000)
  run = functools.partial(logits_and_gradient, arch, LENGTH)
  params = transformer.init(arch, arch.dims(LENGTH, 7), jax.random.key(0))
  if lanes:
    run = jax.vmap(run)
    params = jax.tree.map(lambda p: jnp.stack([p, p]), params)
  lowered = jax.jit(run).trace(params).lower(lowering_platforms=('cuda',))
  text = lowered.as_text().replace(r'\22', '"')
  for call in ('fmhaSoftmax', 'fmhaSoftmaxBackward'):
    assert f'__cudnn${call}(' in text
  full = isinstance(arch.mask[0], Full)
  assert f'"mask_type": "{"NO_MASK" if full else "CAUSAL"}"' in text
  windows = [mask.window for mask in arch.mask if isinstance(mask, Window)]
  assert f'"sliding_window_length": {sum(windows)}' in text


@pytest.mark.slow
@pytest.mark.usefixtures('_no_gpu_needed')
@pytest.mark.parametrize('backend', [Cudnn(), Tokamax()], ids=lambda b: b.tag)
def test_steps_from_a_cache_are_right(backend: BackendBase) -> None:
  """A kernel that counts positions from 0 would hide all keys but the first."""
  arch = dataclasses.replace(SERVED[1], backend=backend)
  dims = arch.dims(LENGTH, 7)
  params = transformer.init(arch, dims, jax.random.key(0))
  whole = transformer.apply(arch, dims, params, ModelInputs(TOKENS_BT))
  kept = cache.empty(arch, dims, *TOKENS_BT.shape)
  for t in range(LENGTH):
    out, kept = transformer.decode_step(
      arch, dims, params, ModelInputs(TOKENS_BT[:, t : t + 1]), kept
    )
    assert_short(out.logits_BTV, whole.logits_BTV[:, t : t + 1])


@pytest.mark.slow
def test_weights_come_from_the_reference() -> None:
  params = transformer.init(PLAIN, PLAIN.dims(LENGTH, 7), jax.random.key(0))
  out = transformer.apply(
    PLAIN,
    PLAIN.dims(LENGTH, 7),
    params,
    ModelInputs(TOKENS_BT),
    wanted=ATTENTION_MAPS,
  )
  assert out.weights_LBNTS is not None


# What they cannot serve. ------------------------------------------------------


@pytest.mark.parametrize(
  ('flag', 'change'),
  [
    ('score', {'score': L2()}),
    ('scale', {'scale': LearnedScale()}),
    ('scale', {'scale': Constant()}),
    ('scale', {'scale': LogN()}),
    ('logit_cap', {'logit_cap': 30.0}),
    ('position', {'position': Alibi()}),
    ('output', {'output': (Forget(),)}),
    ('output', {'output': (TalkingHeads(),)}),
    ('normalizer', {'normalizer': SinkSoftmax()}),
    ('dropout_attention', {'dropout_attention': 0.1}),
    ('mask', {'mask': (Causal(), ExcludeSelf())}),
    ('mask', {'mask': (Causal(), Segments())}),
    ('mask', {'mask': (Prefix(3),)}),
    ('mask', {'mask': (Window(3),)}),
    ('backend', {'output': (Differential(),)}),
    ('backend', {'projections': Mla(8, 2, 3)}),
    ('dtype', {'dtype': 'float32'}),
    ('head_dim', {'head_dim': 12}),
    ('head_dim', {'head_dim': 136}),
  ],
)
def test_what_kernels_cannot_serve_is_refused(
  flag: str, change: dict[str, Any]
) -> None:
  with pytest.raises(FieldError, match=f'^--{flag}=.*try --backend=reference'):
    dataclasses.replace(PLAIN, **change)
  # Widths and types are cuDNN's limits.
  tokamax = functools.partial(
    dataclasses.replace, PLAIN, backend=Tokamax(), **change
  )
  if flag in ('backend', 'dtype', 'head_dim'):
    assert tokamax().backend == Tokamax()
  else:
    with pytest.raises(FieldError, match=f'^--{flag}=.*--backend=tokamax'):
      tokamax()


# Where they run. --------------------------------------------------------------


@pytest.fixture
def _no_tokamax(monkeypatch: pytest.MonkeyPatch) -> None:
  find = importlib.util.find_spec
  monkeypatch.setattr(
    importlib.util,
    'find_spec',
    lambda name, *rest: None if name == 'tokamax' else find(name, *rest),
  )


HALF = ('--dtype=bfloat16', '--position=rope')


@pytest.mark.usefixtures('_no_tokamax')
@pytest.mark.parametrize(
  ('arguments', 'said'),
  [
    (
      ('--backend=cudnn', *HALF, '--ablate=scale=none'),
      '--backend=cudnn: needs an NVIDIA GPU, and this is a cpu: try '
      '--backend=auto',
    ),
    (
      (*HALF, '--ablate=backend=cudnn'),
      '--backend=cudnn: needs an NVIDIA GPU, and this is a cpu: try '
      '--backend=auto',
    ),
    (
      ('--backend=tokamax', '--ablate=scale=none'),
      '--backend=tokamax: needs tokamax: pip install -r '
      'requirements-tokamax.txt: try --backend=auto',
    ),
  ],
)
def test_what_a_machine_lacks_is_said_before_anything_is_made(
  arguments: tuple[str, ...],
  said: str,
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  monkeypatch.chdir(tmp_path)
  assert run(*arguments) == 2
  assert capsys.readouterr().err == f'launch.py: {said}\n'
  assert not list(tmp_path.iterdir())


def test_loaded_trials_run_on_machines_without_their_backend() -> None:
  config = Config(architecture=PLAIN)
  assert with_available_backend(config, 'gpu') == config
  assert with_available_backend(config, 'cpu') == Config(
    architecture=dataclasses.replace(PLAIN, backend=AutoBackend())
  )


CPU = types.SimpleNamespace(platform='cpu')


def card(capability: str, version: str) -> Any:
  """Returns what of a GPU decides which kernels it has."""
  client = types.SimpleNamespace(platform_version=version)
  return types.SimpleNamespace(
    platform='gpu', client=client, compute_capability=capability
  )


CARD = card('9.0', 'PJRT C API cuda 12090')


@pytest.mark.parametrize(
  ('device', 'change', 'length', 'wanted'),
  [
    (CARD, {}, KERNEL_LENGTH, Cudnn()),
    (CARD, {'mask': (Causal(), Window(3))}, LONG, Cudnn()),
    (CARD, {'num_kv_heads': 2}, LONG, Cudnn()),
    (CARD, {'backend': Reference()}, LONG, Reference()),
    (CARD, {}, KERNEL_LENGTH - 1, Reference()),
    (CARD, {'dtype': 'float32'}, LONG, Chunked()),
    (CARD, {'dtype': 'float32'}, KERNEL_LENGTH, Reference()),
    (CARD, {'head_dim': 136}, LONG, Chunked()),
    (CARD, {'mask': (Causal(), Segments())}, LONG, Chunked()),
    (CARD, {'mask': (Full(), Window(3))[1:]}, LONG, Chunked()),
    (CARD, {'position': Alibi()}, LONG, Chunked()),
    (CARD, {'dropout_attention': 0.1}, LONG, Reference()),
    (CARD, {'output': (TalkingHeads(),)}, LONG, Reference()),
    (card('7.5', 'PJRT C API cuda 12090'), {}, LONG, Chunked()),
    (card('9.4', 'PJRT C API rocm 70000'), {}, LONG, Chunked()),
    (CPU, {}, LONG, Chunked()),
    (CPU, {}, LONG - 1, Reference()),
  ],
  ids=str,
)
def test_auto_takes_the_fastest_that_serves(
  device: Any, change: dict[str, Any], length: int, wanted: BackendBase
) -> None:
  own = dataclasses.replace(PLAIN, backend=AutoBackend())
  own = dataclasses.replace(own, **change)
  platform = kernel_platform(device)
  best = own.backend.resolved(own.parts, length, platform)
  assert best.backend == wanted
  assert best.why


def test_cudnn_is_called_in_lanes(monkeypatch: pytest.MonkeyPatch) -> None:
  """What JAX checks before it compiles, which needs no GPU."""
  for check, found in (
    ('check_cudnn_version', 91000),
    ('check_compute_capability', True),
    ('is_cuda_compute_capability_equal', False),
  ):
    monkeypatch.setattr(cudnn_checks, check, lambda *_, found=found: found)
  for served in SERVED:
    arch = dataclasses.replace(served, head_dim=64)
    params = transformer.init(arch, arch.dims(LENGTH, 7), jax.random.key(0))
    lanes = jax.tree.map(lambda p: jnp.stack([p, p]), params)
    run = functools.partial(logits_and_gradient, arch, LENGTH)
    assert 'dot_product_attention' in str(jax.make_jaxpr(jax.vmap(run))(lanes))


@pytest.mark.usefixtures('_no_tokamax')
def test_the_choice_is_said() -> None:
  changes = {'d_model': '64', 'num_heads': '4', 'seq_len': '8'}
  rows = [
    Row('base', {}),
    Row('talking', {'seq_len': '1024', 'output': 'talking_heads'}),
    Row('long', {'seq_len': '1024', 'dtype': 'bfloat16'}),
    Row('asked', {'backend': 'chunked'}),
  ]
  base = override(Config(), changes)
  rows.append(
    Row(
      'layers',
      {
        'seq_len': '1024',
        'position': 'rope',
        'pattern': 'mask=causal;output=talking_heads',
      },
    )
  )
  assert attention.backends(base, rows, CPU) == {
    'base': 'reference',
    'talking': 'reference',
    'long': 'chunked',
    'asked': 'chunked',
    'layers': 'chunked+reference',
  }
  assert attention.describe_backends(base, rows[:3], CPU) == (
    'reference (auto: fewer than 1,024 positions); '
    'reference (auto: nothing else serves): talking; '
    'chunked (auto: at least 1,024 positions): long'
  )
  assert attention.describe_backends(base, rows[2:4], CARD) == (
    'cudnn (auto: a fused kernel serves); chunked: asked'
  )
  short = override(base, {'dtype': 'bfloat16'})
  assert attention.describe_backends(short, rows[:1], CARD) == (
    'reference (auto: fewer than 1,024 positions) '
    '(would serve too: --backend=cudnn)'
  )


# Where they can be run. -------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize('lanes', [False, True], ids=['alone', 'vmap'])
@served
def test_cudnn_equals_the_reference(arch: Architecture, lanes: bool) -> None:
  """Logits and gradients, by lanes of `vmap` too, at a size kernels are for."""
  if jax.default_backend() != 'gpu':
    pytest.skip('JAX finds no GPU')
  assert_kernel_equals_reference(
    dataclasses.replace(arch, head_dim=64), 256, lanes
  )


@pytest.mark.skipif(
  importlib.util.find_spec('tokamax') is None,
  reason='tokamax is not installed: pip install -r requirements-tokamax.txt',
)
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@served
def test_tokamax_equals_the_reference(arch: Architecture, dtype: str) -> None:
  own = dataclasses.replace(arch, backend=Tokamax(), dtype=dtype)
  assert_kernel_equals_reference(own, LENGTH, False)


def assert_kernel_equals_reference(
  arch: Architecture, length: int, lanes: bool
) -> None:
  """Fails unless logits and gradients are near those of the reference."""
  params = transformer.init(arch, arch.dims(length, 7), jax.random.key(0))
  if lanes:
    params = jax.tree.map(lambda p: jnp.stack([p, p + 0.01]), params)

  def by(backend: BackendBase) -> tuple[jax.Array, Any]:
    own = dataclasses.replace(arch, backend=backend)
    run = functools.partial(logits_and_gradient, own, length)
    return jax.jit(jax.vmap(run) if lanes else run)(params)

  got, gradient = by(arch.backend)
  wanted, wanted_gradient = by(Reference())
  dtype = jnp.dtype(arch.dtype)
  bound = tolerance(dtype, length, 16.0)
  largest = np.abs(wanted).max()
  np.testing.assert_allclose(got, wanted, rtol=0, atol=bound * largest)
  largest = max(np.abs(g).max() for g in jax.tree.leaves(wanted_gradient))
  for path, value in flatten(gradient).items():
    np.testing.assert_allclose(
      value,
      flatten(wanted_gradient)[path],
      rtol=0,
      atol=bound * largest,
      err_msg=path,
    )
