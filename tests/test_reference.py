"""Every variant equals its float64 loop in `reference.py`.

The cases come from the unions, so a new member joins by being listed there,
and fails the collection of this file until `reference.REFERENCES` has it.
"""

import dataclasses
import itertools
import math
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import reference
from model import transformer
from model.architecture import Architecture
from model.attention import Rsqrt, attend
from model.field import (
  FieldError,
  Variant,
  hints,
  meta_of,
  variant_list,
  variants,
)
from model.mask import Causal, allowed
from model.parameter import Dims, Kind, Param, key_of, param, sample
from reference import REFERENCES
from tolerance import assert_close
from train.loss import cross_entropy
from train.optimizer import Optimization, flat, tree

EXACT = 1e-12  # relative error allowed in float64
SEQ_LEN, VOCABULARY = 6, 7

# The unions, and architectures that cover them. -------------------------------


def unions(record: type) -> dict[str, dict[str, type[Variant]]]:
  """Returns `{field: {tag: class}}` of every choice of a record class."""
  found = {}
  for name, hint in hints(record).items():
    if choices := variants(hint) or variant_list(hint):
      found[name] = choices
  return found


def examples(cls: type[Variant]) -> list[Any]:
  """Returns one variant for each combination of its named options.

  Numbers are away from their defaults, so that one that is not read shows.
  """
  options = {}
  for name, hint in hints(cls).items():
    default, meta = vars(cls())[name], meta_of(cls, name)
    if typing.get_origin(hint) is typing.Literal:
      options[name] = typing.get_args(hint)
    elif hint is bool:
      options[name] = (False, True)
    elif hint is float and default:
      low = -math.inf if meta.min is None else meta.min
      options[name] = (max(low, 0.75 * default),)
  return [
    cls(**dict(zip(options, values, strict=True)))
    for values in itertools.product(*options.values())
  ]


def named(variant: Any) -> str:
  """Returns a test id: 'qkv-mlp'."""
  words = [v for v in vars(variant).values() if isinstance(v, str)]
  return '-'.join([variant.tag, *words])


def mask_lists(causal: bool) -> list[tuple[Any, ...]]:
  """Returns each mask alone and beside causal, as far as they go together."""
  masks = [
    m for c in unions(Architecture)['mask'].values() for m in examples(c)
  ]
  alone = [] if causal else [(m,) for m in masks]
  found = [*alone, *([(Causal(),)] if causal else [])]
  for mask in masks:
    try:
      found.append(Architecture(mask=(Causal(), mask)).mask)
    except FieldError:
      continue
  return found


BASE = Architecture(num_layers=2, d_model=8, num_heads=2, tie_embeddings=False)


def covering(causal: bool) -> list[Architecture]:
  """Returns few architectures that hold every example of every union.

  Architecture i takes example i of each union, counted around; where such a
  mixture is refused, each of its members comes alone.

  Args:
    causal: a causal mask in each.
  """
  options: dict[str, list[Any]] = {
    field: [v for cls in choices.values() for v in examples(cls)]
    for field, choices in unions(Architecture).items()
  } | {'mask': mask_lists(causal)}
  options['use_bias'] = [True, True, False]
  found = []
  for i in range(max(map(len, options.values()))):
    mixed = {field: all_[i % len(all_)] for field, all_ in options.items()}
    try:
      found.append(dataclasses.replace(BASE, **mixed))
    except FieldError:
      found += [
        dataclasses.replace(BASE, **{field: member})
        for field, member in mixed.items()
      ]
  return found


def described(arch: Architecture) -> str:
  """Returns a test id: what differs from the base."""
  parts = [
    ','.join(named(v) for v in (value if isinstance(value, tuple) else [value]))
    for name, value in vars(arch).items()
    if name in unions(Architecture) and name != 'init'
  ]
  return ' '.join(parts)


def dims_of(arch: Architecture) -> Dims:
  return arch.dims(SEQ_LEN, VOCABULARY)


def draws(*shape: int, seed: int = 0) -> np.ndarray:
  """Returns normal numbers that float32 holds exactly, in float64."""
  rng = np.random.default_rng([seed, *shape])
  return rng.standard_normal(shape).astype(np.float32).astype(np.float64)


