"""The figures of a trial: metrics.jsonl, and the sinks beside it."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from train.files import append_lines, mend_lines, write_lines

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
    step: the step that the trial goes on from.
    sinks: further places.
  """

  def __init__(self, path: pathlib.Path, step: int, sinks: Sequence[Sink]):
    self._path, self._sinks = path, sinks
    kept = [line for line in mend_lines(path) if line['step'] <= step]
    write_lines(path, kept)
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
