"""The figures of a trial: metrics.jsonl, and TensorBoard if asked for."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from model.field import FieldError
from train.files import append_lines, mend_lines, write_lines


class Sink(Protocol):
  """Where figures go, besides metrics.jsonl."""

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Takes the figures of a step."""

  def close(self) -> None:
    """Writes what is still held back."""


class TensorBoard:
  """Writes event files that TensorBoard reads (tensorboardX)."""

  def __init__(self, directory: pathlib.Path):
    writer = tensorboard_writer()
    self._writer = writer(logdir=str(directory))

  def write(self, step: int, values: Mapping[str, float]) -> None:
    """Takes the figures of a step."""
    for name, value in values.items():
      self._writer.add_scalar(name, value, step)

  def close(self) -> None:
    """Writes what is still held back."""
    self._writer.close()


def tensorboard_writer() -> type:
  """Returns tensorboardX's writer; refuses with a hint where it is absent."""
  try:
    from tensorboardX import SummaryWriter
  except ImportError as e:
    raise FieldError(
      'tensorboard',
      True,
      'needs tensorboardX: pip install -r requirements-tracking.txt',
    ) from e
  return SummaryWriter


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

  def write(self, lines: list[dict[str, float | int | None]]) -> None:
    """Appends lines, each with its step."""
    append_lines(self._path, lines)
    for line in lines:
      values = {k: v for k, v in line.items() if k != 'step' and v is not None}
      for sink in self._sinks:
        sink.write(int(line['step'] or 0), values)

  def close(self) -> None:
    """Closes the sinks."""
    for sink in self._sinks:
      sink.close()
