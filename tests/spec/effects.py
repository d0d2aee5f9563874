"""Effects: no choice of a configuration could be left out unnoticed."""

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model import transformer
from model.backends.base import AutoBackend, Reference
from model.core.field import FieldError, Variant
from model.core.inputs import ModelInputs
from spec.conformance import Choice, Row, axes, configured, usual
from spec.families import packed
from spec.subject import applied, dims_of, inputs, shapes
from train.config.config import Config
from train.core.trees import unflatten

# Choices that may have no effect, and why they are accepted all the same.
IDLE: Mapping[str, str] = {
  'backend': 'auto is one of the others, by the length',
  'mask': 'auto is one of the others, by the model',
  'head_dim': 'may say what none stands for',
  'num_kv_heads': 'may say what none stands for',
  'model': 'a mask that is named makes one family as another',
  'scan_layers': 'none is one of the others; no loop runs a single period',
}
# Choices with a field that may say what its `auto` stands for in all stacks.
DIRECTED = ('position', 'score')


def check_effects(row: Row) -> None:
  """Asserts that no choice of a row could be left out unnoticed."""
  config = configured(row, packed)
  for choice, without in _without(row):
    try:
      other = configured(row | {choice.field: without}, packed)
    except FieldError:
      continue
    if choice.field in IDLE and _equal_but(choice.field, config, other):
      continue
    if choice.field in DIRECTED and _directed(choice.field, config) == (
      _directed(choice.field, other)
    ):
      continue
    assert shapes(config) != shapes(other) or any(
      text(config) != text(other)
      for text in (_forward, _start, _backward, _penalty)
    ), f'{choice} has no effect: it could as well be {without}'


def _directed(field: str, config: Config) -> list[object]:
  """Returns a choice as each stack that attends to itself takes it."""
  arch = config.architecture
  stacks = [stack for stack in arch.stacks if stack.has_self_attention]
  return [arch.parts_of(stack)._asdict()[field] for stack in stacks]


def _without(row: Row) -> Iterator[tuple[Choice, Choice]]:
  """Yields each choice and what is left when something of it is taken off."""
  for field, choice in row.items():
    first = axes()[field][0]
    if choice == first:
      continue
    yield choice, first
    if choice.is_list:
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
    return auto == {AutoBackend, Reference}
  if field == 'mask':
    return one.architecture.masks == other.architecture.masks
  if field == 'scan_layers':
    here, there = one.architecture, other.architecture
    periods = {stack.num_layers // len(here.layers) for stack in here.stacks}
    return all(n < 2 or here.scans(n) == there.scans(n) for n in periods)
  if field == 'model':
    return one.architecture.stacks == other.architecture.stacks
  return dims_of(one) == dims_of(other)


def _structs(config: Config) -> Any:
  """Returns the shapes of all parameters, as arguments."""
  return unflatten(
    {p: jax.ShapeDtypeStruct(s, jnp.float32) for p, s in shapes(config).items()}
  )


@functools.cache
def _forward(config: Config) -> str:
  """Returns the program of the model with dropout; dead code is not in it."""

  def run(params: Any, seeds_B: jax.Array) -> jax.Array:
    rngs_B = jax.vmap(jax.random.key)(seeds_B)
    return applied(config, params, inputs(config), rngs_B)

  return jax.jit(run).lower(_structs(config), np.arange(2)).as_text()


@functools.cache
def _backward(config: Config) -> str:
  """Returns the program of a gradient, which alone sees what is recomputed."""

  def loss(params: Any) -> jax.Array:
    return applied(config, params, inputs(config)).sum()

  return jax.jit(jax.grad(loss)).lower(_structs(config)).as_text()


@functools.cache
def _penalty(config: Config) -> str:
  """Returns the program of what the model adds to the loss, as text."""
  arch = config.architecture

  def penalty_B(params: Any) -> jax.Array | None:
    own = inputs(config)
    out = transformer.apply(
      arch,
      dims_of(config),
      params,
      ModelInputs(own.tokens_BT, own.segments_BT, own.source),
    )
    return arch.penalty_B(out.aux, lambda x: x)

  return jax.jit(penalty_B).lower(_structs(config)).as_text()


@functools.cache
def _start(config: Config) -> str:
  """Returns the program that draws the initial parameters, as text."""
  start = functools.partial(
    transformer.init, config.architecture, dims_of(config)
  )
  return jax.jit(lambda seed: start(jax.random.key(seed))).lower(0).as_text()
