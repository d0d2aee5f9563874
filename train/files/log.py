"""The log of a trial: metrics.jsonl, and further sinks for the same lines."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from train.files.durable import append_lines, write_kept, write_lines
from train.files.records import read_metrics

# `step` and metrics by name; None for a number that is not finite.
LogLine = Mapping[str, float | int | None]


class LogSink(Protocol):
  """A further destination of the log, such as TensorBoard."""

  def begin(self, kept: Sequence[LogLine]) -> None:
    """Starts the log with the lines of earlier starts, and drops later ones."""
    ...

  def write(self, lines: Sequence[LogLine]) -> None:
    """Appends lines, each with its step."""
    ...

  def close(self) -> None:
    """Flushes what is still buffered."""
    ...


class MetricsLog:
  """Writes the metrics of one trial, step by step.

  Args:
    path: metrics.jsonl; lines after `step` are removed, because the resumed
      trial writes them again.  Damaged lines stay, so that gaps are visible.
    step: the step that the trial resumes from; None if it starts at 0.
    sinks: further destinations.

  Attributes:
    damage: a message for each damaged line.
  """

  def __init__(
    self, path: pathlib.Path, step: int | None, sinks: Sequence[LogSink]
  ):
    self._path, self._sinks = path, sinks
    self.damage: list[str] = []
    kept: list[dict[str, Any]] = []
    if step is not None:
      found = read_metrics(path)
      kept = write_kept(path, found, lambda line: line['step'] <= step)
      self.damage = [f'{x}: curves have a gap there' for x in found.said(path)]
    else:
      write_lines(path, [])
    for sink in sinks:
      sink.begin(kept)

  def write(self, lines: Sequence[LogLine]) -> None:
    """Appends lines, each with its step."""
    append_lines(self._path, lines)
    for sink in self._sinks:
      sink.write(lines)

  def close(self) -> None:
    """Closes the sinks."""
    for sink in self._sinks:
      sink.close()
