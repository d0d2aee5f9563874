"""How a run ends early: at a signal, or when the disk is full."""

import pathlib
import signal
from collections.abc import Callable, Sequence
from types import FrameType

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


def run_guarded(
  run: Callable[[StopSignal], int],
  workdir: pathlib.Path,
  command: Sequence[str],
) -> int:
  """Returns the exit code of `run`, or of a signal or an error of the disk."""
  stop = StopSignal()
  try:
    return run(stop)
  except Interrupted:
    assert stop.signal is not None
    say('')
    say(f'saved; to go on: {command_line(command)}')
    return 128 + stop.signal
  except OSError as e:
    what, fix = advice.disk_advice(workdir, e)
    print_error(f'{what}; {fix}, then: {command_line(command)}')
    return 1
  finally:
    stop.restore()
