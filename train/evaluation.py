"""What the sums of an evaluation say: figures, and of how many targets."""

import math
from typing import Any

import numpy as np

from train.config import Config
from train.figure import BITS_PER_BYTE, PERPLEXITY, VAL_LOSS
from train.loss import EvaluationSums
from train.trial import Figures, Positions

# Names in a record: how many targets counted, and their bytes of UTF-8.
TARGETS, BYTES = 'targets', 'bytes'
# And of what is kept by position: sums of the loss, in nats.
LOSS = 'loss'


def figures(config: Config, sums: EvaluationSums) -> Figures:
  """Returns what is compared at each evaluation."""
  loss = finite(sums.loss / sums.count)
  found: Figures = {
    VAL_LOSS.name: loss,
    'val_accuracy': float(sums.correct / sums.count),
  }
  if BITS_PER_BYTE in config.task.figures and sums.bytes_T.any():
    size = int(sums.bytes_T.sum(dtype=np.int64))
    found[BITS_PER_BYTE.name] = bits_per_byte(float(sums.loss), size)
  if PERPLEXITY in config.task.figures:
    found[PERPLEXITY.name] = perplexity(loss)
  return found


def extent(sums: EvaluationSums) -> Figures:
  """Returns how many targets the figures are of, and how many bytes of text."""
  found: Figures = {TARGETS: round(float(sums.count))}
  if size := int(sums.bytes_T.sum(dtype=np.int64)):
    found[BYTES] = size
  return found


def by_position(sums: EvaluationSums) -> Positions:
  """Returns the sums at each position, of which any subset can be judged."""
  columns = {LOSS: sums.loss_T, TARGETS: sums.count_T, BYTES: sums.bytes_T}
  return {
    name: [finite(float(f'{x:.9g}')) for x in column]  # all of a float32
    for name, column in columns.items()
  }


def bits_per_byte(loss: float, size: int) -> float | None:
  """Returns a summed loss in nats as bits for each byte of its targets."""
  return finite(loss / math.log(2) / size)


def perplexity(loss: float | None) -> float | None:
  """Returns e to the loss; none where there is no such number."""
  return None if loss is None or loss > 700 else math.exp(loss)


def finite(value: Any) -> float | None:
  """Returns a number, or none where JSON has no word for it."""
  return float(value) if math.isfinite(value) else None