def drawn_params(table: Mapping[str, Param]) -> dict[str, np.ndarray]:
  """Returns numbers for each parameter, biases and gains too."""
  return {
    name: draws(*what.shape, seed=n) / 2
    for n, (name, what) in enumerate(table.items())
  }


def stacked_params(arch: Architecture) -> dict[str, np.ndarray]:
  """Returns numbers for each path of a model; layers along a first axis."""
  table = {
    path: dataclasses.replace(what, shape=(arch.num_layers, *what.shape))
    if path.startswith('blocks/')
    else what
    for path, what in arch.parameter_table(dims_of(arch)).items()
  }
  return drawn_params(table)


# Each union: what the model gives, and what the loops give. -------------------

Cast = Callable[[Any], Any]
Pair = tuple[Any, Any]


def scale_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  for head_dim in (1, 4, 8):
    factor = cast(variant.factor(head_dim))
    yield factor, REFERENCES['scale'][variant.tag](variant, head_dim)


def normalizer_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  logits_BNTS = 3 * draws(2, 2, 5, 5)
  mask_TS = draws(5, 5) > 0.3
  mask_TS[1] = False  # a row in which nothing is seen
  mask_TS[2] = True
  loop = REFERENCES['normalizer'][variant.tag]
  # Far from 0 the exponential overflows unless the largest is taken off.
  for offset in (0.0, 1000.0, -1000.0):
    shifted_BNTS = (logits_BNTS + offset).astype(np.float32).astype(np.float64)
    expected_BNTS = [
      [
        [loop(variant, *row) for row in zip(l_TS, mask_TS, strict=True)]
        for l_TS in l_NTS
      ]
      for l_NTS in shifted_BNTS
    ]
    yield variant.weights(cast(shifted_BNTS), mask_TS), expected_BNTS


def mask_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop = REFERENCES['mask'][variant.tag]
  for num_queries, num_keys in ((4, 4), (3, 5)):
    seen_TS = variant.allowed(
      np.arange(num_queries)[:, None], np.arange(num_keys)[None]
    )
    assert seen_TS.shape == (num_queries, num_keys)
    yield (
      seen_TS,
      [
        [loop(variant, t, s) for s in range(num_keys)]
        for t in range(num_queries)
      ],
    )


def position_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop = REFERENCES['position'][variant.tag]
  params = drawn_params(variant.params(dims_of(BASE)))
  x_BTD, t_T = draws(2, 4, 8), np.array([0, 1, 3, 5])
  yield (
    variant.embed(cast(params), cast(x_BTD), jnp.asarray(t_T)),
    [
      [
        loop.embed(variant, params, x_D, t)
        for x_D, t in zip(x, t_T, strict=True)
      ]
      for x in x_BTD
    ],
  )
  x_BTNH = draws(2, 4, 2, 6)
  yield (
    variant.rotate(cast(x_BTNH), jnp.asarray(t_T)),
    [
      [
        [loop.rotate(variant, x_H, t) for x_H in x_NH]
        for x_NH, t in zip(x_TNH, t_T, strict=True)
      ]
      for x_TNH in x_BTNH
    ],
  )


def projection_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop = REFERENCES['projections'][variant.tag]
  x_BTD, y_BSD = draws(2, 3, 8), draws(2, 4, 8)
  for use_bias in (False, True):
    dims = dataclasses.replace(dims_of(BASE), use_bias=use_bias)
    params = drawn_params(variant.params(dims))
    x, y = cast(x_BTD), cast(y_BSD)
    itself = variant.split(cast(params), x, x, 2)
    other = variant.split(cast(params), x, y, 2)
    for heads, keys_BSD in ((itself, x_BTD), (other, y_BSD)):
      for actual, project, given in (
        (heads.q_BTNH, loop.query, x_BTD),
        (heads.k_BSNH, loop.key, keys_BSD),
        (heads.v_BSNH, loop.value, keys_BSD),
      ):
        yield (
          actual,
          [
            [project(variant, params, x_D, 2) for x_D in x_TD] for x_TD in given
          ],
        )
    heads_BTNH = draws(2, 3, 2, 4)
    merged_BTD = [
      [loop.merge(params, heads_NH) for heads_NH in heads_TNH]
      for heads_TNH in heads_BTNH
    ]
    yield variant.merge(cast(params), cast(heads_BTNH)), merged_BTD


