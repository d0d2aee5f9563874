"""Shuffled training targets, as a control.

Targets carry no information on their examples then: all that can be learned is
how frequent each target is.
"""

import jax
import jax.numpy as jnp

from train.tasks.base import Batch


def shuffle_batch_targets(batch: Batch, key: jax.Array) -> Batch:
  """Replaces each target by a target of another example of the batch.

  Targets with weight > 0 are drawn, with replacement, from those with weight
  > 0 of the other examples, so that none is from the same text.  If the other
  examples have none, the target gets weight 0.

  Args:
    batch: the whole batch, not the share of one device.
    key: random key of the step.
  """
  rows, length = batch.weights_BT.shape
  counts_B1 = (batch.weights_BT > 0).sum(1, keepdims=True)
  before_B1 = jnp.cumsum(counts_B1, axis=0) - counts_B1
  others_B1 = counts_B1.sum() - counts_B1
  # Draw n among the targets of the others; skip the targets of this example.
  n_BT = jax.random.randint(key, (rows, length), 0, jnp.maximum(others_B1, 1))
  n_BT = jnp.where(n_BT < before_B1, n_BT, n_BT + counts_B1)
  # Flat index of the n-th target that counts.
  places_X = jnp.argsort(batch.weights_BT.ravel() <= 0, stable=True)
  if batch.targets_BTO is None:
    targets_BT = batch.targets.ravel()[places_X[n_BT]]
    batch = batch._replace(
      targets_BT=jnp.where(batch.weights_BT > 0, targets_BT, batch.targets)
    )
  else:
    own_BTO = batch.targets_BTO
    targets_BTO = own_BTO.reshape(-1, own_BTO.shape[-1])[places_X[n_BT]]
    counts_BT1 = batch.weights_BT[..., None] > 0
    batch = batch._replace(
      targets_BTO=jnp.where(counts_BT1, targets_BTO, own_BTO)
    )
  weights_BT = jnp.where(others_B1 > 0, batch.weights_BT, 0.0)
  return batch._replace(weights_BT=weights_BT)
