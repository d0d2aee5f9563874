"""The figures of a trial: metrics.jsonl, and the sinks beside it."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from train.files import append_lines, write_kept, write_lines
from train.records import read_figures

# A step and its figures; none where a number is not finite.
Line = Mapping[str, float | int | None]


class Sink(Protocol):
  """Where figures go, besides metrics.jsonl."""

  def begin(self, kept: Sequence[Line]) -> None:
    """Takes what is kept of an earlier start; whatever came after it is cut."""
    ...

  def write(self, lines: Sequence[Line]) -> None:
    """Takes lines, each with its step."""
    ...

  def close(self) -> None:
    """Writes what is still held back."""
    ...


class Log:
  """The figures of one trial, step by step.

  Args:
    path: metrics.jsonl; lines after `step` are cut, for they will come again.
      Damaged ones stay, so that it is seen where figures are missing.
    step: the step that the trial goes on from; at 0 all come again.
    sinks: further places.

  Attributes:
    damage: a line of text for each damaged line.
  """

  def __init__(self, path: pathlib.Path, step: int, sinks: Sequence[Sink]):
    self._path, self._sinks = path, sinks
    self.damage: list[str] = []
    kept: list[dict[str, Any]] = []
    if step:
      found = read_figures(path)
      kept = write_kept(path, found, lambda line: line['step'] <= step)
      self.damage = [f'{x}: curves have a gap there' for x in found.said(path)]
    else:
      write_lines(path, [])
    for sink in sinks:
      sink.begin(kept)

  def write(self, lines: Sequence[Line]) -> None:
    """Appends lines, each with its step."""
    append_lines(self._path, lines)
    for sink in self._sinks:
      sink.write(lines)

  def close(self) -> None:
    """Closes the sinks."""
    for sink in self._sinks:
      sink.close()
