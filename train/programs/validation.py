"""Losses and gradients of trained parameters on validation examples."""

import jax
import jax.numpy as jnp

from model.core.field import bind
from model.core.parameter import Dims, Params
from model.core.side_output import totals
from train.config.config import Config
from train.devices.parallel import batch_shard
from train.optim.objective import EvaluationSums, evaluation_sums
from train.programs.signature import Signature
from train.programs.step import loss_sums, model_output, target_weights
from train.tasks.base import TOKEN_BYTES, Arrays, Batch, spaced_examples
from train.tasks.long_arrays import nth_batch


def evaluate(
  sig: Signature,
  index: jax.Array,
  params: Params,
  values: Arrays,
  arrays: Arrays,
) -> EvaluationSums:
  """Returns sums over evenly spread validation examples."""
  config = bind(sig.static, values)
  size, wanted = config.batch_size, sig.eval_examples
  batches = -(-wanted // size)
  ids_X = jnp.asarray(spaced_examples(sig.available, wanted, size))
  real_X = jnp.arange(batches * size) < wanted

  def sums_of(n: jax.Array) -> EvaluationSums:
    ids_B, real_B = (
      jax.lax.dynamic_slice_in_dim(x_X, n * size, size)
      for x_X in (ids_X, real_X)
    )
    batch = config.task.evaluation_batch(
      nth_batch(arrays, n), ids_B, config.seq_len
    )
    batch = batch._replace(weights_BT=batch.weights_BT * real_B[:, None])
    part = batch_shard(batch, index, sig.layout.shares)
    return evaluation_step(config, sig.dims, params, part, arrays)

  def body(n: jax.Array, sums: EvaluationSums) -> EvaluationSums:
    return jax.tree.map(jnp.add, sums, sums_of(n))

  zero = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(sums_of, 0)
  )
  sums = jax.lax.fori_loop(0, batches, body, zero)
  return sums if sig.axis is None else jax.lax.psum(sums, sig.axis)


def evaluation_step(
  config: Config, dims: Dims, params: Params, batch: Batch, arrays: Arrays
) -> EvaluationSums:
  """Returns the sums of an evaluation batch, without dropout and smoothing."""
  out = model_output(config, dims, params, batch, None)
  weights_BT = target_weights(config, batch)
  sums = evaluation_sums(
    config.objective,
    out.logits_BTV,
    batch.targets,
    weights_BT,
    arrays.get(TOKEN_BYTES),
    config.task.by_position,
  )
  # Examples that only fill up the last batch must not count.
  return sums._replace(aux=totals(out.aux, (weights_BT > 0).any(1)))


def mean_gradients(
  config: Config, dims: Dims, params: Params, batch: Batch
) -> Params:
  """Returns the gradients of the mean loss of a batch, without dropout.

  The loss includes label smoothing and penalties; frozen parameters have
  gradients too.
  """

  def loss(params: Params) -> jax.Array:
    sums = loss_sums(config, dims, params, batch, None, None)
    return sums.loss / jnp.maximum(sums.count, 1.0)

  return jax.grad(loss)(params)