def norm_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop, x_BTD = REFERENCES['norm'][variant.tag], draws(2, 3, 8)
  x_BTD[0] = (0.01 * x_BTD[0]).astype(np.float32)  # where eps shows
  for use_bias in (False, True):
    dims = dataclasses.replace(dims_of(BASE), use_bias=use_bias)
    params = drawn_params(variant.params(dims))
    expected_BTD = [
      [loop(variant, params, x_D) for x_D in x_TD] for x_TD in x_BTD
    ]
    yield variant.apply(cast(params), cast(x_BTD)), expected_BTD


def residual_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop, x_BTD = REFERENCES['residual'][variant.tag], draws(2, 3, 8)
  actual = variant.connect(
    cast(x_BTD), lambda x_BTD: x_BTD * x_BTD, lambda x_BTD: 3.0 * x_BTD + 1.0
  )
  yield (
    actual,
    [
      loop.connect(x_TD, lambda x_D: x_D * x_D, lambda x_TD: 3.0 * x_TD + 1.0)
      for x_TD in x_BTD
    ],
  )
  assert variant.final_norm == loop.final_norm


def feedforward_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop, x_BTD = REFERENCES['feedforward'][variant.tag], draws(2, 3, 8)
  if loop is None:
    assert not variant.params(dims_of(BASE))
    return
  for use_bias in (False, True):
    dims = dataclasses.replace(dims_of(BASE), use_bias=use_bias)
    params = drawn_params(variant.params(dims))
    expected_BTD = [
      [loop(variant, params, x_D) for x_D in x_TD] for x_TD in x_BTD
    ]
    yield variant.apply(cast(params), cast(x_BTD), None), expected_BTD


def schedule_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  total = 9
  for warmup in (0, 3, 20):
    optimization = Optimization(schedule=variant, warmup_steps=warmup)
    steps = jnp.arange(total + 2)
    rates = jax.vmap(
      lambda step, given=optimization: given.rate(step, jnp.asarray(total))
    )(steps)
    yield (
      rates,
      [
        reference.learning_rate(optimization, step, total)
        for step in range(total + 2)
      ],
    )


def optimizer_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  grads = draws(5, 3)
  transform = variant.scale()
  state, actual = transform.init(cast(np.zeros(3))), []
  for grad in grads:
    change, state = transform.update(cast(grad), state)
    actual.append(change)
  loop = REFERENCES['optimizer'][variant.tag]
  yield (
    jnp.stack(actual),
    [
      [loop(variant, list(past)) for past in grads[: n + 1].T] for n in range(5)
    ],
  )


UNITS: Mapping[str, Callable[[Any, Cast], Iterator[Pair]]] = {
  'scale': scale_pairs,
  'normalizer': normalizer_pairs,
  'mask': mask_pairs,
  'position': position_pairs,
  'projections': projection_pairs,
  'norm': norm_pairs,
  'residual': residual_pairs,
  'feedforward': feedforward_pairs,
  'schedule': schedule_pairs,
  'optimizer': optimizer_pairs,
}
ALL = unions(Architecture) | unions(Optimization)


def differences(known: Mapping[str, Any]) -> list[str]:
  """Returns members without a reference, and references without a member."""
  listed = {(field, tag) for field, tags in ALL.items() for tag in tags}
  written = {(field, tag) for field, tags in known.items() for tag in tags}
  return [
    *(f'--{f}={t} has no loop' for f, t in sorted(listed - written)),
    *(f'--{f}={t} is no variant' for f, t in sorted(written - listed)),
  ]


# At import, so that what has no specification does not even collect.
if differences(REFERENCES):
  raise LookupError(
    f'tests/reference.py: {"; ".join(differences(REFERENCES))}: write it from '
    'the paper and enter it in REFERENCES'
  )


def test_every_member_has_a_reference() -> None:
  assert not differences(REFERENCES)
  assert set(ALL) == {*UNITS, 'init'}, 'a union that no test of units looks at'
  partial = {**REFERENCES, 'scale': {'rsqrt': None, 'nonsense': None}}
  assert differences(partial) == [
    '--scale=constant has no loop',
    '--scale=none has no loop',
    '--scale=nonsense is no variant',
  ]


