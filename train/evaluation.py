"""Metrics computed from the sums of an evaluation."""

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from train.config.config import Config
from train.core.metric import BITS_PER_BYTE, PERPLEXITY, VAL_ACCURACY, VAL_LOSS
from train.optim.objective import EvaluationSums, are_vectors
from train.trial import MetricValues, PositionSums

if TYPE_CHECKING:  # it imports Flax and Optax, and tables import this file
  from train.programs.step import StepMetrics

# Keys of a record: the number of targets, and their size in bytes of UTF-8.
TARGETS, BYTES = 'targets', 'bytes'
# Key of the sums by position: the loss, in nats.
LOSS = 'loss'


def validation_metrics(config: Config, sums: EvaluationSums) -> MetricValues:
  """Returns the validation metrics by name."""
  loss = finite_or_none(sums.loss / sums.count)
  found: MetricValues = {VAL_LOSS.name: loss}
  if not are_vectors(config.objective):
    found[VAL_ACCURACY.name] = float(sums.correct / sums.count)
  if BITS_PER_BYTE in config.task.figures and sums.bytes_T.any():
    size = int(sums.bytes_T.sum(dtype=np.int64))
    found[BITS_PER_BYTE.name] = bits_per_byte(float(sums.loss), size)
  if PERPLEXITY in config.task.figures:
    found[PERPLEXITY.name] = perplexity(loss)
  return found | config.architecture.figures(sums.aux)


def step_lines(
  metrics: 'StepMetrics', first: int, steps: Iterable[int]
) -> list[MetricValues]:
  """Returns lines of metrics.jsonl for some steps; arrays begin at `first`."""
  return [
    {'step': step + 1}
    | {
      name: finite_or_none(values[step - first])
      for name, values in metrics._asdict().items()
    }
    for step in steps
  ]


def target_counts(sums: EvaluationSums) -> MetricValues:
  """Returns how many targets, and how many bytes of text, were evaluated."""
  found: MetricValues = {TARGETS: round(float(sums.count))}
  if size := int(sums.bytes_T.sum(dtype=np.int64)):
    found[BYTES] = size
  return found


def sums_by_position(sums: EvaluationSums) -> PositionSums:
  """Returns sums at each position, so that any subset can be compared later."""
  columns = {LOSS: sums.loss_T, TARGETS: sums.count_T, BYTES: sums.bytes_T}
  return {
    # Nine digits hold a float32 exactly.
    name: [finite_or_none(float(f'{x:.9g}')) for x in column]
    for name, column in columns.items()
  }


def bits_per_byte(loss: float, size: int) -> float | None:
  """Returns bits per byte, for a summed loss in nats and `size` bytes."""
  return finite_or_none(loss / math.log(2) / size)


def perplexity(loss: float | None) -> float | None:
  """Returns exp(loss), or None if the loss is None or exp would overflow."""
  return None if loss is None or loss > 700 else math.exp(loss)


def finite_or_none(value: Any) -> float | None:
  """Returns a number, or None for NaN and infinity, which JSON lacks."""
  return float(value) if math.isfinite(value) else None
