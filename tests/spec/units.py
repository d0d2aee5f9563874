"""Each union: what the code computes, and what the loops compute."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model.architecture.architecture import Architecture
from model.architecture.family import Classifier
from model.core.inputs import ModelInputs
from model.core.parameter import Param, ParamRole
from spec import reference
from spec.architectures import (
  BASE,
  VOCABULARY,
  dims_of,
  drawn_params,
  draws,
  stacked_params,
  unions,
)
from spec.attention_units import (
  Cast,
  Pair,
  backend_pairs,
  mask_pairs,
  normalizer_pairs,
  output_pairs,
  position_pairs,
  projection_pairs,
  qk_norm_pairs,
  scale_pairs,
  score_pairs,
)
from spec.reference import REFERENCES
from spec.reference.measurements import Inside
from train.config.config import Config
from train.core.trees import flatten, unflatten
from train.measurements.base import Subject
from train.optim.average import UpdateTime
from train.optim.base import UpdateContext
from train.optim.optimizer import Optimization
from train.tasks.base import Batch


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


def read_in_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop = REFERENCES['read_in'][variant.tag]
  for width in (BASE.d_model, 5):
    dims = dataclasses.replace(dims_of(BASE), num_inputs=width)
    if variant.problem(dims):
      continue
    v_BTI, params = draws(2, 3, width), drawn_params(variant.params(dims))
    expected_BTD = [[loop(variant, params, v) for v in v_TI] for v_TI in v_BTI]
    yield variant.apply(cast(params), cast(v_BTI)), expected_BTD


def read_out_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop, x_BTD = REFERENCES['read_out'][variant.tag], draws(2, 3, 8)
  for width in (1, 3, BASE.d_model):
    dims = dataclasses.replace(dims_of(BASE), num_outputs=width)
    params = drawn_params(variant.params(dims))
    expected_BTO = [
      [loop(variant, params, x, width) for x in x_TD] for x_TD in x_BTD
    ]
    yield variant.apply(cast(params), cast(x_BTD), width), expected_BTO


def residual_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop, x_BTD = REFERENCES['residual'][variant.tag], draws(2, 3, 8)
  actual, extra = variant.connect(
    {},
    cast(x_BTD),
    jnp.asarray(0),
    lambda x_BTD: x_BTD * x_BTD,
    lambda x_BTD: (3.0 * x_BTD + 1.0, 'extra'),
  )
  assert extra == 'extra'
  yield (
    actual,
    [
      loop.connect(x_TD, lambda x_D: x_D * x_D, lambda x_TD: 3.0 * x_TD + 1.0)
      for x_TD in x_BTD
    ],
  )
  assert variant.traits.final_norm == loop.final_norm


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
    y_BTD, _ = variant.apply(cast(params), cast(x_BTD), None, None)
    yield y_BTD, expected_BTD


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
        reference.learning_rate(reference.rates(optimization), step, total)
        for step in range(total + 2)
      ],
    )


# Five matrices, each of two layers but the embedding; one is tall, one wide.
MOVED = {
  'embedding/token': Param('V->D', (4, 3), ParamRole.EMBEDDING),
  'blocks/attention/query': Param('D->NH', (3, 2, 2), ParamRole.MATRIX, 2),
  'blocks/attention/out': Param('NH->D', (2, 2, 3), ParamRole.RESIDUAL, 2),
  'blocks/output/mix': Param('N->O', (2, 2), ParamRole.MATRIX, 2),
  'blocks/norm_attention/scale': Param('->D', (3,), ParamRole.SCALE, 2),
  'blocks/norm_attention/bias': Param('->D', (3,), ParamRole.BIAS, 2),
}


def stacked(table: Mapping[str, Param], seed: int) -> dict[str, np.ndarray]:
  """Returns numbers for each parameter, with its layers."""
  return {
    path: draws(*([what.depth] if what.depth else []), *what.shape, seed=seed)
    for path, what in table.items()
  }


def optimizer_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  grads = [stacked(MOVED, n) for n in range(4)]
  transform = variant.scale(MOVED)

  @jax.jit
  def run(grads: list[Any]) -> list[Any]:
    state, found = transform.init(grads[0]), []
    for grad in grads:
      change, state = transform.update(grad, state)
      found.append(change)
    return found

  actual = [
    flatten(one) for one in run([cast(unflatten(grad)) for grad in grads])
  ]
  loop = REFERENCES['optimizer'][variant.tag]
  for path, what in MOVED.items():
    past = [grad[path] for grad in grads]
    yield (
      jnp.stack([one[path] for one in actual]),
      [loop(variant, what, past[: n + 1]) for n in range(4)],
    )


def after_update_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  loop, values = (
    REFERENCES['after_update'][variant.tag],
    [stacked(MOVED, n) for n in range(5)],
  )
  new, own = loop(variant, MOVED, None, values[0], 0)
  params, state = variant.start(MOVED, cast(unflatten(values[0])))
  for step in range(1, 6):
    for path in MOVED:
      yield flatten(params)[path], new[path]
    if step == 5:
      return
    moved = {path: x + values[step][path] for path, x in new.items()}
    new, own = loop(variant, MOVED, own, moved, step)
    at = UpdateTime(jnp.asarray(step), jnp.asarray(9), 3)
    given = UpdateContext(MOVED, cast(unflatten(moved)), {}, at)
    params, state = variant.after(state, given)


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
        at = UpdateTime(jnp.asarray(step), jnp.asarray(total), every)
        average = variant.after(average, params, at)
      actual.append((params if average is None else average)['x'])
    expected = [
      [loop(variant, list(past), total, every) for past in values[: n + 1].T]
      for n in range(total + 1)
    ]
    yield jnp.stack(actual), expected


def start_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  """Heads of every kind and biases, or one head where a start asks for it."""
  loop = REFERENCES['start'][variant.tag]
  many = dataclasses.replace(BASE, num_heads=4, num_kv_heads=2, use_bias=True)
  one = dataclasses.replace(BASE, num_heads=1)
  arch = many if variant.problem(many, dims_of(many)) is None else one
  table, params = arch.parameter_table(dims_of(arch)), stacked_params(arch)
  began = variant.begin(arch, dims_of(arch), cast(unflatten(params)))
  for path, x in flatten(began).items():
    what = table[path]
    layers = '' if what.depth is None else 'L'
    yield x, loop(variant, path, layers + what.letters, params[path])


def measure_pairs(variant: Any, cast: Cast) -> Iterator[Pair]:
  """With and without padding."""
  loop = REFERENCES['measure'][variant.tag]
  arch = dataclasses.replace(BASE, model=Classifier(), tie_embeddings=True)
  dims, params = dims_of(arch), stacked_params(arch)
  tokens_BT = np.random.default_rng(1).integers(0, VOCABULARY, (2, 5))
  full_BT, padded_BT = (
    np.ones((2, 5), int),
    np.array([[1] * 5, [1, 1, 1, 0, 0]]),
  )
  for segments_BT in (full_BT, padded_BT):
    batch = Batch(
      ModelInputs(tokens_BT, segments_BT=segments_BT),
      np.zeros((2, 1), int),
      np.ones((2, 1)),
      np.arange(2),
    )
    # Any numbers will do where their norms are asked for.
    gradients = {path: x * x for path, x in params.items()}
    subject = Subject(
      arch,
      dims,
      cast(unflatten(params)),
      batch,
      functools.partial(cast, unflatten(gradients)),
    )
    found = variant.measure(subject)
    weights_LBNTS = reference.model(
      arch, params, tokens_BT, segments_BT
    ).weights_LBNTS
    assert weights_LBNTS is not None
    streams = [
      reference.streams(arch, params, *example)
      for example in zip(tokens_BT, segments_BT, strict=True)
    ]
    inside = Inside(streams, weights_LBNTS, segments_BT, gradients)
    expected = loop(variant, inside)
    for mine, theirs in zip(found, expected, strict=True):
      assert mine.keys() == theirs.keys()
      yield from ((mine[name], theirs[name]) for name in mine)


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
  'read_in': read_in_pairs,
  'read_out': read_out_pairs,
  'residual': residual_pairs,
  'feedforward': feedforward_pairs,
  'schedule': schedule_pairs,
  'optimizer': optimizer_pairs,
  'after_update': after_update_pairs,
  'average': average_pairs,
  'start': start_pairs,
  'measure': measure_pairs,
}
OF_TRIAL = {name: unions(Config)[name] for name in ('start', 'measure')}
ALL = unions(Architecture) | unions(Optimization) | OF_TRIAL
