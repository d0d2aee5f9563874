"""What runs the trials of a table: this process, or several workers."""

from collections.abc import Sequence
from typing import Protocol

from experiments.planning.inputs import PlannedTrial


class TrialExecutor(Protocol):
  """Runs trials, in this process or in workers."""

  def run_all(self, stage: Sequence[PlannedTrial]) -> None:
    """Runs trials until all are recorded; skips those that are already.

    Raises:
      Interrupted: it was asked to stop.
      OSError: the disk is full or cannot be written.
    """
    ...

  def close(self) -> None:
    """Waits until all states are saved."""
    ...
