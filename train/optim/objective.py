"""The objective: a sum of terms, each a loss of every target.

Losses are sums over targets, divided by the number of targets once, at the end,
so that the sums of devices and batches can be added.

Penalties of the model, which read its side outputs, are added to it (see
`Architecture.penalty_B`).
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from model.core.field import FieldError, Variant, field, unparse
from model.core.limits import REAL


class Objective(Variant, abc.ABC):
  """An open union: each tagged subclass is a term of the loss.

  Attributes:
    predicts: whether it compares outputs with targets; one such term is needed.
    of_vectors: whether it reads predicted vectors, not logits of tokens.
    smooths: whether it reads --label_smoothing.
  """

  predicts: ClassVar[bool] = False
  of_vectors: ClassVar[bool] = False
  smooths: ClassVar[bool] = False

  @abc.abstractmethod
  def loss_BT(
    self, logits_BTV: jax.Array, targets_BT: jax.Array, label_smoothing: float
  ) -> jax.Array:
    """Returns the loss of each target.

    Args:
      logits_BTV: of the model; in tasks of vectors, its predictions (V = O).
      targets_BT: token ids; vectors have one more axis, O.
      label_smoothing: weight of the uniform target.
    """


@dataclasses.dataclass(frozen=True)
class CrossEntropy(Objective, tag='cross_entropy'):
  """-sum_v q(v) log p(v), in nats (Vaswani et al. 2017, section 5.4).

  q is (1 - label_smoothing) at the target plus label_smoothing / V everywhere
  (Szegedy et al. 2016, section 7).
  """

  predicts: ClassVar[bool] = True
  smooths: ClassVar[bool] = True

  def loss_BT(
    self, logits_BTV: jax.Array, targets_BT: jax.Array, label_smoothing: float
  ) -> jax.Array:
    """Returns -sum_v q(v) log p(v)."""
    log_p_BTV = jax.nn.log_softmax(logits_BTV)
    loss_BT = -jnp.take_along_axis(log_p_BTV, targets_BT[..., None], -1)[..., 0]
    if isinstance(label_smoothing, float) and label_smoothing == 0.0:
      return loss_BT
    uniform_BT = -log_p_BTV.mean(-1)
    return (1 - label_smoothing) * loss_BT + label_smoothing * uniform_BT


@dataclasses.dataclass(frozen=True)
class ZLoss(Objective, tag='z_loss'):
  """weight log(sum_v e^logit_v)^2, which keeps logits near 0 (PaLM, 2022).

  Chowdhery et al. 2022, arXiv:2204.02311, section 5.
  """

  weight: float = field(
    1e-4, 'Factor of the squared logarithm.', min=0.0, max=REAL, traced=True
  )

  def loss_BT(
    self, logits_BTV: jax.Array, targets_BT: jax.Array, label_smoothing: float
  ) -> jax.Array:
    """Returns weight log(sum_v e^logit_v)^2."""
    del targets_BT, label_smoothing
    return self.weight * jnp.square(jax.nn.logsumexp(logits_BTV, axis=-1))


@dataclasses.dataclass(frozen=True)
class SquaredError(Objective, tag='squared'):
  """1/2 sum_o (f_o - y_o)^2, for real vectors (Garg et al. 2022).

  arXiv:2208.01066, equation 2, with the factor 1/2 of von Oswald et al. 2023,
  arXiv:2212.07677.
  """

  predicts: ClassVar[bool] = True
  of_vectors: ClassVar[bool] = True

  def loss_BT(
    self,
    outputs_BTO: jax.Array,
    targets_BTO: jax.Array,
    label_smoothing: float,
  ) -> jax.Array:
    """Returns 1/2 sum_o (f_o - y_o)^2."""
    del label_smoothing
    return 0.5 * jnp.square(outputs_BTO - targets_BTO).sum(-1)


def are_vectors(terms: Sequence[Objective]) -> bool:
  """Returns whether an objective compares vectors, not tokens."""
  return any(term.of_vectors for term in terms)


def objective_problem(
  terms: Sequence[Objective], usual: Sequence[Objective]
) -> FieldError | None:
  """Returns an error of an objective, or None if there is none.

  Args:
    terms: of the objective.
    usual: terms of the task's default objective.
  """
  vectors = are_vectors(usual)
  for term in terms:
    if term.of_vectors != vectors:
      reads, gives = (
        ('vectors', 'tokens') if term.of_vectors else ('tokens', 'vectors')
      )
      return FieldError(
        'objective',
        tuple(terms),
        f'{term.tag} compares {reads}, and the task predicts {gives}: try '
        f'--objective={unparse(tuple(usual))}',
      )
  tags = [term.tag for term in terms]
  if len(set(tags)) < len(tags):
    return FieldError('objective', tuple(terms), 'must name each term once')
  if sum(term.predicts for term in terms) != 1:
    return FieldError(
      'objective',
      tuple(terms),
      'needs one term that compares predictions with targets: name '
      f'{unparse(tuple(usual))}',
    )
  return None


def loss_of_tokens(
  terms: Sequence[Objective],
  logits_BTV: jax.Array,
  targets_BT: jax.Array,
  label_smoothing: float,
) -> jax.Array:
  """Returns loss_BT, the sum of the terms; see `Objective.loss_BT`."""
  first, *rest = (
    term.loss_BT(logits_BTV, targets_BT, label_smoothing) for term in terms
  )
  return sum(rest, start=first)


# Side outputs summed over examples: by stack and name, arrays of all layers.
SideSums = Mapping[str, Mapping[str, jax.Array]]


class LossSums(NamedTuple):
  """Sums over target tokens; `count` is the sum of their weights."""

  loss: jax.Array
  correct: jax.Array
  count: jax.Array
  aux: SideSums


class EvaluationSums(NamedTuple):
  """Sums over the targets of an evaluation.

  Attributes:
    loss: in nats; of real vectors, half the squared error.
    correct: number of correct predictions; 0 for real vectors.
    count: number of targets.
    loss_T: the loss at each position of an example.
    count_T: number of targets at each position.
    bytes_T: bytes of UTF-8 of these targets; 0 for tokens without text.
    aux: side outputs of the layers.
  """

  loss: jax.Array
  correct: jax.Array
  count: jax.Array
  loss_T: jax.Array
  count_T: jax.Array
  bytes_T: jax.Array
  aux: SideSums


def training_sums(
  terms: Sequence[Objective],
  logits_BTV: jax.Array,
  targets_BT: jax.Array,
  weights_BT: jax.Array,
  label_smoothing: float,
) -> LossSums:
  """Returns sums of the objective and of correct predictions.

  Targets that are real vectors have one more axis, O.
  """
  loss_BT = loss_of_tokens(terms, logits_BTV, targets_BT, label_smoothing)
  return _sums(loss_BT, _correct(terms, logits_BTV, targets_BT), weights_BT)


def evaluation_sums(
  terms: Sequence[Objective],
  logits_BTV: jax.Array,
  targets_BT: jax.Array,
  weights_BT: jax.Array,
  bytes_V: jax.Array | None,
  by_position: bool,
) -> EvaluationSums:
  """Returns sums of the loss, without label smoothing, and by position.

  Args:
    terms: of the objective; only those that compare outputs with targets count.
    logits_BTV: of the model.
    targets_BT: token ids; real vectors have one more axis, O.
    weights_BT: of each target.
    bytes_V: bytes of UTF-8 of each token id, or None if that is unknown.
    by_position: whether to sum at each position; if not, these sums are 0.
  """
  predicting = [term for term in terms if term.predicts]
  loss_BT = loss_of_tokens(predicting, logits_BTV, targets_BT, 0.0)
  bytes_T = jnp.zeros(weights_BT.shape[1], jnp.uint32)
  if bytes_V is not None:
    bytes_BT = jnp.where(weights_BT > 0, bytes_V[targets_BT], 0)
    bytes_T = bytes_BT.sum(0).astype(jnp.uint32)
  loss, correct, count, aux = _sums(
    loss_BT, _correct(terms, logits_BTV, targets_BT), weights_BT
  )
  if by_position:
    loss_T, count_T = (loss_BT * weights_BT).sum(0), weights_BT.sum(0)
  else:
    loss_T = count_T = jnp.zeros(weights_BT.shape[1], loss_BT.dtype)
  return EvaluationSums(loss, correct, count, loss_T, count_T, bytes_T, aux)


def _correct(
  terms: Sequence[Objective], logits_BTV: jax.Array, targets_BT: jax.Array
) -> jax.Array:
  """Returns correct_BT: 1 for correct tokens, 0 for others and for vectors."""
  if are_vectors(terms):
    return jnp.zeros(logits_BTV.shape[:2], logits_BTV.dtype)
  return (logits_BTV.argmax(-1) == targets_BT).astype(logits_BTV.dtype)


def _sums(
  loss_BT: jax.Array, correct_BT: jax.Array, weights_BT: jax.Array
) -> LossSums:
  return LossSums(
    (loss_BT * weights_BT).sum(),
    (correct_BT * weights_BT).sum(),
    weights_BT.sum(),
    {},
  )
