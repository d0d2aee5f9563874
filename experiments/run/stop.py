"""How a run ends early: at a signal, or when the disk is full."""

import pathlib
import signal
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Self

from experiments.messages import advice
from experiments.messages.escapes import command_line
from experiments.messages.signals import stop_signals
from experiments.messages.streams import print_error, say
from train.trial import Interrupted


class StopSignal:
  """Remembers SIGINT, SIGTERM or SIGHUP; the same again ends the process.

  A second SIGHUP is ignored, since a closing terminal may send it twice, and a
  service manager may send it after SIGTERM.
  """

  def __init__(self) -> None:
    self.signal: int | None = None
    self._before = {
      number: signal.signal(number, self._handle) for number in stop_signals()
    }

  def restore(self) -> None:
    """Restores the previous signal handlers."""
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _handle(self, number: int, frame: FrameType | None) -> None:
    del frame
    self.signal = self.signal or number
    again = signal.SIG_IGN if number == signal.SIGHUP else signal.SIG_DFL
    signal.signal(number, again)

  def requested(self) -> bool:
    """Returns whether to stop after the present chunk."""
    return self.signal is not None


class GuardedRun:
  """A context in which a signal or a full disk gives an exit code, no error.

  `code` is what the block set; after `Interrupted` 128 and the number of the
  signal; after an error of the disk 1.
  """

  def __init__(self, workdir: pathlib.Path, command: Sequence[str]):
    self._workdir, self._command = workdir, command
    self.code = 0

  def __enter__(self) -> Self:
    self.stop = StopSignal()
    return self

  def __exit__(
    self,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
  ) -> bool:
    """Says how to go on if it can; then restores the signal handlers."""
    try:
      return self._ended(error)
    finally:
      self.stop.restore()

  def _ended(self, error: BaseException | None) -> bool:
    """Returns whether the error only ended the run; then sets its code."""
    again = command_line(self._command)
    match error:
      case Interrupted():
        assert self.stop.signal is not None
        say('')
        say(f'saved; to go on: {again}')
        self.code = 128 + self.stop.signal
      case OSError():
        what, fix = advice.disk_advice(self._workdir, error)
        print_error(f'{what}; {fix}, then: {again}')
        self.code = 1
      case _:
        return False
    return True