def assert_exact(actual: Any, expected: Any) -> None:
  """Fails beyond the error of float64, relative to the largest element."""
  actual, expected = np.asarray(actual), np.asarray(expected)
  assert actual.shape == expected.shape
  if actual.dtype != bool:
    assert actual.dtype == np.float64
  size = np.abs(expected).max(initial=1e-300)
  np.testing.assert_allclose(actual, expected, rtol=0.0, atol=EXACT * size)


CASES = [
  pytest.param(field, variant, id=f'{field}-{named(variant)}')
  for field in UNITS
  for cls in ALL[field].values()
  for variant in examples(cls)
]


@pytest.mark.parametrize(('field', 'variant'), CASES)
def test_variant_equals_its_loop(field: str, variant: Any) -> None:
  def double(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), tree)

  def single(tree: Any) -> Any:
    return jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), tree)

  with jax.enable_x64(True):
    for actual, expected in UNITS[field](variant, double):
      assert_exact(actual, expected)
  for actual, expected in UNITS[field](variant, single):
    assert_close(actual, expected, 64)


@pytest.mark.parametrize('init', list(ALL['init'].values()))
@pytest.mark.parametrize('kind', list(Kind))
def test_initial_values_have_the_distribution(init: type, kind: Kind) -> None:
  """Kolmogorov-Smirnov, with a fixed key and a level of 1e-6."""
  (variant,) = examples(init)
  what = param('D->F', kind, dims_of(BASE), {'D': 32, 'F': 128})
  values = np.sort(
    np.ravel(sample(variant, key_of('a', jax.random.key(0)), what, 3))
  )
  if kind in (Kind.SCALE, Kind.BIAS):
    assert (values == (kind is Kind.SCALE)).all()
    return
  cdf = REFERENCES['init'][variant.tag](variant, kind.value, what.fans, 3)
  expected = np.array([cdf(x) for x in values])
  ranks = np.arange(values.size + 1) / values.size
  distance = max(
    np.abs(expected - ranks[1:]).max(), np.abs(expected - ranks[:-1]).max()
  )
  assert distance < (np.log(2 / 1e-6) / (2 * values.size)) ** 0.5


# The whole. -------------------------------------------------------------------

SIZED = [
  *covering(causal=False),
  dataclasses.replace(BASE, tie_embeddings=True, head_dim=3, num_heads=3),
]


@pytest.mark.parametrize('arch', SIZED, ids=described)
def test_decoder_equals_its_loops(arch: Architecture) -> None:
  params, dims = stacked_params(arch), dims_of(arch)
  tokens_BT = np.random.default_rng(1).integers(0, VOCABULARY, (2, SEQ_LEN - 1))
  expected = reference.decoder(arch, params, tokens_BT)

  def run(dtype: Any) -> transformer.Output:
    cast = jax.tree.map(lambda x: jnp.asarray(x, dtype), tree(params))
    return jax.jit(
      lambda params: transformer.apply(
        arch, dims, params, tokens_BT, want_weights=True
      )
    )(cast)

  with jax.enable_x64(True):
    for actual, wanted in zip(run(jnp.float64), expected, strict=True):
      assert_exact(actual, wanted)


