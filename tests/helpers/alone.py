"""Runs trials through the loop, for tests that look at what it tells."""

from train import loop
from train.devices.parallel import Layout
from train.trial import Options, Progress, Result, Trial, TrialOutcome


class Listener:
  """Keeps what it is told, by trial; asks to stop from a step on, or never."""

  def __init__(self, until: int | None = None):
    self.until, self.step = until, 0
    self.begun: list[str] = []
    self.outcomes: dict[str, TrialOutcome] = {}
    self.warnings: list[str] = []

  @property
  def results(self) -> dict[str, Result]:
    """Returns what the trials came to; none of them may have failed."""
    found: dict[str, Result] = {}
    for trial, outcome in self.outcomes.items():
      assert isinstance(outcome, Result), outcome
      found[trial] = outcome
    return found

  def begin(self, trial: Trial) -> None:
    self.begun.append(trial.id)

  def progress(self, figures: Progress) -> None:
    self.step = figures.step

  def end(self, trial: Trial, outcome: TrialOutcome) -> None:
    self.outcomes[trial.id] = outcome

  def warn(self, text: str) -> None:
    self.warnings.append(text)

  def stop_requested(self) -> bool:
    return self.until is not None and self.step >= self.until


def run(
  trial: Trial,
  options: Options,
  layout: Layout,
  listener: Listener | None = None,
) -> Result:
  """Trains one trial to its end, and returns its result."""
  listener = listener or Listener()
  loop.run(iter([trial]), options, layout, listener)
  return listener.results[trial.id]
