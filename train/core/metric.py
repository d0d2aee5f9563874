"""Metrics: numbers by which trials are compared, and which way is better."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Metric:
  """A metric: a number measured of a trained model.

  Attributes:
    name: its key in the record of a trial.
    about: description for readers of the report.
    lower_is_better: whether lower values are better; if not, higher ones are.
    at_every_evaluation: whether each evaluation measures it, not only the last.
  """

  name: str
  about: str
  lower_is_better: bool
  at_every_evaluation: bool = False

  def cost(self, value: float) -> float:
    """Returns the value, negated if higher is better; it is its own inverse."""
    return value if self.lower_is_better else -value

  @property
  def worst(self) -> float:
    """Returns the value given to a trial that failed: infinitely bad."""
    return self.cost(math.inf)


LAYER = '@'  # precedes the layer number in the name of a per-layer metric


def at_layer(name: str, layer: int) -> str:
  """Returns the name of a metric of one layer, such as `rank_residual@3`."""
  return f'{name}{LAYER}{layer}'


VAL_LOSS = Metric(
  'val_loss',
  'cross-entropy in nats per prediction',
  True,
  at_every_evaluation=True,
)
BITS_PER_BYTE = Metric(
  'bits_per_byte',
  'cross-entropy in bits per byte of the text (UTF-8), which does not depend '
  'on how it is cut into tokens',
  True,
  at_every_evaluation=True,
)
PERPLEXITY = Metric(
  'perplexity', 'exponential of the cross-entropy per token', True, True
)
VAL_ACCURACY = Metric(
  'val_accuracy',
  'share of predictions that are right',
  False,
  at_every_evaluation=True,
)
_BEST = Metric('best_val_loss', 'the lowest val_loss of all evaluations', True)
_TRAIN = Metric('train_loss', 'loss of the last training batch', True)
# Metrics of every task whose targets are tokens or labels.
COMMON = (VAL_LOSS, VAL_ACCURACY, _BEST, _TRAIN)
# Metrics of every task whose targets are vectors.
SQUARED_LOSS = Metric(
  VAL_LOSS.name,
  'half the squared error per prediction',
  True,
  at_every_evaluation=True,
)
OF_VECTORS = (SQUARED_LOSS, _BEST, _TRAIN)