@pytest.mark.parametrize(
  'normalizer', [v for c in ALL['normalizer'].values() for v in examples(c)]
)
def test_gradients_of_attention_by_differences(normalizer: Any) -> None:
  """Also that a row in which nothing is seen gives 0 and a finite gradient."""
  mask_TS = np.tril(np.ones((4, 4), bool), -1)  # row 0 sees nothing
  given = [draws(2, 4, 2, 3, seed=n) for n in range(3)]
  direction = [draws(2, 4, 2, 3, seed=n) for n in range(3, 6)]
  target_BTNH = draws(2, 4, 2, 3, seed=6)

  with jax.enable_x64(True):

    @jax.jit
    def loss(heads: list[jax.Array]) -> tuple[jax.Array, Any]:
      mixed = attend(*heads, mask_TS, Rsqrt(), normalizer)
      return (mixed.out_BTNH * target_BTNH).sum(), mixed

    grads, mixed = jax.jit(jax.grad(loss, has_aux=True))(given)
    slope = sum(
      float((g * d).sum()) for g, d in zip(grads, direction, strict=True)
    )
    step = 1e-5
    ends = [
      float(
        loss(
          [x + sign * step * d for x, d in zip(given, direction, strict=True)]
        )[0]
      )
      for sign in (1, -1)
    ]
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * step), rel=1e-7)
    assert abs(slope) > 1e-2
  assert not np.asarray(mixed.out_BTNH)[:, 0].any()
  assert not np.asarray(mixed.weights_BNTS)[:, :, 0].any()
  assert all(np.isfinite(g).all() for g in grads)
  assert not np.asarray(grads[0])[:, 0].any()


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_cross_entropy_equals_its_loop(smoothing: float) -> None:
  logits_BTV, weights_BT = 3 * draws(2, 4, 7), np.abs(draws(2, 4))
  weights_BT[0, 1] = 0.0
  targets_BT = np.random.default_rng(0).integers(0, 7, (2, 4))
  targets_BT[:, 0] = logits_BTV.argmax(-1)[:, 0]
  expected = reference.cross_entropy(
    logits_BTV, targets_BT, weights_BT, smoothing
  )
  with jax.enable_x64(True):
    # A traced number, as in the program; 0 is static there.
    for given in (smoothing, jnp.asarray(smoothing)):
      sums = cross_entropy(
        jnp.asarray(logits_BTV), targets_BT, jnp.asarray(weights_BT), given
      )
      assert_exact(jnp.stack(sums), expected)


TABLE = {
  'embedding/token': Param('V->D', (3,), Kind.EMBEDDING),
  'blocks/attention/query': Param('D->NH', (4,), Kind.MATRIX),
  'blocks/attention/out': Param('NH->D', (4,), Kind.RESIDUAL),
  'blocks/norm_attention/scale': Param('->D', (2,), Kind.SCALE),
  'blocks/norm_attention/bias': Param('->D', (2,), Kind.BIAS),
}
UPDATES = {
  'default': Optimization(warmup_steps=2),
  'never clipped': Optimization(clip=None, warmup_steps=0),
  'decay of all': Optimization(decay='all', weight_decay=0.5),
  'no decay': Optimization(weight_decay=0.0, clip=100.0),
  'frozen': Optimization(freeze='^embedding/|query', decay='all'),
} | {
  f'{field}-{tag}': Optimization(
    **{field: variant}, learning_rate=0.05, warmup_steps=2
  )
  for field, choices in unions(Optimization).items()
  for tag, cls in choices.items()
  for variant in examples(cls)
}


@pytest.mark.parametrize('name', UPDATES)
def test_update_equals_its_loops(name: str) -> None:
  optimization, total, steps = UPDATES[name], 6, 5
  params = drawn_params(TABLE)
  frozen = optimization.frozen(TABLE)
  grads = [
    {path: draws(*what.shape, seed=9 + n) for path, what in TABLE.items()}
    for n in range(steps)
  ]
  grads[1] = {path: g / 50 for path, g in grads[1].items()}  # below the clip
  expected = reference.optimize(
    optimization,
    {path: what.init.value for path, what in TABLE.items()},
    params,
    grads,
    total,
  )
  with jax.enable_x64(True):

    @jax.jit
    def run(params: Any, grads: list[Any]) -> Any:
      transform = optimization.transform(TABLE, jnp.asarray(total))
      state = transform.init(params)
      for given in grads:
        updates, state = transform.update(given, state, params)
        params = optax.apply_updates(params, updates)
      return params

    # train/step.py stops the gradients of frozen parameters.
    stopped = [
      {p: np.zeros_like(g) if p in frozen else g for p, g in given.items()}
      for given in grads
    ]
    actual = flat(run(tree(params), [tree(given) for given in stopped]))
  assert set(actual) == set(TABLE)
  for path, values in expected.items():
    # The step count is int32, so the learning rate is float32 whatever x64.
    moved = (np.asarray(actual[path]) - params[path]).astype(np.float32)
    assert_close(moved, values - params[path], steps)
  for path in frozen:
    np.testing.assert_array_equal(actual[path], params[path])


def test_masks_are_combined() -> None:
  for masks_ in mask_lists(causal=False):
    seen_TS = [
      [reference.sees(masks_, t, s) for s in range(5)] for t in range(4)
    ]
    actual_TS = allowed(masks_, jnp.arange(4), jnp.arange(5))
    np.testing.assert_array_equal(actual_TS, seen_TS)
