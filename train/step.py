"""The training step: pure, and the only place where gradients are taken."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from model import transformer
from model.mask import blind, places, separate
from model.network import Output, Source
from model.parameter import Dims, key_of
from train.average import Moment
from train.config import Config
from train.loss import EvaluationSums, Sums, cross_entropy, evaluation_sums
from train.optimizer import tree
from train.task import TOKEN_BYTES, Arrays, Batch, Draw

Params = Mapping[str, Any]


class Saved(NamedTuple):
  """A state without an average, as checkpoints hold it."""

  step: jax.Array
  params: Params
  opt_state: optax.OptState
  diverged: jax.Array


class State(NamedTuple):
  """What a trial is made of between two steps.

  `diverged` is the first step whose loss or gradient was not finite, else -1;
  from that step on nothing changes any more.  `average` is there if --average
  keeps one.
  """

  step: jax.Array
  params: Params
  opt_state: optax.OptState
  diverged: jax.Array
  average: Params | None = None

  @property
  def evaluated(self) -> Params:
    """Returns the parameters that figures, files and users are given."""
    return self.params if self.average is None else self.average

  @property
  def saved(self) -> 'State | Saved':
    """Returns what a checkpoint holds: `State(*saved)` is the state again."""
    return Saved(*self[:4]) if self.average is None else self


class Metrics(NamedTuple):
  """Figures of one step."""

  loss: jax.Array
  grad_norm: jax.Array
  learning_rate: jax.Array


def init_state(
  config: Config, dims: Dims, params: Params | None = None
) -> State:
  """Returns the state before the first step.

  Args:
    config: the trial, with its traced numbers.
    dims: sizes of the axes.
    params: initial values; none draws them from the seed.
  """
  if params is None:
    key = key_of('init', jax.random.key(config.seed))
    params = transformer.init(config.architecture, dims, key)
  table = config.architecture.parameter_table(dims)
  total = jnp.asarray(config.steps)
  opt_state = config.optimization.transform(table, total).init(params)
  zero = jnp.zeros((), jnp.int32)
  average = config.optimization.average.start(params)
  return State(zero, params, opt_state, zero - 1, average)


def batch_of(
  config: Config, arrays: Arrays, step: jax.Array, bucket: int = 0
) -> Batch:
  """Returns the batch of a step; rows of a table with one seed share it.

  Args:
    config: the trial.
    arrays: its data, or what the host read of them for this step.
    step: which.
    bucket: what `bucket_of` returns for this step.
  """
  return config.task.batch(arrays, _draw(config, step), bucket)


def bucket_of(config: Config, arrays: Arrays, step: jax.Array) -> jax.Array:
  """Returns the bucket of a step, on which the shape of its batch depends."""
  return config.task.bucket(arrays, _draw(config, step))


def _draw(config: Config, step: jax.Array) -> Draw:
  """Returns what the batch of a step is a function of."""
  key = key_of('data', jax.random.key(config.seed))
  return Draw(key, step, config.batch_size, config.seq_len)


def update(
  config: Config, dims: Dims, state: State, batch: Batch, axis: str | None
) -> tuple[State, Metrics]:
  """Returns the state after one step of optimisation, and its figures.

  Args:
    config: the trial, with its traced numbers.
    dims: sizes of the axes.
    state: before the step.
    batch: this device's share of the batch.
    axis: name of the axis of devices that share the batch; none if one does.
  """
  grads, sums = _gradients(config, dims, state, batch)
  if axis is not None:
    # Each device holds the gradient of its own sum: add first, divide after.
    grads, sums = jax.lax.psum((grads, sums), axis)
  # A batch may hold nothing to predict, such as no token that mlm has hidden.
  count = jnp.maximum(sums.count, 1.0)
  grads = jax.tree.map(lambda g: g / count, grads)
  loss, grad_norm = sums.loss / count, optax.tree.norm(grads)
  optimization, total = config.optimization, jnp.asarray(config.steps)
  table = config.architecture.parameter_table(dims)
  updates, opt_state = optimization.transform(table, total).update(
    grads, state.opt_state, state.params
  )
  params = optax.apply_updates(state.params, updates)
  at = Moment(state.step + 1, total, config.eval_every)
  average = optimization.average.after(state.average, params, at)
  fine = jnp.isfinite(loss) & jnp.isfinite(grad_norm) & (state.diverged < 0)
  new = State(
    step=state.step + 1,
    params=_choose(fine, params, state.params),
    opt_state=_choose(fine, opt_state, state.opt_state),
    diverged=jnp.where(
      fine | (state.diverged >= 0), state.diverged, state.step
    ),
    average=_choose(fine, average, state.average),
  )
  return new, Metrics(loss, grad_norm, optimization.rate(state.step, total))


def _gradients(
  config: Config, dims: Dims, state: State, batch: Batch
) -> tuple[Params, Sums]:
  """Returns the gradient of the summed loss, over micro-batches, and sums."""
  arch = config.architecture
  table = arch.parameter_table(dims)
  frozen_paths = config.optimization.frozen(table)
  frozen = tree({path: path in frozen_paths for path in table})
  key = key_of('dropout', jax.random.key(config.seed))
  step_key = jax.random.fold_in(key, state.step)

  def summed(params: Params, part: Batch) -> tuple[jax.Array, Sums]:
    params = jax.tree.map(
      lambda p, f: jax.lax.stop_gradient(p) if f else p, params, frozen
    )
    keys_B = jax.vmap(lambda i: jax.random.fold_in(step_key, i))(part.ids_B)
    sums = _sums(config, dims, params, part, config.label_smoothing, keys_B)
    return sums.loss, sums

  gradient = jax.grad(summed, has_aux=True)
  if config.microbatches == 1:
    return gradient(state.params, batch)
  parts = jax.tree.map(
    lambda x: x.reshape(config.microbatches, -1, *x.shape[1:]), batch
  )

  def add(carry: Any, part: Batch) -> tuple[Any, None]:
    return jax.tree.map(jnp.add, carry, gradient(state.params, part)), None

  zero = jax.tree.map(jnp.zeros_like, state.params)
  none = jnp.zeros((), jnp.float32)
  total, _ = jax.lax.scan(add, (zero, Sums(none, none, none)), parts)
  return total


def evaluate(
  config: Config, dims: Dims, params: Params, batch: Batch, arrays: Arrays
) -> EvaluationSums:
  """Returns sums over a batch, without dropout and label smoothing."""
  out = output_of(config, dims, params, batch, None)
  return evaluation_sums(
    out.logits_BTV,
    batch.targets_BT,
    _weights(config, batch),
    arrays.get(TOKEN_BYTES),
    config.task.by_position,
  )


def output_of(
  config: Config,
  dims: Dims,
  params: Params,
  batch: Batch,
  keys_B: jax.Array | None,
  want_weights: bool = False,
) -> Output:
  """Returns what the model makes of a batch, with dropout by `keys_B`."""
  source = None
  if batch.source_BS is not None:
    source = Source(batch.source_BS, batch.source_segments_BS)
  return transformer.apply(
    config.architecture,
    dims,
    params,
    batch.inputs_BT,
    keys_B,
    want_weights,
    segments_BT=batch.segments_BT,
    source=source,
  )


def _sums(
  config: Config,
  dims: Dims,
  params: Params,
  batch: Batch,
  label_smoothing: float,
  keys_B: jax.Array | None,
) -> Sums:
  """Returns sums over a batch, with dropout by `keys_B`."""
  out = output_of(config, dims, params, batch, keys_B)
  return cross_entropy(
    out.logits_BTV, batch.targets_BT, _weights(config, batch), label_smoothing
  )


def _weights(config: Config, batch: Batch) -> jax.Array:
  """Returns how much each target counts: not at all where it is seen."""
  if not config.sees_targets:
    return batch.weights_BT
  masks = config.architecture.masks
  if batch.segments_BT is not None and separate(masks):
    return batch.weights_BT * blind(masks, places(batch.segments_BT))
  t_T = jnp.arange(batch.weights_BT.shape[1])
  return batch.weights_BT * blind(masks, t_T)


def _choose(condition: jax.Array, new: Any, old: Any) -> Any:
  return jax.tree.map(lambda n, o: jnp.where(condition, n, o), new, old)
