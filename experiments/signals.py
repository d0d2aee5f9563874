"""The signals at which a run saves and stops."""

import signal


def stop_signals() -> list[signal.Signals]:
  """Returns SIGINT, SIGTERM, and SIGHUP unless nohup has it ignored."""
  found = [signal.SIGINT, signal.SIGTERM]
  if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
    found.append(signal.SIGHUP)
  return found
