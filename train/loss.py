"""Losses as sums: divided once, at the end, so that shares add up exactly."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Sums(NamedTuple):
  """Sums over tokens; `count` is the sum of their weights."""

  loss: jax.Array
  correct: jax.Array
  count: jax.Array


def cross_entropy(
  logits_BTV: jax.Array,
  targets_BT: jax.Array,
  weights_BT: jax.Array,
  label_smoothing: float,
) -> Sums:
  """Returns sums of -sum_v q(v) log p(v), in nats, and of correct guesses.

  q is (1 - label_smoothing) at the target plus label_smoothing / V everywhere
  (Szegedy et al. 2016, section 7).
  """
  log_p_BTV = jax.nn.log_softmax(logits_BTV)
  loss_BT = -jnp.take_along_axis(log_p_BTV, targets_BT[..., None], -1)[..., 0]
  if not (isinstance(label_smoothing, float) and label_smoothing == 0.0):
    uniform_BT = -log_p_BTV.mean(-1)
    loss_BT = (1 - label_smoothing) * loss_BT + label_smoothing * uniform_BT
  correct_BT = (logits_BTV.argmax(-1) == targets_BT).astype(loss_BT.dtype)
  return Sums(
    (loss_BT * weights_BT).sum(),
    (correct_BT * weights_BT).sum(),
    weights_BT.sum(),
  )
