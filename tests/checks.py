"""What holds for every configuration that is accepted, whatever is chosen.

`check` runs one configuration: one program for all that the model computes, in
float64 where the configuration says float32, and two for its training.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from conformance import Choice, Row, axes, configured, usual
from families import data_of
from model import cache, transformer
from model.architecture import Architecture
from model.backend import Auto, Chunked, Reference
from model.family import Classifier
from model.field import FieldError, Variant, bind
from model.mask import Mask, Places, Prefix, allowed
from model.network import Source
from model.output import ExclusiveSelf
from model.parameter import Dims
from model.projections import Raw, SharedQk, SharedQkv
from model.qk_norm import L2QkNorm
from model.score import L2
from model.sparse import Hard, Sparsemax
from tolerance import tolerance
from train.config import Config
from train.optimizer import flat, tree
from train.parallel import parse_layout
from train.program import signature
from train.step import Metrics, Params, State, batch_of, init_state, update

# All tokens of an example differ, so that a row of the embedding is one input.
TOKENS_BT = np.array([[0, 1, 2, 3, 4, 5, 6, 7], [9, 9, 8, 1, 0, 3, 3, 2]])
OTHER_BT = np.array([[5, 4, 4, 4, 2, 1, 1, 0], [0, 1, 2, 3, 4, 5, 6, 7]])
SEGMENTS_BT = np.array([[1, 1, 1, 2, 2, 2, 2, 0], [1] * 8])
EXAMPLE = 0  # of TOKENS_BT, and 1 of OTHER_BT
# What an encoder-decoder reads first; its tokens differ from those above.
SOURCE_BS = np.array([[10, 11, 12, 13, 14, 15], [16, 16, 10, 10, 16, 16]])
OTHER_BS = np.array([[11, 10, 16, 16, 12, 12], [10, 11, 12, 13, 14, 15]])
SOURCE_SEGMENTS_BS = np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]])
KNOWN = 17  # tokens; no others are in an example
# Rounding of a chain of some 20 sums a block, each relative to the largest.
CHAIN = 4.0 * 72


class Inputs(NamedTuple):
  """What a model is given; segments where its task gives them."""

  tokens_BT: Any
  segments_BT: Any
  source: Source | None


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
  config = configured(row)
  arch = config.architecture
  initial = _initial(config)
  with jax.enable_x64(arch.dtype == 'float32'):
    run = compile(functools.partial(_found, config))
    drawn = _wide(_drawn(config))
    found = run(drawn, inputs(config))
    moved = run(drawn, inputs(config, turned=True))
    first = run(_wide(initial), inputs(config))
  check_influence(arch, np.abs(np.asarray(found.influence_TV, np.float64)))
  near(moved.logits_BTV[1], found.logits_BTV[EXAMPLE], 'batch')
  near(found.other_BTV, found.logits_BTV, 'another way')
  check_other(config, found.other, found.gradient)
  if found.steps_BTV is not None:
    near(found.steps_BTV, found.logits_BTV, 'cached')
  check_finite(found.gradient)
  if not sees_itself(arch) and not saturates(arch):
    check_gradient(arch, first.gradient)
  check_lanes(config, initial, compile)
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


def inputs(config: Config, turned: bool = False) -> Inputs:
  """Returns two examples; turned, the first is second, beside another."""
  order = slice(None, None, -1 if turned else 1)
  tokens_BT = OTHER_BT if turned else TOKENS_BT
  if not config.architecture.model.has_source:
    return Inputs(tokens_BT, SEGMENTS_BT[order], None)
  source_BS = OTHER_BS if turned else SOURCE_BS
  return Inputs(tokens_BT, None, Source(source_BS, SOURCE_SEGMENTS_BS[order]))


def dims_of(config: Config) -> Dims:
  return config.sizes(data_of(config.task).vocabulary)


def _shapes(config: Config) -> dict[str, tuple[int, ...]]:
  """Returns the shape of each parameter, layers along a first axis."""
  arch = config.architecture
  return {
    path: (depth, *what.shape) if (depth := arch.depth(path)) else what.shape
    for path, what in arch.parameter_table(dims_of(config)).items()
  }


def _drawn(config: Config) -> Any:
  """Returns normal numbers for all parameters, biases and gains too."""
  rng = np.random.default_rng(0)
  return tree(
    {p: rng.standard_normal(s) / 2 for p, s in _shapes(config).items()}
  )


def _initial(config: Config) -> Any:
  """Returns the parameters that training begins with."""
  start = functools.partial(
    transformer.init, config.architecture, dims_of(config)
  )
  # Keys of this kind compile faster; copies, since training gives them up.
  made = jax.jit(start)(jax.random.key(0, impl='unsafe_rbg'))
  return jax.tree.map(np.array, made)


def _wide(params: Any) -> Any:
  """Returns parameters in float64 if that is enabled, else in float32."""
  return jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(float)), params)


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


def _applied(
  config: Config, params: Any, given: Inputs, keys_B: jax.Array | None = None
) -> jax.Array:
  """Returns logits_BTV."""
  return transformer.apply(
    config.architecture,
    dims_of(config),
    params,
    given.tokens_BT,
    keys_B,
    segments_BT=given.segments_BT,
    source=given.source,
  ).logits_BTV


def _found(config: Config, params: Any, given: Inputs) -> Found:
  arch = config.architecture
  other = dataclasses.replace(config, architecture=other_way(arch))
  logits_BTV, back = jax.vjp(lambda p: _applied(config, p, given), params)
  other_BTV, other_back = jax.vjp(lambda p: _applied(other, p, given), params)
  rng = np.random.default_rng(1)
  probe_BTV = rng.standard_normal(logits_BTV.shape).astype(logits_BTV.dtype)
  free_V = np.ones(probe_BTV.shape[-1])
  if not arch.model.has_classes:
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
  if cache.uncacheable(arch, prompt) is not None:
    return None
  reads_segments = any(mask.reads_segments for mask in arch.masks)
  batch, length = given.tokens_BT.shape

  def step(
    kept: cache.Cache, some: Any, source: Source | None = None
  ) -> tuple[cache.Cache, jax.Array]:
    some_BT, some_segments_BT = some
    out, kept = transformer.step(
      arch,
      dims,
      params,
      some_BT,
      kept,
      some_segments_BT if reads_segments else None,
      source,
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
  actual: Any, expected: Any, what: str, scale: float | None = None
) -> None:
  """Asserts that arrays agree to rounding, relative to the largest."""
  got, want = np.asarray(actual), np.asarray(expected)
  dtype = np.float64 if want.dtype == np.float64 else jnp.bfloat16
  largest = np.abs(want).max() if scale is None else scale
  np.testing.assert_allclose(
    np.float64(got),
    np.float64(want),
    rtol=0,
    atol=largest * tolerance(dtype, 24, CHAIN if dtype == np.float64 else 16.0),
    err_msg=what,
  )


def _largest(params: Any) -> float:
  return max(float(np.abs(g).max()) for g in jax.tree.leaves(params))


def check_other(config: Config, other: Params, gradient: Params) -> None:
  """Asserts that gradients computed in two ways agree.

  In bfloat16 as a whole: a unit of a ReLU near 0 may be on in the one and off
  in the other, which changes a part of the gradient by more than rounding.
  """
  if config.architecture.dtype == 'float32':
    for path, value in flat(other).items():
      near(value, flat(gradient)[path], path, _largest(gradient))
    return
  got, want = (
    np.concatenate([np.ravel(np.float64(g)) for g in flat(found).values()])
    for found in (other, gradient)
  )
  bound = tolerance(jnp.bfloat16, 24, 16.0) * np.linalg.norm(want)
  assert np.linalg.norm(got - want) <= bound, 'another way'


class Sight(NamedTuple):
  """What each output may depend on: own tokens, then those of a source.

  Attributes:
    reach_TS: it may.
    direct_TS: its last layer attends to it, and it has no other way to it.
    sums_TS: it may be left out by a difference of sums, which is not exact.
  """

  reach_TS: np.ndarray
  direct_TS: np.ndarray
  sums_TS: np.ndarray


def _seen(masks: Sequence[Mask], segments_T: np.ndarray | None) -> np.ndarray:
  """Returns which keys each query of the example may attend to."""
  length = TOKENS_BT.shape[1] if segments_T is None else len(segments_T)
  t_T1 = jnp.arange(length)[:, None]
  at = Places(t_T1, t_T1[:, 0])
  if segments_T is not None:
    at = at._replace(t_segment=segments_T[:, None], s_segment=segments_T)
  return np.broadcast_to(allowed(masks, at), (length, length))


def _reach(seen_TS: np.ndarray, layers: int) -> np.ndarray:
  """Returns what can be reached in that many layers."""
  steps_TS = (seen_TS | np.eye(len(seen_TS), dtype=bool)).astype(int)
  return np.linalg.matrix_power(steps_TS, layers) > 0


def sight(arch: Architecture) -> Sight:
  """Returns what the outputs of the example may depend on."""
  given = None if arch.model.has_source else SEGMENTS_BT[EXAMPLE]
  stack = arch.stacks[-1]
  seen_TS = _seen(stack.mask, given) & stack.attends_itself
  own = ~np.eye(len(seen_TS), dtype=bool)
  fades = any(output.fades for output in arch.output)
  past_TS = np.tri(len(seen_TS), dtype=bool) & fades
  found = Sight(_reach(seen_TS, stack.num_layers), seen_TS & own, past_TS)
  if isinstance(arch.model, Classifier):
    if arch.model.pooling == 'cls':
      return Sight(*(x_TS[:1] for x_TS in found))
    # Its own state is a way to each token.
    real_TS = [x_TS[SEGMENTS_BT[EXAMPLE] != 0] for x_TS in found]
    reach_S, _, sums_S = (x_TS.any(0, keepdims=True) for x_TS in real_TS)
    return Sight(reach_S, np.zeros_like(reach_S), sums_S)
  if not arch.model.has_source:
    return found
  real_S = SOURCE_SEGMENTS_BS[EXAMPLE] != 0
  never_TS = np.zeros((len(seen_TS), len(real_S)), bool)
  source = Sight(never_TS, never_TS, never_TS)
  if arch.encoder is not None:
    memory_SS = _reach(
      _seen(arch.encoder.mask, SOURCE_SEGMENTS_BS[EXAMPLE]),
      arch.encoder.num_layers,
    )
    reach_S = memory_SS[real_S].any(0)
    source = Sight(never_TS | reach_S, never_TS | real_S, never_TS)
  return Sight(
    *(np.concatenate(both, 1) for both in zip(found, source, strict=True))
  )


def check_influence(arch: Architecture, influence_TV: np.ndarray) -> None:
  """Asserts that an output is a function of what it may see, and of that.

  Through L layers it sees what can be reached in L steps.  The future must be
  0 exactly; a decay along the past is a difference of sums over all of it,
  which cancels to the rounding of those: bfloat16 is summed in float32.
  """
  known = TOKENS_BT[EXAMPLE]
  if arch.model.has_source:
    known = np.concatenate([known, SOURCE_BS[EXAMPLE]])
  influence_TS, may = influence_TV[:, known], sight(arch)
  assert np.isfinite(influence_TV).all()
  assert not influence_TS[~may.reach_TS & ~may.sums_TS].any(), (
    'a position sees what it may not'
  )
  wide = arch.dtype == 'float32'  # and computed in float64
  rounding = (
    tolerance(jnp.float64, 24, CHAIN)
    if wide
    else tolerance(jnp.float32, 24, 16.0)
  )
  least = rounding * influence_TS.max()
  assert (influence_TS[~may.reach_TS] <= least).all(), 'it sees what is masked'
  strangers = sorted({*range(KNOWN)} - {*known})
  assert not influence_TV[:, strangers].any(), 'it sees another example'
  # Some normalisers give some keys no weight.
  for columns in np.split(np.arange(len(known)), [TOKENS_BT.shape[1]]):
    direct_TS = may.direct_TS[:, columns]
    seen = influence_TS[:, columns][direct_TS]
    assert seen.any() or not direct_TS.any(), 'it is blind'


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
  for path, value in flat(gradient).items():
    assert np.isfinite(np.asarray(value, np.float64)).all(), path


def check_gradient(arch: Architecture, gradient: Params) -> None:
  """Asserts that every parameter of every layer learns from the beginning."""
  check_finite(gradient)
  for path, value in flat(gradient).items():
    layers = np.asarray(value, np.float64)
    if arch.depth(path) is None:
      layers = layers[None]
    idle = [n for n, layer in enumerate(layers) if not layer.any()]
    assert not idle, f'{path}: no gradient in layers {idle}'


# Training: lanes. -------------------------------------------------------------


def check_lanes(config: Config, params: Params, compile: Compile) -> None:
  """Asserts that two trials by `vmap` are each as they are alone.

  Of a step, which is all that depends on the choices; what layouts do with
  steps is the subject of `test_lanes.py`.
  """
  layout = parse_layout('shared:1', jax.local_devices(backend='cpu'))
  both = [config, dataclasses.replace(config, seed=7)]
  data = data_of(config.task)
  sig, _ = signature(config, data, layout)
  values = [signature(one, data, layout)[1] for one in both]
  arrays = jax.tree.map(jnp.asarray, dict(data.arrays))

  def step(values: Mapping[str, jax.Array]) -> tuple[State, Metrics]:
    own = bind(sig.static, values)
    state = init_state(own, sig.dims, params)
    batch = batch_of(own, arrays, state.step)
    return update(own, sig.dims, state, batch, None)

  solo = compile(step)
  alone = [solo(own) for own in values]
  stacked = jax.tree.map(lambda *x: np.stack(x), *values)
  lanes = compile(jax.vmap(step))(stacked)
  bound = tolerance(jnp.dtype(config.architecture.dtype), 24, 16.0)
  for n, (wanted, known) in enumerate(alone):
    mine, figures = jax.tree.map(lambda x, n=n: x[n], lanes)
    assert int(mine.diverged) == int(wanted.diverged) == -1
    assert np.isfinite(known.loss)
    np.testing.assert_allclose(figures.loss, known.loss, rtol=bound)
    for path, value in flat(mine.params).items():
      np.testing.assert_allclose(
        value, flat(wanted.params)[path], rtol=0, atol=bound, err_msg=path
      )
  assert any(
    (x != y).any()
    for x, y in zip(
      *(jax.tree.leaves(state.params) for state, _ in alone), strict=True
    )
  )


# Effects. ---------------------------------------------------------------------

# Choices that may have no effect, and why they are accepted all the same.
IDLE: Mapping[str, str] = {
  'backend': 'auto is one of the others, by the length',
  'mask': 'auto is one of the others, by the model',
  'head_dim': 'may say what none stands for',
  'num_kv_heads': 'may say what none stands for',
  'model': 'a mask that is named makes one family as another',
}


def check_effects(row: Row) -> None:
  """Asserts that no choice of a row could be left out unnoticed."""
  config = configured(row)
  for choice, without in _without(row):
    try:
      other = configured(row | {choice.field: without})
    except FieldError:
      continue
    if choice.field in IDLE and _equal_but(choice.field, config, other):
      continue
    assert _shapes(config) != _shapes(other) or any(
      text(config) != text(other) for text in (_forward, _start, _backward)
    ), f'{choice} has no effect: it could as well be {without}'


def _without(row: Row) -> Iterator[tuple[Choice, Choice]]:
  """Yields each choice and what is left when something of it is taken off."""
  for field, choice in row.items():
    first = axes()[field][0]
    if choice == first:
      continue
    yield choice, first
    if isinstance(choice.value, tuple):
      for member in choice.value if len(choice.value) > 1 else ():
        rest = tuple(m for m in choice.value if m != member)
        yield choice, Choice(field, rest)
    elif isinstance(choice.value, Variant):
      form = usual(field, choice.value)
      if form not in (choice.value, first.value):
        yield choice, Choice(field, form)


def _equal_but(field: str, one: Config, other: Config) -> bool:
  """Returns whether two configurations are one by the meaning of a field."""
  if field == 'backend':
    auto = {type(c.architecture.backend) for c in (one, other)}
    return auto == {Auto, Reference}
  if field == 'mask':
    return one.architecture.masks == other.architecture.masks
  if field == 'model':
    return one.architecture.stacks == other.architecture.stacks
  return dims_of(one) == dims_of(other)


def _structs(config: Config) -> Any:
  """Returns the shapes of all parameters, as arguments."""
  return tree(
    {
      p: jax.ShapeDtypeStruct(s, jnp.float32)
      for p, s in _shapes(config).items()
    }
  )


@functools.cache
def _forward(config: Config) -> str:
  """Returns the program of the model with dropout; dead code is not in it."""

  def run(params: Any, seeds_B: jax.Array) -> jax.Array:
    keys_B = jax.vmap(jax.random.key)(seeds_B)
    return _applied(config, params, inputs(config), keys_B)

  return jax.jit(run).lower(_structs(config), np.arange(2)).as_text()


@functools.cache
def _backward(config: Config) -> str:
  """Returns the program of a gradient, which alone sees what is recomputed."""

  def loss(params: Any) -> jax.Array:
    return _applied(config, params, inputs(config)).sum()

  return jax.jit(jax.grad(loss)).lower(_structs(config)).as_text()


@functools.cache
def _start(config: Config) -> str:
  """Returns the program that draws the initial parameters, as text."""
  start = functools.partial(
    transformer.init, config.architecture, dims_of(config)
  )
  return jax.jit(lambda seed: start(jax.random.key(seed))).lower(0).as_text()
