"""What holds for every configuration that is accepted, whatever is chosen.

`check` runs one configuration: one program for all that the model computes, in
float64 where the configuration says float32, and two for its training.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model import cache, transformer
from model.architecture.architecture import Architecture
from model.attention.mask import Prefix
from model.attention.normalizers.sparse import Hard, Sparsemax
from model.attention.outputs.mixtures import ExclusiveSelf
from model.attention.projections.base import Raw, SharedQk, SharedQkv
from model.attention.qk_norm import L2QkNorm
from model.attention.scores.base import L2
from model.backends.base import Chunked, Reference
from model.core.field import FieldError, bind
from model.core.inputs import ModelInputs, Source
from model.core.parameter import ParamRole, Params
from spec.conformance import Row, configured
from spec.effects import check_effects
from spec.families import data_of, packed
from spec.sight import check_influence
from spec.subject import (
  CHAIN,
  EXAMPLE,
  KNOWN,
  Inputs,
  applied,
  dims_of,
  drawn,
  initial,
  inputs,
)
from spec.tolerance import tolerance
from train.config.config import Config
from train.core.trees import flatten
from train.devices.parallel import parse_layout
from train.programs.batches import batch_of
from train.programs.signature import signature
from train.programs.state import TrainState, init_state
from train.programs.step import StepMetrics, train_step

STARTS = 3  # initial values that are tried


class Found(NamedTuple):
  """What the model computes, in one program.

  Attributes:
    logits_BTV: as configured.
    other_BTV: computed another way.
    steps_BTV: position by position, from a cache; none if there can be none.
    influence_TV: on a probe of each output, of each row of the embedding.
    gradient: of a probe of all logits.
    other: the same, computed the other way.
  """

  logits_BTV: Any
  other_BTV: Any
  steps_BTV: Any
  influence_TV: Any
  gradient: Params
  other: Params


def check(row: Row) -> None:
  """Asserts all that follows of one row of a covering array.

  What compiles quickly is now and then wrong (in float64 a gradient of 0, where
  the emitters that XLA has by default give another): then only those count.
  """
  try:
    _check(row, _quick)
  except AssertionError:
    _check(row, jax.jit)


Compile = Callable[[Callable[..., Any]], Callable[..., Any]]


def _check(row: Row, compile: Compile) -> None:
  config = configured(row, packed)
  arch = config.architecture
  start = initial(config)
  with jax.enable_x64(arch.dtype == 'float32'):
    run = compile(functools.partial(_found, config))
    params = _wide(drawn(config))
    found = run(params, inputs(config))
    moved = run(params, inputs(config, turned=True))
    nudged = run(_nudged(params), inputs(config))
    if not sees_itself(arch) and not saturates(arch):
      others = (initial(config, seed) for seed in range(1, STARTS))
      starts = itertools.chain([start], others)
      check_learning(
        arch, (run(_wide(one), inputs(config)).gradient for one in starts)
      )
  check_influence(arch, np.abs(np.asarray(found.influence_TV, np.float64)))
  slack = _rounding(arch, found, nudged)
  near(moved.logits_BTV[1], found.logits_BTV[EXAMPLE], 'batch', slack=slack)
  near(found.other_BTV, found.logits_BTV, 'another way', slack=slack)
  check_other(config, found.other, found.gradient, nudged.gradient)
  if found.steps_BTV is not None:
    near(found.steps_BTV, found.logits_BTV, 'cached', slack=slack)
  check_finite(found.gradient)
  check_lanes(config, start, compile)
  check_effects(row)


@functools.cache
def _options() -> dict[str, bool]:
  """Returns what halves the time of compilation, where XLA still has it."""
  options = {'xla_cpu_use_fusion_emitters': False}
  try:
    jax.jit(lambda x: x + 1, compiler_options=options)(0)
  except jax.errors.JaxRuntimeError:
    return {}
  return options


def _quick(function: Callable[..., Any]) -> Callable[..., Any]:
  """Returns the function compiled, for one run on a CPU."""
  return jax.jit(function, compiler_options=_options())


# The model. -------------------------------------------------------------------


def _wide(params: Any) -> Any:
  """Returns parameters in float64 if that is enabled, else in float32."""
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), params)


def _nudged(params: Any) -> Any:
  """Returns parameters of which each is one rounding, or half of one, off."""
  rng = np.random.default_rng(2)

  def nudge(x: jax.Array) -> jax.Array:
    signs = rng.choice([-1.0, 1.0], x.shape)
    return x * (1.0 + jnp.finfo(x.dtype).eps * signs).astype(x.dtype)

  return jax.tree.map(nudge, params)


def other_way(arch: Architecture) -> Architecture:
  """Returns an architecture that computes the same in other ways."""
  turned = dataclasses.replace(
    arch, remat=not arch.remat, scan_layers=not arch.scan_layers
  )
  if isinstance(arch.backend, Chunked):
    return dataclasses.replace(turned, backend=Reference())
  try:
    return dataclasses.replace(turned, backend=Chunked(chunk=3))
  except FieldError:
    return dataclasses.replace(turned, backend=Reference())


def _found(config: Config, params: Any, given: Inputs) -> Found:
  arch = config.architecture
  other = dataclasses.replace(config, architecture=other_way(arch))
  logits_BTV, back = jax.vjp(lambda p: applied(config, p, given), params)
  other_BTV, other_back = jax.vjp(lambda p: applied(other, p, given), params)
  rng = np.random.default_rng(1)
  probe_BTV = rng.standard_normal(logits_BTV.shape).astype(logits_BTV.dtype)
  free_V = np.ones(probe_BTV.shape[-1])
  if not arch.model.traits.has_classes:
    # With tied embeddings a logit depends on its own row without attention:
    # only those count that no token of an example stands for.
    free_V = np.arange(free_V.size) >= KNOWN
  probes = [np.zeros_like(probe_BTV) for _ in range(probe_BTV.shape[1])]
  for t, one_BTV in enumerate(probes):
    one_BTV[EXAMPLE, t] = probe_BTV[EXAMPLE, t] * free_V
  (gradients,) = jax.vmap(back)(jnp.stack([*probes, probe_BTV]))
  influence_TVD = gradients['embedding']['token'][:-1]
  (other_gradient,) = other_back(jnp.asarray(probe_BTV))
  return Found(
    logits_BTV=logits_BTV,
    other_BTV=other_BTV,
    steps_BTV=_stepped(config, params, given),
    influence_TV=jnp.abs(influence_TVD).sum(-1),
    gradient=jax.tree.map(lambda g: g[-1], gradients),
    other=other_gradient,
  )


def _stepped(config: Config, params: Any, given: Inputs) -> jax.Array | None:
  """Returns logits_BTV from a prompt and then position by position."""
  arch, dims = config.architecture, dims_of(config)
  prompt = max(
    [mask.prefix for mask in arch.masks if isinstance(mask, Prefix)], default=1
  )
  if cache.decoding_problem(arch, prompt) is not None:
    return None
  if prompt > 1 and any(mask.traits.separates for mask in arch.masks):
    return None  # each document has a prefix, to be read in one step
  reads_segments = any(mask.traits.reads_segments for mask in arch.masks)
  batch, length = given.tokens_BT.shape

  def step(
    kept: cache.Cache, some: Any, source: Source | None = None
  ) -> tuple[cache.Cache, jax.Array]:
    some_BT, some_segments_BT = some
    out, kept = transformer.decode_step(
      arch,
      dims,
      params,
      ModelInputs(
        some_BT, some_segments_BT if reads_segments else None, source
      ),
      kept,
    )
    return kept, out.logits_BTV

  wide = jnp.result_type(float)
  kept = jax.tree.map(
    lambda x: (
      x.astype(wide) if wide == jnp.float64 and x.dtype == jnp.float32 else x
    ),
    cache.empty(arch, dims, batch, length + 2, prompt),
  )
  both = given.tokens_BT, given.segments_BT
  front = jax.tree.map(lambda x_BT: x_BT[:, :prompt], both)
  rest = jax.tree.map(lambda x_BT: x_BT[:, prompt:].T[:, :, None], both)
  kept, first_BTV = step(kept, front, given.source)
  _, rest_TB1V = jax.lax.scan(step, kept, rest)
  rest_BTV = jnp.moveaxis(rest_TB1V[:, :, 0], 0, 1)
  return jnp.concatenate([first_BTV, rest_BTV], 1)


# What is asserted of it. ------------------------------------------------------


def near(
  actual: Any,
  expected: Any,
  what: str,
  scale: float | None = None,
  slack: float = 0.0,
) -> None:
  """Asserts that arrays agree to rounding, relative to the largest.

  Args:
    actual: one of them.
    expected: the other.
    what: is compared.
    scale: the largest, where it is not in `expected`.
    slack: what one rounding of all that is given changes.
  """
  got, want = np.asarray(actual), np.asarray(expected)
  dtype = np.float64 if want.dtype == np.float64 else jnp.bfloat16
  largest = np.abs(want).max() if scale is None else scale
  np.testing.assert_allclose(
    np.float64(got),
    np.float64(want),
    rtol=0,
    atol=4.0 * slack
    + largest * tolerance(dtype, 24, CHAIN if dtype == np.float64 else 16.0),
    err_msg=what,
  )


def _rounding(arch: Architecture, found: Found, nudged: Found) -> float:
  """Returns how much one rounding of each parameter changes a logit.

  Attention that leaves out a position's own value gives the first one 0; with
  no residual stream, experts are then chosen by the rounding of 0.
  """
  if arch.dtype != 'float32':
    return 0.0  # there a rounding is as large as the tolerance
  return float(np.abs(nudged.logits_BTV - found.logits_BTV).max())


def _largest(params: Any) -> float:
  return max(float(np.abs(g).max()) for g in jax.tree.leaves(params))


def check_other(
  config: Config, other: Params, gradient: Params, nudged: Params
) -> None:
  """Asserts that gradients computed in two ways agree.

  Some are ill-conditioned, such as those of linear attention without scale: one
  rounding of each parameter, by which `nudged` differs, changes them by more
  than the tolerance of a chain of sums, and so may roundings on the way.

  In bfloat16 as a whole: a unit of a ReLU near 0 may be on in the one and off
  in the other, which changes a part of the gradient by more than rounding.
  """
  if config.architecture.dtype == 'float32':
    slack = _largest(jax.tree.map(lambda x, y: x - y, nudged, gradient))
    for path, value in flatten(other).items():
      near(value, flatten(gradient)[path], path, _largest(gradient), slack)
    return
  got, want = (
    np.concatenate([np.ravel(np.float64(g)) for g in flatten(found).values()])
    for found in (other, gradient)
  )
  bound = tolerance(jnp.bfloat16, 24, 16.0) * np.linalg.norm(want)
  assert np.linalg.norm(got - want) <= bound, 'another way'


def sees_itself(arch: Architecture) -> bool:
  """Returns whether attention gives a position its own value, and loses that.

  Where queries are keys, the nearest is the position itself.
  """
  return (
    isinstance(arch.score, L2)
    and isinstance(arch.normalizer, Hard)
    and isinstance(arch.projections, SharedQk | SharedQkv | Raw)
    and any(isinstance(output, ExclusiveSelf) for output in arch.output)
  )


def saturates(arch: Architecture) -> bool:
  """Returns whether one key begins with all the weight, which has no slope.

  Distances of unit vectors times the 10 that the scale of the norm begins with
  differ by more than the 1 from which on sparsemax leaves a key nothing.
  """
  return (
    isinstance(arch.qk_norm, L2QkNorm)
    and isinstance(arch.score, L2)
    and isinstance(arch.normalizer, Sparsemax)
  )


def check_finite(gradient: Params) -> None:
  """Asserts that no gradient is infinite; far out a cap may leave none."""
  for path, value in flatten(gradient).items():
    assert np.isfinite(np.asarray(value, np.float64)).all(), path


def check_learning(arch: Architecture, gradients: Iterator[Params]) -> None:
  """Asserts that every parameter of every layer learns from the beginning.

  Of one of a few: where the normaliser is a ReLU and few keys are seen, a head
  may begin with no score above 0.
  """
  never = None
  for gradient in gradients:
    check_finite(gradient)
    idle = set(_idle(arch, gradient))
    never = idle if never is None else never & idle
    if not never:
      return
  raise AssertionError(f'no gradient in these layers: {sorted(never or ())}')


def _idle(arch: Architecture, gradient: Params) -> Iterator[tuple[str, int]]:
  """Yields parameters without a gradient, and of which layer."""
  table = arch.parameter_table(arch.dims(seq_len=1, vocab_size=1))
  for path, value in flatten(gradient).items():
    if table[path].role is ParamRole.STATE:
      continue
    layers = np.asarray(value, np.float64)
    if arch.depth(path) is None:
      layers = layers[None]
    for n, layer in enumerate(layers):
      if not layer.any():
        yield path, n


# Training. --------------------------------------------------------------------


Step = tuple[TrainState, StepMetrics]


def _near_steps(got: Step, want: Step, bound: float) -> bool:
  """Returns whether loss and parameters of two steps agree to rounding."""
  (state, metrics), (known, known_metrics) = got, want
  return np.allclose(
    metrics.loss, known_metrics.loss, rtol=bound, atol=0.0
  ) and all(
    np.allclose(value, flatten(known.params)[path], rtol=0.0, atol=bound)
    for path, value in flatten(state.params).items()
  )


def check_lanes(config: Config, params: Params, compile: Compile) -> None:
  """Asserts that two trials by `vmap` are each as they are alone.

  Of a step, which is all that depends on the choices; what layouts do with
  steps is the subject of `test_lanes.py`.

  A few rows are ill-conditioned, such as those whose attention gives the first
  position 0, of which norms without a residual stream enlarge the rounding a
  thousandfold at each layer.  If one rounding of each parameter changes a trial
  alone by more than the tolerance, lanes may as well.
  """
  layout = parse_layout('shared:1', jax.local_devices(backend='cpu'))
  both = [config, dataclasses.replace(config, seed=7)]
  data = data_of(config.task)
  sig, _ = signature(config, data, layout)
  values = [signature(one, data, layout)[1] for one in both]
  arrays = jax.tree.map(jnp.asarray, dict(data.arrays))

  def step(values: Mapping[str, jax.Array], params: Params) -> Step:
    own = bind(sig.static, values)
    state = init_state(own, sig.dims, params)
    batch = batch_of(own, arrays, state.step)
    return train_step(own, sig.dims, state, batch, None)

  solo = compile(step)
  alone = [solo(own, params) for own in values]
  stacked = jax.tree.map(lambda *x: np.stack(x), *values)
  lanes = compile(jax.vmap(step, in_axes=(0, None)))(stacked, params)
  bound = tolerance(jnp.dtype(config.architecture.dtype), 24, 16.0)
  for n, known in enumerate(alone):
    mine = jax.tree.map(lambda x, n=n: x[n], lanes)
    assert int(mine[0].diverged) == int(known[0].diverged) == -1
    assert np.isfinite(known[1].loss)
    if not _near_steps(mine, known, bound):
      nudged = solo(values[n], _nudged(params))
      assert not _near_steps(nudged, known, bound), 'as one alone'
  assert any(
    (x != y).any()
    for x, y in zip(
      *(jax.tree.leaves(state.params) for state, _ in alone), strict=True
    )
  )
