"""The training step: gradients and updates, as pure functions."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from model import transformer
from model.attention.mask import hides_target, separate
from model.core.inputs import document_places
from model.core.parameter import Dims, Params, key_of
from model.core.side_output import NOTHING, Request, totals
from model.interfaces import NetworkOutput
from train.config.config import Config
from train.core.trees import unflatten
from train.optim.average import UpdateTime
from train.optim.base import UpdateContext
from train.optim.objective import LossSums, training_sums
from train.programs.state import TrainState
from train.tasks.base import Batch


class StepMetrics(NamedTuple):
  """Scalars of one step; in a chunk, buffers with those of its steps first.

  The gradient norm is that before clipping.
  """

  loss: jax.Array
  grad_norm: jax.Array
  learning_rate: jax.Array


def train_step(
  config: Config, dims: Dims, state: TrainState, batch: Batch, axis: str | None
) -> tuple[TrainState, StepMetrics]:
  """Returns the state after one training step, and the metrics of the step.

  Args:
    config: the trial, with its traced numbers.
    dims: sizes of the axes.
    state: before the step.
    batch: this device's share of the batch.
    axis: name of the axis of devices that share the batch, or None if none do.
  """
  grads, sums = _gradients(config, dims, state, batch, axis)
  if axis is not None:
    # Each device has the gradient of its own sum: add first, then divide.
    grads, sums = jax.lax.psum((grads, sums), axis)
  # A batch may have no target, such as when --task=mlm has masked no token.
  count = jnp.maximum(sums.count, 1.0)
  grads = jax.tree.map(lambda g: g / count, grads)
  loss, grad_norm = sums.loss / count, optax.tree.norm(grads)
  optimization, steps = config.optimization, jnp.asarray(config.steps)
  table = config.architecture.parameter_table(dims)
  updates, opt_state = optimization.transform(table, steps).update(
    grads, state.opt_state, state.params
  )
  params = optax.apply_updates(state.params, updates)
  at = UpdateTime(state.step + 1, steps, config.eval_every)
  params = config.architecture.after_update(params, sums.aux)
  aux_by_name = {
    f'{group}/{name}': x
    for group, aux in sums.aux.items()
    for name, x in aux.items()
  }
  params, after = optimization.after(
    state.after, state.params, UpdateContext(table, params, aux_by_name, at)
  )
  average = optimization.average.after(state.average, params, at)
  fine = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & (state.diverged < 0)
  new = TrainState(
    step=state.step + 1,
    params=_choose(fine, params, state.params),
    opt_state=_choose(fine, opt_state, state.opt_state),
    diverged=jnp.where(
      fine | (state.diverged >= 0), state.diverged, state.step
    ),
    average=_choose(fine, average, state.average),
    after=_choose(fine, after, state.after),
  )
  return new, StepMetrics(loss, grad_norm, optimization.rate(state.step, steps))


def _gradients(
  config: Config, dims: Dims, state: TrainState, batch: Batch, axis: str | None
) -> tuple[Params, LossSums]:
  """Returns gradient and sums of the loss, accumulated over micro-batches."""
  arch = config.architecture
  table = arch.parameter_table(dims)
  untrained = config.optimization.untrained(table)
  frozen = unflatten({path: path in untrained for path in table})
  key = key_of('dropout', jax.random.key(config.seed))
  step_key = jax.random.fold_in(key, state.step)

  def loss_and_sums(params: Params, part: Batch) -> tuple[jax.Array, LossSums]:
    # So frozen parameters add nothing to the norm of the gradient.
    params = jax.tree.map(
      lambda p, f: jax.lax.stop_gradient(p) if f else p, params, frozen
    )
    rngs_B = jax.vmap(lambda i: jax.random.fold_in(step_key, i))(part.ids_B)
    sums = loss_sums(config, dims, params, part, rngs_B, axis)
    return sums.loss, sums

  gradient = jax.grad(loss_and_sums, has_aux=True)
  if config.microbatches == 1:
    return gradient(state.params, batch)
  parts = jax.tree.map(
    lambda x: x.reshape(config.microbatches, -1, *x.shape[1:]), batch
  )

  def add(carry: Any, part: Batch) -> tuple[Any, None]:
    return jax.tree.map(jnp.add, carry, gradient(state.params, part)), None

  first = jax.tree.map(lambda x: x[0], parts)
  zero = jax.tree.map(
    lambda x: jnp.zeros(x.shape, x.dtype),
    jax.eval_shape(gradient, state.params, first),
  )
  summed, _ = jax.lax.scan(add, zero, parts)
  return summed


def model_output(
  config: Config,
  dims: Dims,
  params: Params,
  batch: Batch,
  rngs_B: jax.Array | None,
  wanted: Request = NOTHING,
) -> NetworkOutput:
  """Returns the output of the model; `rngs_B` are for dropout, None is off."""
  arch = config.architecture
  return transformer.apply(arch, dims, params, batch.inputs, rngs_B, wanted)


def loss_sums(
  config: Config,
  dims: Dims,
  params: Params,
  batch: Batch,
  rngs_B: jax.Array | None,
  axis: str | None,
) -> LossSums:
  """Returns sums of objective and penalties over this device's examples.

  The penalty of an example is weighted by its number of targets, so that the
  sums of devices and micro-batches can be added.
  """
  out = model_output(config, dims, params, batch, rngs_B)
  weights_BT = target_weights(config, batch)
  sums = training_sums(
    config.objective,
    out.logits_BTV,
    batch.targets,
    weights_BT,
    config.label_smoothing,
  )
  sums = sums._replace(aux=totals(out.aux))

  def sum_over_devices(x: jax.Array) -> jax.Array:
    return x if axis is None else jax.lax.psum(x, axis)

  penalty_B = config.architecture.penalty_B(out.aux, sum_over_devices)
  if penalty_B is None:
    return sums
  return sums._replace(loss=sums.loss + (penalty_B * weights_BT.sum(1)).sum())


def target_weights(config: Config, batch: Batch) -> jax.Array:
  """Returns the weights of targets: 0 where a position can see its target."""
  if not config.sees_targets:
    return batch.weights_BT
  masks = config.architecture.masks
  segments_BT = batch.inputs.segments_BT
  if segments_BT is not None and separate(masks):
    return batch.weights_BT * hides_target(masks, document_places(segments_BT))
  t_T = jnp.arange(batch.weights_BT.shape[1])
  return batch.weights_BT * hides_target(masks, t_T)


def _choose(condition: jax.Array, new: Any, old: Any) -> Any:
  """Returns one of two trees of arrays."""
  return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
