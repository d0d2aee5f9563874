"""The compiled program of all trials with one static signature.

Numbers (seed, learning rate, dropout rates ...) are arguments, not constants:
trials that differ only in them run the same machine code.  One dispatch runs
as many steps as the host asks for; the host sees a chunk, not a step.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.field import bind, split
from model.parameter import Dims
from train.config import Config
from train.loss import EvaluationSums
from train.parallel import AXIS, Layout, share
from train.readable import BLOCK, at
from train.step import (
  Metrics,
  Params,
  State,
  batch_of,
  bucket_of,
  evaluate,
  output_of,
  update,
)
from train.task import Data, spread

CAPACITY = 1024  # most steps in one dispatch: the length of the buffers

MAP_TOKENS = 64  # attention maps are kept for this many tokens

Arrays = Mapping[str, Any]


class Seen(NamedTuple):
  """A sequence of tokens, of which the first `size` are no padding."""

  size: jax.Array
  tokens_T: jax.Array


class Look(NamedTuple):
  """A text, what the model says of it, and where it looks.

  The weights are those of `network.Output`, each none where there are none.
  """

  text: Seen
  source: Seen | None
  logits_TV: jax.Array
  weights_LNTS: jax.Array | None
  cross_LNTS: jax.Array | None
  encoder_LNTS: jax.Array | None


@dataclasses.dataclass(frozen=True)
class Signature:
  """What is compiled into a program; trials that share it share the program.

  Attributes:
    static: the configuration without its traced numbers.
    dims: sizes of the axes.
    available: how many validation examples there are.
    eval_examples: how many of them to evaluate on.
    layout: how trials lie on devices.
    fed: whether the host reads the data, BLOCK steps at a time.
  """

  static: Config
  dims: Dims
  available: int
  eval_examples: int
  layout: Layout
  fed: bool

  @property
  def axis(self) -> str | None:
    """Returns the axis of devices that share a batch; none if one does."""
    return AXIS if self.layout.shares > 1 else None


@dataclasses.dataclass(frozen=True)
class Program:
  """Functions of (..., values, arrays), compiled when first called.

  `values` are the traced numbers and `arrays` the data, on the devices, or what
  the host read of them.
  """

  chunk: Callable[[State, Arrays, Arrays, Any], tuple[State, Metrics]]
  evaluate: Callable[[Params, Arrays, Arrays], EvaluationSums]
  look: Callable[[Params, Arrays, Arrays, Any, Any], Look]


def signature(
  config: Config, data: Data, layout: Layout, fed: bool = False
) -> tuple[Signature, dict[str, np.ndarray]]:
  """Returns what is compiled for a trial, and the numbers it is called with.

  Numbers are int32 and float32 arrays, never weak types: all calls then have
  the same type.
  """
  static, values = split(config.compiled)
  assert isinstance(static, Config)
  available = config.task.evaluation_size(data.arrays, config.seq_len)
  examples = config.evaluated(data.arrays)
  numbers = {
    path: np.asarray(v, np.int32 if isinstance(v, int) else np.float32)
    for path, v in values.items()
  }
  dims = config.sizes(data.vocabulary)
  return Signature(static, dims, available, examples, layout, fed), numbers


@functools.lru_cache(maxsize=64)
def program(sig: Signature) -> Program:
  """Returns the program of a signature."""
  compiled = sig.layout.compile
  return Program(
    chunk=compiled(
      functools.partial(_chunk, sig), (True, True, sig.fed, True), donate=(0,)
    ),
    evaluate=compiled(functools.partial(_evaluate, sig), (True, True, False)),
    look=jax.jit(functools.partial(_look, sig)),
  )


def _chunk(
  sig: Signature,
  index: jax.Array,
  state: State,
  values: Arrays,
  arrays: Arrays,
  stop: jax.Array,
) -> tuple[State, Metrics]:
  """Returns the state at step `stop`, and the figures of the steps on the way.

  A loop whose bound is an argument compiles once for chunks of every length; a
  lax.scan would compile once for each.
  """
  config = bind(sig.static, values)
  start = state.step

  def advance(bucket: int, state: State) -> tuple[State, Metrics]:
    own = at(arrays, state.step % BLOCK)
    batch = batch_of(config, own, state.step, bucket)
    part = share(batch, index, sig.layout.shares)
    return update(config, sig.dims, state, part, sig.axis)

  def body(_: jax.Array, carry: Any) -> Any:
    state, buffers = carry
    n = state.step - start
    branches = [
      functools.partial(advance, k) for k in range(config.task.num_buckets)
    ]
    if len(branches) == 1:
      state, metrics = branches[0](state)
    else:
      bucket = bucket_of(config, arrays, state.step)
      state, metrics = jax.lax.switch(bucket, branches, state)
    return state, jax.tree.map(lambda b, m: b.at[n].set(m), buffers, metrics)

  empty = jnp.zeros(CAPACITY, jnp.float32)
  carry = (state, Metrics(empty, empty, empty))
  return jax.lax.fori_loop(start, stop, body, carry)


def _evaluate(
  sig: Signature,
  index: jax.Array,
  params: Params,
  values: Arrays,
  arrays: Arrays,
) -> EvaluationSums:
  """Returns sums over the validation examples, spread evenly."""
  config = bind(sig.static, values)
  size, wanted = config.batch_size, sig.eval_examples
  batches = -(-wanted // size)
  ids_X = jnp.asarray(spread(sig.available, wanted, size))
  real_X = jnp.arange(batches * size) < wanted

  def sums_of(n: jax.Array) -> EvaluationSums:
    ids_B, real_B = (
      jax.lax.dynamic_slice_in_dim(x_X, n * size, size)
      for x_X in (ids_X, real_X)
    )
    batch = config.task.evaluation_batch(at(arrays, n), ids_B, config.seq_len)
    batch = batch._replace(weights_BT=batch.weights_BT * real_B[:, None])
    part = share(batch, index, sig.layout.shares)
    return evaluate(config, sig.dims, params, part, arrays)

  def body(n: jax.Array, sums: EvaluationSums) -> EvaluationSums:
    return jax.tree.map(jnp.add, sums, sums_of(n))

  zero = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(sums_of, 0)
  )
  sums = jax.lax.fori_loop(0, batches, body, zero)
  return sums if sig.axis is None else jax.lax.psum(sums, sig.axis)


def _look(
  sig: Signature,
  params: Params,
  values: Arrays,
  arrays: Arrays,
  tokens_1T: jax.Array,
  given: jax.Array,
) -> Look:
  """Returns what there is to see of the first validation example.

  Args:
    sig: what is compiled.
    params: of the model.
    values: the traced numbers.
    arrays: the data, or what the host read of this example.
    tokens_1T: another text, no longer than the example.
    given: whether to look at that one.
  """
  config = bind(sig.static, values)
  one = jnp.zeros(1, jnp.int32)
  batch = config.task.evaluation_batch(arrays, one, config.seq_len)
  length = tokens_1T.shape[1]
  batch = jax.tree.map(lambda x: x[:, :length], batch._replace(ids_B=None))
  tokens_1T = jnp.where(given, tokens_1T, batch.inputs_BT)
  batch = batch._replace(inputs_BT=tokens_1T)
  if batch.segments_BT is not None:  # what is given is one document
    segments_BT = jnp.where(given, 1, batch.segments_BT)
    batch = batch._replace(segments_BT=segments_BT)
  out = output_of(config, sig.dims, params, batch, None, want_weights=True)
  size = jnp.asarray(length)
  if config.task.gives_padding:
    used_1T = (
      batch.weights_BT if batch.segments_BT is None else batch.segments_BT
    )
    size = (used_1T > 0).sum()
  source = None
  if batch.source_BS is not None and batch.source_segments_BS is not None:
    read = (batch.source_segments_BS > 0).sum()
    source = Seen(read, batch.source_BS[0])
  maps = out.weights_LBNTS, out.cross_LBNTS, out.encoder_LBNTS
  weights, cross, encoder = (x if x is None else x[:, 0] for x in maps)
  text = Seen(size, tokens_1T[0])
  return Look(text, source, out.logits_BTV[0], weights, cross, encoder)
