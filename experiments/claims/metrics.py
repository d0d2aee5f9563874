"""The metrics of all trials of a table, as the data that claim rules read.

The metric of one layer has the layer's number after its name: `rank@3`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from train.core.metric import LAYER
from train.evaluation import LOSS, TARGETS
from train.files.records import JsonRecord

CurveAxis = Literal['step', 'layer', 'position']
Series = Sequence[Sequence[float | None]]  # pairs (position on axis, value)


@dataclasses.dataclass(frozen=True)
class TrialMetrics:
  """The metrics of one trial, that is of one seed of a row.

  Attributes:
    diverged: whether the training diverged; it then has no final metrics.
    final: metrics at the end of training, by name.
    series: pairs (step, value) of the evaluations during training, by name.
    positions: mean loss at each position; empty if it was not recorded.
    seconds: duration of the trial.
    parameters: number of parameters of the model.
  """

  diverged: bool
  final: Mapping[str, float | None]
  series: Mapping[str, Sequence[Sequence[float | None]]]
  positions: Sequence[float | None]
  seconds: float
  parameters: int


@dataclasses.dataclass(frozen=True)
class Measurements:
  """The metrics of each finished trial, by row and seed."""

  rows: Mapping[str, Mapping[int, TrialMetrics]]

  def final(self, row: str, metric: str) -> dict[int, float]:
    """Returns the final metric by seed, NaN where training diverged."""
    return {
      seed: _number(None if trial.diverged else trial.final.get(metric))
      for seed, trial in sorted(self.rows.get(row, {}).items())
      if trial.diverged or metric in trial.final
    }

  def along(
    self, axis: CurveAxis, row: str, metric: str
  ) -> dict[int, list[tuple[float, float]]]:
    """Returns, by seed, the sorted pairs (position on the axis, metric).

    Along axis 'position' the value is always the loss.  Values that are not
    finite are left out; a seed that diverged has an empty list.
    """
    found = {}
    for seed, trial in sorted(self.rows.get(row, {}).items()):
      series = () if trial.diverged else _series(trial, axis, metric)
      pairs = [(_number(x), _number(y)) for x, y in series]
      finite = [(x, y) for x, y in pairs if math.isfinite(y)]
      if finite or trial.diverged:
        found[seed] = sorted(finite)
    return found


def trial_metrics(
  record: JsonRecord, lines: Sequence[Mapping[str, Any]]
) -> TrialMetrics:
  """Returns the metrics of a finished trial.

  Args:
    record: the line of the trial in trials.jsonl.
    lines: the lines of its metrics.jsonl.
  """
  final = dict(record['metrics'])
  series: dict[str, list[tuple[float, float | None]]] = {}
  for line in lines:
    for name, value in line.items():
      if name in final:
        series.setdefault(name, []).append((line['step'], value))
  sums = record.get('by_position') or {LOSS: [], TARGETS: []}
  return TrialMetrics(
    diverged=record['status'] == 'diverged',
    final=final,
    series=series,
    positions=[
      None if loss is None or not count else loss / count
      for loss, count in zip(sums[LOSS], sums[TARGETS], strict=True)
    ],
    seconds=record['clock']['seconds'],
    parameters=record['parameters'],
  )


def _series(trial: TrialMetrics, axis: CurveAxis, metric: str) -> Series:
  """Returns pairs (position on the axis, metric) of one trial."""
  if axis == 'step':
    return trial.series.get(metric, ())
  if axis == 'position':
    return list(enumerate(trial.positions))
  start = metric + LAYER
  layers = {name.removeprefix(start): name for name in trial.final}
  return [
    (int(layer), trial.final[name])
    for layer, name in layers.items()
    if name.startswith(start) and layer.isdecimal()
  ]


def _number(value: float | None) -> float:
  return math.nan if value is None else float(value)
