"""Figures: numbers by which trials are compared, and which way is better."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Figure:
  """A number that a trial ends with.

  Attributes:
    name: in the record.
    about: what it is, for a reader of the report.
    lower_is_better: otherwise higher is.
    on_the_way: it is measured at every evaluation, not at the end alone.
  """

  name: str
  about: str
  lower_is_better: bool
  on_the_way: bool = False

  def cost(self, value: float) -> float:
    """Returns a number that is the lower the better; its own inverse."""
    return value if self.lower_is_better else -value

  @property
  def worst(self) -> float:
    """Returns what stands for a trial that did not end well."""
    return self.cost(math.inf)


VAL_LOSS = Figure(
  'val_loss', 'cross-entropy in nats per prediction', True, on_the_way=True
)
BITS_PER_BYTE = Figure(
  'bits_per_byte',
  'cross-entropy in bits per byte of the text (UTF-8), which does not depend '
  'on how it is cut into tokens',
  True,
  on_the_way=True,
)
PERPLEXITY = Figure(
  'perplexity', 'exponential of the cross-entropy per token', True, True
)
VAL_ACCURACY = Figure(
  'val_accuracy', 'share of predictions that are right', False, on_the_way=True
)
# What every task measures.
COMMON = (
  VAL_LOSS,
  VAL_ACCURACY,
  Figure('best_val_loss', 'the lowest val_loss of all evaluations', True),
  Figure('train_loss', 'loss of the last training batch', True),
)
