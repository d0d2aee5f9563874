"""Loss and accuracy of a model that knows only how frequent each target is.

This is the best that can be learned with --shuffle_targets, which gives each
training example the targets of another one; the validation targets are true.
"""

import dataclasses
import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from train.config.config import Config
from train.host_feed import read_block, validation_rows
from train.programs.batches import batch_of, bucket_of
from train.tasks.base import Arrays, Batch, Data, spaced_examples
from train.tasks.long_arrays import HOST_BLOCK, LongArrayTask, nth_batch

_MAX_BATCHES = 512  # training batches whose targets are counted


def frequency_loss(config: Config, data: Data) -> float:
  """Returns the cross-entropy of the unigram model, in nats per target.

  -sum_v q(v) log p(v), where q(v) is the frequency of v among the validation
  targets and p(v) the add-one smoothed frequency among the training targets.
  """
  p_V, q_V = _counts(config, data)
  p_V = (p_V + 1) / (p_V + 1).sum()
  return float(-(q_V * np.log(p_V)).sum() / q_V.sum())


def frequency_accuracy(config: Config, data: Data) -> float:
  """Returns the accuracy of always predicting the commonest training target."""
  p_V, q_V = _counts(config, data)
  return float(q_V[p_V.argmax()] / q_V.sum())


def _counts(config: Config, data: Data) -> tuple[np.ndarray, np.ndarray]:
  """Returns the counts of each target in training and in validation."""
  vocabulary = data.vocabulary
  tokens = config.task.predicts_tokens
  size = vocabulary.size if tokens else len(vocabulary.labels)
  plain = dataclasses.replace(config, shuffle_targets=False)
  p_V, q_V = np.zeros(size), np.zeros(size)
  for counts_V, batches in (
    (p_V, _training_batches(plain, data)),
    (q_V, _validation_batches(plain, data)),
  ):
    for batch in batches:
      np.add.at(counts_V, batch.targets, np.asarray(batch.weights_BT))
  return p_V, q_V


def _training_batches(config: Config, data: Data) -> Iterator[Batch]:
  """Yields the training batches of the first steps."""
  batch = jax.jit(functools.partial(batch_of, config), static_argnums=2)
  arrays: Arrays = dict(data.arrays)
  for step in range(min(config.steps, _MAX_BATCHES)):
    own, now = arrays, jnp.asarray(step, jnp.int32)
    if isinstance(config.task, LongArrayTask):
      if step % HOST_BLOCK == 0:
        arrays = read_block(config, data, step // HOST_BLOCK)
      own = nth_batch(arrays, step % HOST_BLOCK)
    yield batch(own, now, int(bucket_of(config, own, now)))


def _validation_batches(config: Config, data: Data) -> Iterator[Batch]:
  """Yields the validation examples in batches; padding has weight 0."""
  task, size = config.task, config.batch_size
  available = task.evaluation_size(data.arrays, config.seq_len)
  wanted = config.num_evaluated(data.arrays)
  ids_X = spaced_examples(available, wanted, size)
  read = jax.jit(task.evaluation_batch, static_argnums=2)
  for start in range(0, wanted, size):
    ids_B = ids_X[start : start + size]
    arrays: Arrays = dict(data.arrays)
    if isinstance(task, LongArrayTask):
      arrays = nth_batch(validation_rows(config, data, ids_B[None]), 0)
    found = read(arrays, jnp.asarray(ids_B), config.seq_len)
    real_B = np.arange(start, start + size) < wanted
    yield found._replace(weights_BT=found.weights_BT * real_B[:, None])
