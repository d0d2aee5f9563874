"""The training step and its program, on tiny shapes."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.courses import (
  EVERYTHING,
  STEPS,
  TINY,
  assert_same_bits,
  assert_same_course,
  config,
  course,
  cpus,
  data,
)
from session.compilations import Compilations
from spec.tolerance import tolerance
from train.devices.parallel import SharedLayout, to_host
from train.files.durable import digest
from train.programs import program as programs
from train.programs import signature as signatures
from train.programs.state import init_state

# Shared and micro-batches. ---------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
  'flags',
  [
    pytest.param(TINY, id='plain'),
    pytest.param(EVERYTHING, id='all', marks=pytest.mark.slow),
  ],
)
def test_eight_devices_equal_one(flags: dict[str, str]) -> None:
  one, eight = course(config(flags)), course(config(flags), cpus(8))
  assert_same_course(eight, one)
  if 'clip' in flags:
    assert one.metrics.grad_norm.min() > float(flags['clip'])
  assert one.metrics.loss[-1] < one.metrics.loss[0]


@pytest.mark.slow
def test_micro_batches_equal_the_full_batch() -> None:
  parts = course(config(EVERYTHING | {'microbatches': '4'}))
  assert_same_course(parts, course(config(EVERYTHING)))


@pytest.mark.slow
def test_micro_batches_on_devices_equal_the_full_batch() -> None:
  parts = course(config(EVERYTHING | {'microbatches': '2'}), cpus(4))
  assert_same_course(parts, course(config(EVERYTHING)))


@pytest.mark.slow
def test_dropout_is_on_in_training() -> None:
  # Else the courses above would agree for the wrong reason.
  rates = [k for k in EVERYTHING if 'dropout' in k]
  changed = EVERYTHING | dict.fromkeys(rates, '0.5')
  a, b = course(config(EVERYTHING)), course(config(changed))
  assert not np.isclose(a.metrics.loss[0], b.metrics.loss[0], rtol=1e-3)


@pytest.mark.slow
def test_replicas_agree() -> None:
  devices = cpus(8)
  sig, values = signatures.signature(config(EVERYTHING), data(), devices)
  state, _ = programs.get_program(sig).chunk(
    devices.place(to_host(init_state(config(EVERYTHING), sig.dims))),
    devices.place(values),
    devices.place(dict(data().arrays)),
    np.int32(STEPS),
  )
  # pmap trusts out_axes=None: it returns what device 0 holds.
  for leaf in jax.tree.leaves(state):
    copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
    assert len(copies) == 8
    for copy in copies[1:]:
      assert_same_bits(copy, copies[0])


# Compilation. -----------------------------------------------------------------


def _calls(
  make: Callable[[], programs.Program], devices: SharedLayout, seed: int
) -> int:
  """Calls a program with chunks of five lengths; returns the last step."""
  made = config(TINY | {'seed': str(seed), 'learning_rate': f'0.0{seed + 1}'})
  sig, values = signatures.signature(made, data(), devices)
  state = devices.place(to_host(init_state(made, sig.dims)))
  placed = devices.place(values), devices.place(dict(data().arrays))
  chunk = make().chunk
  for stop in (0, 1, 2, 5, 5, 12):
    state, metrics = chunk(state, *placed, np.int32(stop))
    to_host(metrics)
  return int(to_host(state.step))


@pytest.mark.slow
@pytest.mark.parametrize('count', [1, 8])
def test_one_compilation_for_all_chunks_and_numbers(
  count: int, compiled: Compilations
) -> None:
  devices = cpus(count)
  sig, _ = signatures.signature(config(TINY), data(), devices)
  # A program of its own: another test may have compiled the shared one.
  own = programs.get_program.__wrapped__(sig)
  init_state(config(TINY), sig.dims)  # compiles what draws the parameters
  compiled.listener.reset_mock()
  assert _calls(lambda: own, devices, seed=0) == 12
  assert len(compiled.names) == 1, compiled.names
  assert _calls(lambda: own, devices, seed=1) == 12
  assert len(compiled.names) == 1, compiled.names


# Bits. ------------------------------------------------------------------------


@pytest.mark.slow
def test_chunk_length_does_not_change_a_bit() -> None:
  whole = course(config(TINY))
  assert_same_bits(course(config(TINY), stops=range(1, STEPS + 1)), whole)
  assert_same_bits(course(config(TINY), stops=(3, 3, 7, STEPS)), whole)


@pytest.mark.slow
def test_same_seed_same_bits() -> None:
  first = course(config(EVERYTHING))
  assert_same_bits(course(config(EVERYTHING), fresh=True), first)
  other = course(config(EVERYTHING | {'seed': '1'}))
  assert digest(other.state.params) != digest(first.state.params)
  assert other.metrics.loss[0] != first.metrics.loss[0]


# On an accelerator: ABLAX_TEST_PLATFORM=cuda,cpu pytest -m gpu. ---------------


@pytest.mark.gpu
@pytest.mark.parametrize('flags', [TINY, EVERYTHING], ids=['plain', 'all'])
def test_accelerators_equal_a_cpu(
  flags: dict[str, str], accelerator: SharedLayout
) -> None:
  found = course(config(flags | {'batch_size': '16'}), accelerator)
  # Products on an accelerator may round to 11 bits (TF32).
  known = course(config(flags | {'batch_size': '16'}))
  near = tolerance(jnp.float16, 16)
  np.testing.assert_allclose(found.metrics.loss, known.metrics.loss, near)
  np.testing.assert_allclose(
    found.metrics.grad_norm, known.metrics.grad_norm, 8 * near
  )


@pytest.mark.gpu
def test_accelerator_chunk_length_and_seed_keep_every_bit(
  accelerator: SharedLayout,
) -> None:
  devices = SharedLayout(accelerator.devices[:1])
  whole = course(config(EVERYTHING), devices)
  steps = range(1, STEPS + 1)
  assert_same_bits(course(config(EVERYTHING), devices, stops=steps), whole)
  assert_same_bits(course(config(EVERYTHING), devices, fresh=True), whole)


@pytest.mark.gpu
def test_accelerator_compiles_once(
  accelerator: SharedLayout, compiled: Compilations
) -> None:
  sig, _ = signatures.signature(config(TINY), data(), accelerator)
  own = programs.get_program.__wrapped__(sig)
  init_state(config(TINY), sig.dims)
  compiled.listener.reset_mock()
  for seed in (0, 1):
    assert _calls(lambda: own, accelerator, seed) == 12
  assert len(compiled.names) == 1, compiled.names


@pytest.mark.gpu
def test_bfloat16_trains_like_float32(accelerator: SharedLayout) -> None:
  devices = SharedLayout(accelerator.devices[:1])
  assert_bfloat16_is_near(devices)


@pytest.mark.slow
def test_bfloat16_trains_like_float32_on_a_cpu() -> None:
  assert_bfloat16_is_near(cpus(1))


def assert_bfloat16_is_near(devices: SharedLayout) -> None:
  full = course(config(TINY), devices, stops=(40,))
  half = course(config(TINY | {'dtype': 'bfloat16'}), devices, stops=(40,))
  assert {x.dtype.name for x in jax.tree.leaves(half.state.params)} == {
    'float32'
  }
  near = tolerance(jnp.bfloat16, 16)
  np.testing.assert_allclose(half.metrics.loss, full.metrics.loss, near)
  assert not np.array_equal(half.metrics.loss, full.metrics.loss)
  assert full.metrics.loss[-1] < (1 - near) * full.metrics.loss[0]


# Losses that are not finite. --------------------------------------------------


@pytest.mark.slow
def test_not_finite_stops_the_trial_where_it_was() -> None:
  made = config(TINY | {'learning_rate': '1e25'})
  end = course(made, stops=(3, STEPS))
  loss_X, norm_X = end.metrics.loss, end.metrics.grad_norm
  finite_X = np.isfinite(loss_X) & np.isfinite(norm_X)
  at = int(np.argmin(finite_X))
  assert 0 < at < STEPS
  assert finite_X[:at].all()
  assert int(end.state.diverged) == at
  assert int(end.state.step) == STEPS
  before = course(made, stops=(at,))
  assert int(before.state.diverged) == -1
  assert_same_bits(end.state.params, before.state.params)
  assert_same_bits(end.state.opt_state, before.state.opt_state)


@pytest.mark.parametrize('bad', [math.nan, math.inf])
def test_not_finite_from_the_start_changes_nothing(bad: float) -> None:
  made = config(TINY)
  params = to_host(init_state(made, made.dims(24)).params)
  table = params['position']['table'].copy()
  table[3, 5] = bad
  params = params | {'position': {'table': table}}
  end = course(made, params=params)
  assert int(end.state.diverged) == 0
  assert_same_bits(end.state.params, params)


def test_a_gradient_alone_that_is_not_finite_stops_it_too() -> None:
  made = config(TINY)
  params = to_host(init_state(made, made.dims(24)).params)
  # Logits of 1e19 give a loss of 1e19, and squares of gradients overflow.
  params = params | {'norm_final': {'scale': np.full(16, 1e20, np.float32)}}
  end = course(made, params=params)
  assert np.isfinite(end.metrics.loss[0])
  assert not np.isfinite(end.metrics.grad_norm[0])
  assert int(end.state.diverged) == 0
  assert_same_bits(end.state.params, params)
