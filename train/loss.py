"""Losses as sums: divided once, at the end, so that shares add up exactly."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Sums(NamedTuple):
  """Sums over tokens; `count` is the sum of their weights."""

  loss: jax.Array
  correct: jax.Array
  count: jax.Array


class EvaluationSums(NamedTuple):
  """Sums over the tokens that an evaluation predicts.

  Attributes:
    loss: in nats.
    correct: guesses.
    count: of the targets.
    loss_T: the loss at each position of an example.
    count_T: of the targets there.
    bytes_T: of UTF-8 that these stand for; 0 where a token has none of its own.
  """

  loss: jax.Array
  correct: jax.Array
  count: jax.Array
  loss_T: jax.Array
  count_T: jax.Array
  bytes_T: jax.Array


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
  loss_BT, correct_BT = _of_tokens(logits_BTV, targets_BT, label_smoothing)
  return _sums(loss_BT, correct_BT, weights_BT)


def evaluation_sums(
  logits_BTV: jax.Array,
  targets_BT: jax.Array,
  weights_BT: jax.Array,
  bytes_V: jax.Array | None,
  by_position: bool,
) -> EvaluationSums:
  """Returns sums without label smoothing, and those of each position.

  Args:
    logits_BTV: of the model.
    targets_BT: token ids.
    weights_BT: of each target.
    bytes_V: bytes of UTF-8 that each token id stands for, if that is known.
    by_position: also sum at each position; else these sums are 0.
  """
  loss_BT, correct_BT = _of_tokens(logits_BTV, targets_BT, 0.0)
  bytes_T = jnp.zeros(targets_BT.shape[1], jnp.uint32)
  if bytes_V is not None:
    bytes_BT = jnp.where(weights_BT > 0, bytes_V[targets_BT], 0)
    bytes_T = bytes_BT.sum(0).astype(jnp.uint32)
  total = _sums(loss_BT, correct_BT, weights_BT)
  if not by_position:
    none_T = jnp.zeros(targets_BT.shape[1], loss_BT.dtype)
    return EvaluationSums(*total, none_T, none_T, bytes_T)
  return EvaluationSums(
    *total, (loss_BT * weights_BT).sum(0), weights_BT.sum(0), bytes_T
  )


def _of_tokens(
  logits_BTV: jax.Array, targets_BT: jax.Array, label_smoothing: float
) -> tuple[jax.Array, jax.Array]:
  """Returns the loss of each target, and whether the guess is right."""
  log_p_BTV = jax.nn.log_softmax(logits_BTV)
  loss_BT = -jnp.take_along_axis(log_p_BTV, targets_BT[..., None], -1)[..., 0]
  if not (isinstance(label_smoothing, float) and label_smoothing == 0.0):
    uniform_BT = -log_p_BTV.mean(-1)
    loss_BT = (1 - label_smoothing) * loss_BT + label_smoothing * uniform_BT
  correct_BT = (logits_BTV.argmax(-1) == targets_BT).astype(loss_BT.dtype)
  return loss_BT, correct_BT


def _sums(
  loss_BT: jax.Array, correct_BT: jax.Array, weights_BT: jax.Array
) -> Sums:
  return Sums(
    (loss_BT * weights_BT).sum(),
    (correct_BT * weights_BT).sum(),
    weights_BT.sum(),
  )
