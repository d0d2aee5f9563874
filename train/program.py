"""The compiled program of all trials with one static signature.

Numbers (seed, learning rate, dropout rates ...) are arguments, not constants:
trials that differ only in them run the same machine code.  One dispatch runs
as many steps as the host asks for; the host sees a chunk, not a step.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from model import transformer
from model.field import bind
from model.parameter import Dims
from train.config import Config
from train.loss import Sums
from train.parallel import AXIS, Devices
from train.step import (
  Metrics,
  Params,
  State,
  batch_of,
  evaluate,
  init_state,
  update,
)

CAPACITY = 1024  # most steps in one dispatch: the length of the buffers

Arrays = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Program:
  """Functions of (values, ...), compiled when first called.

  `values` are the traced numbers as `model.field.split` returns them.
  """

  init: Callable[[Arrays, Params | None], State]
  chunk: Callable[[State, Arrays, Arrays, Any], tuple[State, Metrics]]
  evaluate: Callable[[Params, Arrays, Arrays], Sums]
  weights: Callable[[Params, Arrays, Any], Any]


def numbers(values: Mapping[str, Any]) -> dict[str, np.ndarray]:
  """Returns traced numbers as arrays: int32 and float32, never weak types."""
  return {
    path: np.asarray(v, np.int32 if isinstance(v, int) else np.float32)
    for path, v in values.items()
  }


@functools.lru_cache(maxsize=64)
def program(
  static: Config, dims: Dims, eval_examples: int, devices: Devices
) -> Program:
  """Returns the program of a static signature.

  Args:
    static: the configuration without its traced numbers.
    dims: sizes of the axes.
    eval_examples: validation examples to evaluate on, of those there are.
    devices: what shares a batch.
  """

  def chunk(
    index: jax.Array,
    state: State,
    values: Arrays,
    arrays: Arrays,
    stop: jax.Array,
  ) -> tuple[State, Metrics]:
    config = bind(static, values)
    start = state.step

    def body(_: jax.Array, carry: Any) -> Any:
      state, buffers = carry
      batch = batch_of(config, arrays, state.step)
      at = state.step - start
      share = devices.share(batch, index)
      state, metrics = update(config, dims, state, share, AXIS)
      buffers = jax.tree.map(lambda b, m: b.at[at].set(m), buffers, metrics)
      return state, buffers

    empty = jnp.zeros(CAPACITY, jnp.float32)
    # A loop with a bound that is an argument compiles once for chunks of every
    # length; a lax.scan would compile once for each.
    return jax.lax.fori_loop(
      start, stop, body, (state, Metrics(empty, empty, empty))
    )

  def evaluation(
    index: jax.Array, params: Params, values: Arrays, arrays: Arrays
  ) -> Sums:
    return _evaluate(
      bind(static, values), dims, eval_examples, devices, index, params, arrays
    )

  def weights(
    params: Params, values: Arrays, tokens_BT: jax.Array
  ) -> jax.Array | None:
    arch = bind(static, values).architecture
    return transformer.apply(
      arch, dims, params, tokens_BT, want_weights=True
    ).weights_LBNTS

  def init(values: Arrays, params: Params | None) -> State:
    return init_state(bind(static, values), dims, params)

  return Program(
    init=jax.jit(init, out_shardings=devices.sharding),
    chunk=devices.compile(chunk, arguments=4, donate=(0,)),
    evaluate=devices.compile(evaluation, arguments=3),
    weights=jax.jit(weights),
  )


def _evaluate(
  config: Config,
  dims: Dims,
  eval_examples: int,
  devices: Devices,
  index: jax.Array,
  params: Params,
  arrays: Arrays,
) -> Sums:
  """Returns sums over the validation examples, spread evenly."""
  task, size = config.task, config.batch_size
  available = task.evaluation_size(arrays, config.seq_len)

  def body(n: jax.Array, sums: Sums) -> Sums:
    wanted_B = n * size + jnp.arange(size)
    real_B = wanted_B < eval_examples
    ids_B = jnp.where(real_B, wanted_B, 0)
    if eval_examples < available:
      # Products stay below 2^31 while there are fewer than 46,000 examples.
      ids_B = (ids_B * (available / eval_examples)).astype(jnp.int32)
    batch = task.evaluation_batch(arrays, ids_B, config.seq_len)
    batch = batch._replace(weights_BT=batch.weights_BT * real_B[:, None])
    share = devices.share(batch, index)
    return jax.tree.map(jnp.add, sums, evaluate(config, dims, params, share))

  zero = jnp.zeros((), jnp.float32)
  batches = -(-eval_examples // size)
  sums = jax.lax.fori_loop(0, batches, body, Sums(zero, zero, zero))
  return jax.lax.psum(sums, AXIS)
