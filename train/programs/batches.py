"""The batch of each step: a function of the seed and of the step alone."""

import jax

from model.core.parameter import key_of
from train.config.config import Config
from train.tasks.base import Arrays, Batch, Draw
from train.tasks.shuffle import shuffle_batch_targets


def batch_of(
  config: Config, arrays: Arrays, step: jax.Array, bucket: int = 0
) -> Batch:
  """Returns the batch of a step, the same for all trials with the same seed.

  Args:
    config: the trial.
    arrays: its data, or the rows that the host read for this step.
    step: number of the step.
    bucket: index of the shape of the batch, static; `bucket_of` chooses it.
  """
  batch = config.task.batch(arrays, _draw(config, step), bucket)
  if not config.shuffle_targets:
    return batch
  key = key_of('shuffle', jax.random.key(config.seed))
  return shuffle_batch_targets(batch, jax.random.fold_in(key, step))


def bucket_of(config: Config, arrays: Arrays, step: jax.Array) -> jax.Array:
  """Returns the bucket of a step, which sets the shape of its batch."""
  return config.task.bucket(arrays, _draw(config, step))


def _draw(config: Config, step: jax.Array) -> Draw:
  """Returns the arguments that determine the batch of a step."""
  key = key_of('data', jax.random.key(config.seed))
  return Draw(key, step, config.batch_size, config.seq_len)
