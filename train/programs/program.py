"""The compiled program that all trials with one static signature share.

Numbers (seed, learning rate, dropout rates ...) are arguments, not constants:
trials that differ only in them run the same machine code.  One dispatch runs a
chunk of as many steps as the host asks for.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from model.core.field import bind
from model.core.parameter import Params
from train.devices.parallel import batch_shard
from train.optim.objective import EvaluationSums
from train.programs.batches import batch_of, bucket_of
from train.programs.inspection import Inspection, inspect
from train.programs.signature import Signature
from train.programs.state import TrainState
from train.programs.step import StepMetrics, train_step
from train.programs.validation import evaluate
from train.tasks.base import Arrays
from train.tasks.long_arrays import HOST_BLOCK, nth_batch

MAX_CHUNK_STEPS = 1024  # most steps in one dispatch: the length of the buffers


@dataclasses.dataclass(frozen=True)
class Program:
  """Functions of a trial, compiled at their first call.

    chunk(state, values, arrays, stop)
    evaluate(params, values, arrays)
    inspect_example(params, values, arrays, tokens_1T, given)

  `values` are the traced numbers; `arrays` are the data on the devices, or the
  rows that the host feeds.
  """

  chunk: Callable[
    [TrainState, Arrays, Arrays, Any], tuple[TrainState, StepMetrics]
  ]
  evaluate: Callable[[Params, Arrays, Arrays], EvaluationSums]
  inspect_example: Callable[[Params, Arrays, Arrays, Any, Any], Inspection]


@functools.lru_cache(maxsize=64)
def get_program(sig: Signature) -> Program:
  """Returns the program of a signature, from a cache."""
  compiled = sig.layout.compile
  return Program(
    # Whether each argument differs between lanes.
    chunk=compiled(
      functools.partial(_chunk, sig),
      (True, True, sig.is_host_fed, True),
      donate=(0,),
    ),
    evaluate=compiled(functools.partial(evaluate, sig), (True, True, False)),
    inspect_example=jax.jit(functools.partial(inspect, sig)),
  )


def _chunk(
  sig: Signature,
  index: jax.Array,
  state: TrainState,
  values: Arrays,
  arrays: Arrays,
  stop: jax.Array,
) -> tuple[TrainState, StepMetrics]:
  """Returns the state at step `stop`, and the metrics of the steps up to it.

  The loop bound is an argument, so that chunks of all lengths share one
  compilation; a lax.scan would compile once for each length.
  """
  config = bind(sig.static, values)
  start = state.step

  def advance(bucket: int, state: TrainState) -> tuple[TrainState, StepMetrics]:
    rows = nth_batch(arrays, state.step % HOST_BLOCK)
    batch = batch_of(config, rows, state.step, bucket)
    part = batch_shard(batch, index, sig.layout.shares)
    return train_step(config, sig.dims, state, part, sig.axis)

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

  empty = jnp.zeros(MAX_CHUNK_STEPS, jnp.float32)
  carry = (state, StepMetrics(empty, empty, empty))
  return jax.lax.fori_loop(start, stop, body, carry)
