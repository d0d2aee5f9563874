"""Signals, at which a run saves and stops."""

import contextlib
import signal
from collections.abc import Iterator


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
  """Makes Ctrl-C raise KeyboardInterrupt where it would end the process."""
  if signal.getsignal(signal.SIGINT) != signal.SIG_DFL:
    yield
    return
  try:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
  finally:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stop_signals() -> list[signal.Signals]:
  """Returns SIGINT, SIGTERM, and SIGHUP unless it is ignored, as by nohup."""
  found = [signal.SIGINT, signal.SIGTERM]
  if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
    found.append(signal.SIGHUP)
  return found
