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
from model.attention import Keys, Queries
from model.backend import Chunked, Fused
from model.family import Classifier, EncoderDecoder
from model.feedforward import NoFeedForward
from model.field import (
  FieldError,
  Variant,
  hints,
  meta_of,
  variant_list,
  variants,
)
from model.forget import Forget
from model.latent import Mla
from model.mask import Causal, Places, allowed
from model.network import Source
from model.norm import NoNorm
from model.normalizer import Softmax1
from model.output import Gate, Own, ValueResidual
from model.parameter import Dims, Kind, Param, key_of, param, sample
from model.position import Rope
from model.scale import Rsqrt
from model.score import Fixed, Reads
from reference import REFERENCES
from simple import attend
from tolerance import assert_close
from train.average import Moment
from train.loss import cross_entropy
from train.optimizer import Optimization, flat, tree

pytestmark = pytest.mark.usefixtures('quick_compilation')

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

  Numbers are away from their defaults, so that one that is not read shows;
  whole numbers are so small that a few positions reach them.
  """
  options = {}
  for name, hint in hints(cls).items():
    default, meta = vars(cls())[name], meta_of(cls, name)
    if typing.get_origin(hint) is typing.Literal:
      options[name] = typing.get_args(hint)
    elif hint is bool:
      options[name] = (False, True)
    elif hint == bool | None:
      options[name] = (None, False, True)
    elif hint is float and default:
      low = -math.inf if meta.min is None else meta.min
      options[name] = (max(low, 0.75 * default),)
    elif hint is int:
      options[name] = (int(meta.min or 0) + 2,)
  found = []
  for values in itertools.product(*options.values()):
    try:
      found.append(cls(**dict(zip(options, values, strict=True))))
    except FieldError:
      continue  # some options go without each other only
  return found


def named(variant: Any) -> str:
  """Returns a test id: 'qkv-mlp'."""
  words = [
    name if value is True else value
    for name, value in vars(variant).items()
    if value is True or isinstance(value, str)
  ]
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


def output_lists() -> list[tuple[Any, ...]]:
  """Returns each output alone, and all that go together."""
  outputs = [
    o for c in unions(Architecture)['output'].values() for o in examples(c)
  ]
  together: tuple[Any, ...] = ()
  for output in outputs:
    try:
      together = Architecture(output=(output, *together)).output
    except FieldError:
      continue
  return [*((output,) for output in outputs), together]


BASE = Architecture(num_layers=2, d_model=8, num_heads=2, tie_embeddings=False)


def covering(causal: bool) -> list[Architecture]:
  """Returns few architectures that hold every example of every union.

  Architecture i takes example i of each union, counted around; what is refused
  in such a mixture comes in a mixture of its own.

  Args:
    causal: a causal mask in each.
  """
  options: dict[str, list[Any]] = {
    field: [v for cls in choices.values() for v in examples(cls)]
    for field, choices in unions(Architecture).items()
  } | {'mask': mask_lists(causal), 'output': output_lists()}
  if causal:
    families = options['model']
    options['model'] = [family for family in families if family.writes]
  # Kernels run where others do not: test_kernels.py.
  options['backend'] = [
    v for v in options['backend'] if not isinstance(v, Fused)
  ]
  options['use_bias'] = [True, True, False]
  options['scale_embeddings'] = [False, False, True, False, False]
  options['logit_cap'] = [None, None, 1.5]
  options['num_kv_heads'] = [None, 1]
  found = []
  for i in range(max(map(len, options.values()))):
    mixed = {field: all_[i % len(all_)] for field, all_ in options.items()}
    while mixed:
      # A classifier has no unembedding that could be tied or not.
      tied = isinstance(mixed.get('model'), Classifier)
      arch = dataclasses.replace(BASE, tie_embeddings=tied)
      refused: dict[str, Any] = {}
      for field, member in mixed.items():
        try:
          arch = dataclasses.replace(arch, **{field: member})
        except FieldError:
          refused[field] = member
      assert len(refused) < len(mixed), refused
      found.append(arch)
      mixed = refused
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
  return arch.dims(SEQ_LEN, VOCABULARY, num_classes=3)


def source_of(arch: Architecture, batch: int) -> Source | None:
  """Returns what an encoder-decoder reads: texts of different lengths."""
  if not arch.model.has_source:
    return None
  tokens_BS = np.random.default_rng(2).integers(0, VOCABULARY, (batch, 4))
  sizes_B1 = np.array([[4], [2], [3]])[:batch]
  return Source(tokens_BS, (np.arange(4) < sizes_B1).astype(int))


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
    path: dataclasses.replace(what, shape=(depth, *what.shape))
    if (depth := arch.depth(path))
    else what
    for path, what in arch.parameter_table(dims_of(arch)).items()
  }
  return drawn_params(table)


# Each union: what the model gives, and what the loops give. -------------------

Cast = Callable[[Any], Any]
Pair = tuple[Any, Any]


def score_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop = REFERENCES['score'][variant.tag]
  t_T, s_S, num_heads = np.array([0, 3, 1]), np.array([2, 0, 1, 4]), 4
  q_BTNH, x_BTD = draws(2, 3, num_heads, 6), draws(2, 3, 8)
  for num_kv_heads in (4, 2, 1):
    dims = dims_of(
      dataclasses.replace(BASE, num_heads=4, num_kv_heads=num_kv_heads)
    )
    dims = dataclasses.replace(dims, head_dim=6)
    params = drawn_params(variant.params(dims))
    k_BSKH = draws(2, 4, num_kv_heads, 6)
    actual = variant.logits(
      cast(params), cast(q_BTNH), cast(k_BSKH), cast(x_BTD), t_T, s_S
    )
    expected_BNTS = np.zeros((2, num_heads, 3, 4))
    for b, n, t, s in np.ndindex(*expected_BNTS.shape):
      expected_BNTS[b, n, t, s] = loop(
        variant,
        params,
        n,
        q_BTNH[b, t, n],
        k_BSKH[b, s, n * num_kv_heads // num_heads],
        x_BTD[b, t],
        int(t_T[t]),
        int(s_S[s]),
      )
    yield actual, expected_BNTS


def scale_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  params = drawn_params(variant.params(dims_of(BASE)))
  loop = REFERENCES['scale'][variant.tag]
  seen_T = np.array([0, 1, 5])
  for head_dim in (1, 4, 8):
    n_B1T1 = cast(seen_T[None, None, :, None])
    factor = cast(variant.factor(cast(params), head_dim, n_B1T1))
    yield (
      factor + cast(np.zeros((1, 2, 3, 1))),
      [
        [
          [[loop(variant, params, n, head_dim, seen)] for seen in seen_T]
          for n in range(2)
        ]
      ],
    )


def normalizer_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  logits_BNTS = 3 * draws(2, 2, 5, 5)
  mask_TS = draws(5, 5) > 0.3
  mask_TS[1] = False  # a row in which nothing is seen
  mask_TS[2] = True
  params = drawn_params(variant.params(dims_of(BASE)))
  loop = REFERENCES['normalizer'][variant.tag]
  # Far from 0 the exponential overflows unless the largest is taken off.
  for offset in (0.0, 1000.0, -1000.0):
    shifted_BNTS = (logits_BNTS + offset).astype(np.float32).astype(np.float64)
    expected_BNTS = np.zeros(logits_BNTS.shape)
    for b, n, t in np.ndindex(2, 2, 5):
      expected_BNTS[b, n, t] = loop(
        variant, params, n, shifted_BNTS[b, n, t], mask_TS[t]
      )
    mask_B1TS = mask_TS[None, None]
    n_B1T1 = mask_B1TS.sum(-1, keepdims=True)
    yield (
      variant.weights(cast(params), cast(shifted_BNTS), mask_B1TS, n_B1T1),
      expected_BNTS,
    )


def mask_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop = REFERENCES['mask'][variant.tag]
  if loop is None:
    return  # it stands for others
  for num_queries, num_keys in ((4, 4), (3, 5)):
    a_T, b_S = np.array([1, 2, 0, 1]), np.array([1, 1, 2, 0, 2])
    a_T, b_S = a_T[:num_queries], b_S[:num_keys]
    at = Places(
      np.arange(num_queries)[:, None],
      np.arange(num_keys)[None],
      a_T[:, None],
      b_S[None],
    )
    seen_TS = np.broadcast_to(variant.allowed(at), (num_queries, num_keys))
    yield (
      seen_TS,
      [
        [loop(variant, t, s, a_T[t], b_S[s]) for s in range(num_keys)]
        for t in range(num_queries)
      ],
    )


def position_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop = REFERENCES['position'][variant.tag]
  x_BTD, t_T = draws(2, 4, 8), np.array([0, 1, 3, 5])
  params = drawn_params(variant.params(dims_of(BASE)))
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
  s_S = np.array([4, 0, 9, 2, 30])
  for num_heads in (1, 2, 6):
    dims = dataclasses.replace(dims_of(BASE), num_heads=num_heads)
    params = drawn_params(variant.params(dims))
    bias_NTS = variant.bias(
      cast(params), num_heads, jnp.asarray(t_T), jnp.asarray(s_S)
    )
    yield (
      cast(np.zeros((num_heads, 4, 5)) if bias_NTS is None else bias_NTS),
      [
        [
          [loop.bias(variant, params, n, num_heads, t, s) for s in s_S]
          for t in t_T
        ]
        for n in range(num_heads)
      ],
    )


def qk_norm_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop, x_BTNH = REFERENCES['qk_norm'][variant.tag], draws(2, 3, 2, 4)
  x_BTNH[0] = (0.01 * x_BTNH[0]).astype(np.float32)  # where eps shows
  params = drawn_params(variant.params(dims_of(BASE)))
  for normalize, normalized in (
    (variant.query, loop.query),
    (variant.key, loop.key),
  ):
    expected_BTNH = np.zeros(x_BTNH.shape)
    for b, t, n in np.ndindex(2, 3, 2):
      expected_BTNH[b, t, n] = normalized(variant, params, x_BTNH[b, t, n])
    yield normalize(cast(params), cast(x_BTNH)), expected_BTNH


def output_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop = REFERENCES['output'][variant.tag]
  dims = dims_of(BASE)
  for use_bias in (False, True):
    dims = dataclasses.replace(dims, use_bias=use_bias)
    params = drawn_params(variant.params(dims))
    given = cast(params)
    assert variant.maps == loop.maps
    v_BSKH, first_BSKH = draws(1, 3, 2, 4), draws(1, 3, 2, 4, seed=1)
    expected_SKH = np.zeros((3, 2, 4))
    for s, k in np.ndindex(3, 2):
      expected_SKH[s, k] = loop.values(
        params, v_BSKH[0, s, k], first_BSKH[0, s, k]
      )
    yield (
      variant.values(given, cast(v_BSKH), cast(first_BSKH)),
      expected_SKH[None],
    )
    x_BTD = draws(1, 5, 8)
    c_TN = variant.running(given, cast(x_BTD), cast(np.full((1, 2), 0.5)))[0]
    decay_NTS = np.zeros((2, 5, 5))
    for n, t, s in np.ndindex(2, 5, 5):
      if s <= t:
        decay_NTS[n, t, s] = loop.decay(params, x_BTD[0], n, t, s)
    bias_NTS = np.moveaxis(np.asarray(c_TN[:, None] - c_TN[None]), -1, 0)
    yield cast(np.tril(bias_NTS)), decay_NTS
    x_BNTS = draws(1, 2, 3, 4)
    for mix, mixed in (
      (variant.mix_logits, loop.mix_logits),
      (variant.mix_weights, loop.mix_weights),
    ):
      expected_BNTS = np.zeros(x_BNTS.shape)
      for t, s in np.ndindex(3, 4):
        expected_BNTS[0, :, t, s] = mixed(params, x_BNTS[0, :, t, s])
      yield mix(given, cast(x_BNTS)), expected_BNTS
    out_BTNH, layer = draws(1, 5, 2, 4), 3
    maps = [draws(2, 3, seed=m) for m in range(variant.maps)]
    yield (
      variant.join(given, [cast(x) for x in maps], jnp.asarray(layer)),
      [
        [loop.join(params, layer, [x[i, j] for x in maps]) for j in range(3)]
        for i in range(2)
      ],
    )
    for num_kv_heads in (2, 1):
      own_BTKH = draws(1, 5, num_kv_heads, 4, seed=2)
      own = Own(cast(x_BTD), cast(own_BTKH), jnp.asarray(layer))
      expected_TNH = [
        loop.finish(params, out_BTNH[0, t], x_BTD[0, t], own_BTKH[0, t], layer)
        for t in range(5)
      ]
      yield variant.finish(given, cast(out_BTNH), own), [expected_TNH]


def backend_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  """Each backend, of plain attention, is the loop of attention."""
  if isinstance(variant, Fused):
    pytest.skip('test_kernels.py compares it with the reference')
  arch = dataclasses.replace(
    BASE, backend=variant, position=Rope(), num_kv_heads=1
  )
  tables = {
    part: drawn_params(table)
    for part, table in arch.block_tables(dims_of(arch)).items()
  } | {'position': {}}
  x_BTD, t_T = draws(1, 5, 8), np.arange(5)
  heads = arch.projections.split(
    cast(tables['attention']),
    *2 * [cast(x_BTD)],
    dims_of(arch),
    arch.score.reads,
  )
  q_BTNH, k_BSKH = (arch.position.rotate(x, t_T) for x in heads[:2])
  attended = arch.backend.attend(
    arch.parts,
    cast(tables),
    Queries(q_BTNH, cast(x_BTD), t_T, None, {}),
    Keys(k_BSKH, heads.v_BSKH, t_T, None, {}),
    None,
  )
  expected = reference.attention(arch, tables, x_BTD[0], [1] * 5)
  yield attended.out_BTNH, expected.out_TNH[None]
  if attended.weights_BNTS is not None:
    yield attended.weights_BNTS, expected.weights_NTS[None]


def projection_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop = REFERENCES['projections'][variant.tag]
  x_BTD, y_BSD, reads = draws(2, 3, 8), draws(2, 4, 8), Reads()
  for use_bias in (False, True):
    dims = dataclasses.replace(dims_of(BASE), use_bias=use_bias)
    params = drawn_params(variant.params(dims, reads))
    x, y = cast(x_BTD), cast(y_BSD)
    itself = variant.split(cast(params), x, x, dims, reads)
    other = variant.split(cast(params), x, y, dims, reads)
    for heads, keys_BSD in ((itself, x_BTD), (other, y_BSD)):
      for actual, project, given in (
        (heads.q_BTNH, loop.query, x_BTD),
        (heads.k_BSKH, loop.key, keys_BSD),
        (heads.v_BSKH, loop.value, keys_BSD),
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


def no_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  """A family has no part of its own: the whole model is compared below."""
  del variant, cast
  yield from ()


def average_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  """Evaluations at a fixed distance, and a last one that is nearer."""
  loop = REFERENCES['average'][variant.tag]
  for total, every in ((11, 3), (8, 1), (12, 2)):
    values = draws(total + 1, 2)
    params, actual = {'x': cast(values[0])}, []
    average = variant.start(params)
    for step, new in enumerate(values):
      if step:
        params = {'x': cast(new)}
        at = Moment(jnp.asarray(step), jnp.asarray(total), every)
        average = variant.after(average, params, at)
      actual.append((params if average is None else average)['x'])
    expected = [
      [loop(variant, list(past), total, every) for past in values[: n + 1].T]
      for n in range(total + 1)
    ]
    yield jnp.stack(actual), expected


UNITS: Mapping[str, Callable[[Any, Cast], Iterator[Pair]]] = {
  'qk_norm': qk_norm_pairs,
  'score': score_pairs,
  'scale': scale_pairs,
  'normalizer': normalizer_pairs,
  'mask': mask_pairs,
  'model': no_pairs,
  'position': position_pairs,
  'projections': projection_pairs,
  'output': output_pairs,
  'backend': backend_pairs,
  'norm': norm_pairs,
  'residual': residual_pairs,
  'feedforward': feedforward_pairs,
  'schedule': schedule_pairs,
  'optimizer': optimizer_pairs,
  'average': average_pairs,
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
    *(
      f'--scale={tag} has no loop'
      for tag in ('constant', 'inverse', 'learned', 'logn', 'none')
    ),
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
  dataclasses.replace(BASE, model=EncoderDecoder(), score=Fixed()),
  dataclasses.replace(BASE, tie_embeddings=True, head_dim=3, num_heads=3),
  dataclasses.replace(BASE, num_heads=4, num_kv_heads=2, output=(Forget(),)),
  dataclasses.replace(BASE, num_layers=3, output=(ValueResidual(), Gate())),
  dataclasses.replace(
    BASE, position=Rope(), projections=Mla(5, 2, 3), backend=Chunked(2)
  ),
]
# Three documents packed into two examples, and padding.
SEGMENTS_BT = np.array([[1, 1, 2, 2, 2], [1, 1, 1, 0, 0]])


@pytest.mark.slow
@pytest.mark.parametrize('arch', SIZED, ids=described)
def test_model_equals_its_loops(arch: Architecture) -> None:
  params, dims = stacked_params(arch), dims_of(arch)
  rng = np.random.default_rng(1)
  tokens_BT = rng.integers(0, VOCABULARY, (2, SEQ_LEN - 1))
  source = source_of(arch, 2)
  expected = reference.model(arch, params, tokens_BT, SEGMENTS_BT, source)

  def run(dtype: Any) -> transformer.Output:
    cast = jax.tree.map(lambda x: jnp.asarray(x, dtype), tree(params))
    return jax.jit(
      lambda params: transformer.apply(
        arch,
        dims,
        params,
        tokens_BT,
        want_weights=True,
        segments_BT=SEGMENTS_BT,
        source=source,
      )
    )(cast)

  with jax.enable_x64(True):
    for actual, wanted in zip(run(jnp.float64), expected, strict=True):
      assert (actual is None) == (wanted is None)
      if wanted is not None:
        assert_exact(actual, wanted)


@pytest.mark.slow
@pytest.mark.parametrize(
  'normalizer',
  # The gradient of `hard` is not its slope, which is 0: see test_sparse.py.
  [
    v
    for c in ALL['normalizer'].values()
    for v in examples(c)
    if v.tag != 'hard'
  ],
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


# Attention and nothing else: its gradients compile in a third of the time.
BARE = dataclasses.replace(
  BASE,
  num_layers=1,
  feedforward=NoFeedForward(),
  norm=NoNorm(),
  scan_layers=False,
)
# Where the parameters of each union lie.
OWN = {
  'projections': 'blocks/attention/',
  'qk_norm': 'blocks/qk_norm/',
  'score': 'blocks/score/',
  'scale': 'blocks/scale/',
  'normalizer': 'blocks/normalizer/',
  'position': 'position/',
  'output': 'blocks/output_',
}


def sloped(field: str, variant: Any) -> Architecture:
  """Returns an architecture with a variant, and with biases if it has any."""
  value = (variant,) if field == 'output' else variant
  arch = dataclasses.replace(BARE, **{field: value})
  if any(output.keeps_first_values for output in arch.output):
    arch = dataclasses.replace(arch, num_layers=2)
  if field == 'projections':
    # What is added to all keys changes nothing with softmax.
    arch = dataclasses.replace(arch, position=Rope(), normalizer=Softmax1())
  try:
    return dataclasses.replace(arch, use_bias=True)
  except FieldError:
    return arch


SLOPED = [
  pytest.param(sloped(field, v), own, id=f'{field}-{named(v)}')
  for field, own in OWN.items()
  for cls in ALL[field].values()
  for v in examples(cls)
  # The gradient of `hard` is not its slope, which is 0: see test_sparse.py.
  if v.tag != 'hard'
]
SLOPED += [
  pytest.param(
    dataclasses.replace(BARE, num_heads=4, num_kv_heads=2, logit_cap=1.5),
    'blocks/attention/',
    id='grouped-and-capped',
  )
]


def test_slopes_are_of_parameters() -> None:
  """Each path of `OWN` is that of a parameter of some member."""
  tables = [case.values[0].parameter_table(dims_of(BASE)) for case in SLOPED]
  paths = {path for table in tables for path in table}
  assert all(any(p.startswith(own) for p in paths) for own in OWN.values())


@pytest.mark.slow
@pytest.mark.parametrize(('arch', 'own'), SLOPED)
def test_gradients_equal_differences_of_the_loops(
  arch: Architecture, own: str
) -> None:
  """Of the input, and of each parameter whose path begins with `own`."""
  params, dims = stacked_params(arch), dims_of(arch)
  tokens_BT, probe_BTV = np.array([[3, 0, 5, 1]]), draws(1, 4, VOCABULARY)

  def loss(params: Any) -> jax.Array:
    out = transformer.apply(arch, dims, params, tokens_BT)
    return (out.logits_BTV * probe_BTV).sum()

  with jax.enable_x64(True):
    given = jax.tree.map(jnp.asarray, tree(params))
    grads = jax.tree.map(np.asarray, flat(jax.jit(jax.grad(loss))(given)))
  for path in ['embedding/token', *(p for p in params if p.startswith(own))]:
    direction, step, ends = draws(*params[path].shape, seed=9), 1e-5, []
    for sign in (1, -1):
      moved = params | {path: params[path] + sign * step * direction}
      out = reference.model(arch, moved, tokens_BT)
      ends.append(float((out.logits_BTV * probe_BTV).sum()))
    slope = float((grads[path] * direction).sum())
    expected = (ends[0] - ends[1]) / (2 * step)
    assert slope == pytest.approx(expected, rel=1e-7), path
    assert abs(slope) > 1e-3, path


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


@pytest.mark.slow
def test_masks_are_combined() -> None:
  for masks_ in mask_lists(causal=False):
    if any(mask.tag == 'auto' for mask in masks_):
      continue  # it stands for others
    segments_S = [1, 1, 2, 2, 0]
    seen_TS = [
      [reference.sees(masks_, t, s, segments_S) for s in range(5)]
      for t in range(5)
    ]
    s_S, a_S = jnp.arange(5), jnp.asarray(segments_S)
    at = Places(s_S[:, None], s_S, a_S[:, None], a_S)
    np.testing.assert_array_equal(allowed(masks_, at), seen_TS)
