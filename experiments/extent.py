"""What trials on the record were judged on, and what they are worth on a part.

A plan says which rows have equal targets; the record says what was counted.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from experiments.comparable import Comparable
from train.evaluation import (
  BYTES,
  LOSS,
  TARGETS,
  bits_per_byte,
  perplexity,
)
from train.figure import BITS_PER_BYTE, PERPLEXITY, VAL_LOSS, Figure
from train.targets import of_targets

Record = Mapping[str, Any]
# Bytes that the first token of a text may have, which nothing comes before, so
# that nobody predicts it.
_FIRST_TOKEN = 64


@dataclasses.dataclass(frozen=True)
class Limits:
  """To what rows can be compared with the base.

  Attributes:
    positions: row -> those at which the two are compared, where not both
      predict at all of them.
    incomparable: rows whose figures are of other targets.
  """

  positions: Mapping[str, Sequence[int]] = dataclasses.field(
    default_factory=dict
  )
  incomparable: Collection[str] = ()

  def shared(
    self, trials: Mapping[str, Sequence[Record]], base: str, metric: str
  ) -> dict[str, tuple[list[Record], list[Record]]]:
    """Returns, by row, the base's and its trials at the positions of both."""
    return {
      row: (
        on_positions(trials[base], metric, at),
        on_positions(trials[row], metric, at),
      )
      for row, at in self.positions.items()
      if row in trials
    }

  def outcomes(
    self, trials: Mapping[str, Sequence[Record]], base: str, metric: str
  ) -> dict[str, dict[int, float]]:
    """Returns what is compared of each row, by seed: none of other targets."""
    shared = self.shared(trials, base, metric)
    return {
      row: {}
      if row in self.incomparable
      else outcomes_of(shared.get(row, (own, own))[1], metric)
      for row, own in trials.items()
      if row != base
    }


EVERYTHING = Limits()


def extent(trials: Sequence[Record], name: str) -> int | None:
  """Returns how many targets or bytes trials were judged on, if it is known."""
  return next((t['metrics'][name] for t in _known(trials, name)), None)


def bytes_of(
  trials: Sequence[Record], tokens: Callable[[Record], int]
) -> float | None:
  """Returns about how many bytes some tokens of a trial stand for."""
  for trial in _known(trials, BYTES):
    found = trial['metrics']
    return tokens(trial) * found[BYTES] / found[TARGETS]
  return None


def _known(trials: Sequence[Record], name: str) -> list[Record]:
  """Returns the trials that ended well and say what they were judged on."""
  return [t for t in trials if t['status'] == 'ok' and t['metrics'].get(name)]


def on_positions(
  trials: Sequence[Record], metric: str, positions: Sequence[int]
) -> list[Record]:
  """Returns the records as if trials were judged at some positions alone."""
  return [
    {**trial, 'metrics': trial['metrics'] | _at(trial, metric, positions)}
    if trial['status'] == 'ok'
    else trial
    for trial in trials
  ]


def _at(
  trial: Record, metric: str, positions: Sequence[int]
) -> dict[str, float | None]:
  """Returns a figure at some positions, and how many targets it is of."""
  sums = trial.get('by_position')
  if not sums:
    return {metric: None}
  loss, counts, sizes = (
    [sums[name][t] for t in positions] for name in (LOSS, TARGETS, BYTES)
  )
  count, size = round(sum(counts)), round(sum(sizes))
  if None in loss or not count:
    return {metric: None, TARGETS: count}
  nats = sum(loss)
  figures = {
    VAL_LOSS.name: nats / count,
    PERPLEXITY.name: perplexity(nats / count),
    BITS_PER_BYTE.name: bits_per_byte(nats, size) if size else None,
  }
  return {metric: figures[metric], TARGETS: count, BYTES: size}


def differing(
  found: Comparable, base: str, trials: Mapping[str, Sequence[Record]]
) -> dict[str, str]:
  """Returns why rows get no verdict, by what their trials were judged on.

  Args:
    found: how the plan compares rows.
    base: the row that the others are compared with.
    trials: the records of each row.
  """
  out = {}
  for row, own in trials.items():
    theirs = trials[base]
    if at := found.positions.get(row):
      if not all(_known_by_position(part) for part in (theirs, own)):
        out[row] = (
          'was trained before losses were kept by position: --workdir=NEW'
        )
        continue
      theirs, own = (
        on_positions(part, found.metric.name, at) for part in (theirs, own)
      )
    if why := _unequal(found.metric, theirs, own):
      out[row] = why
  return out


def _known_by_position(trials: Sequence[Record]) -> bool:
  return all(t.get('by_position') for t in trials if t['status'] == 'ok')


def _unequal(
  metric: Figure, base: Sequence[Record], row: Sequence[Record]
) -> str:
  """Returns why trials of a row were judged on other targets, if they were."""
  if not of_targets(metric):
    return ''
  name = BYTES if metric == BITS_PER_BYTE else TARGETS
  ours, theirs = (extent(trials, name) for trials in (row, base))
  slack = _FIRST_TOKEN if name == BYTES else 0
  if ours is None or theirs is None or abs(ours - theirs) <= slack:
    return ''
  return f'was judged on {ours:,} {name}, the base on {theirs:,}'


def outcomes_of(trials: Sequence[Record], metric: str) -> dict[int, float]:
  """Returns the metric by seed, NaN where the training diverged."""
  lost = {
    trial['seed']: math.nan
    for trial in trials
    if trial['status'] == 'diverged'
    or (trial['status'] == 'ok' and metric in trial['metrics'])
  }
  return lost | finite_values(trials, metric)


def finite_values(trials: Sequence[Record], metric: str) -> dict[int, float]:
  """Returns the metric of the trials that ended well, by seed."""
  found = {
    trial['seed']: trial['metrics'][metric]
    for trial in trials
    if trial['status'] == 'ok' and metric in trial['metrics']
  }
  return {
    seed: float(value)
    for seed, value in found.items()
    if value is not None and math.isfinite(value)
  }
