"""Runs the trials of a plan in this process."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.inputs import Planned
from experiments.layout import choose, describe_choice, write_choice
from experiments.plan import Plan
from experiments.recorder import Recorder
from experiments.runner import Runner
from experiments.terminal import Terminal
from train.trial import Progress


class Local:
  """Trials of one program side by side, one program after another."""

  def __init__(
    self,
    plan: Plan,
    recorder: Recorder,
    terminal: Terminal,
    stop_requested: Callable[[], bool],
  ):
    self._plan, self._recorder, self._terminal = plan, recorder, terminal
    self._stop_requested = stop_requested
    self._runner: Runner | None = None

  def all_of(self, stage: Sequence[Planned]) -> None:
    """Runs what is not settled.

    Raises:
      Interrupted: it was asked to stop; all states are saved.
      OSError: the disk is full or cannot be written.
    """
    groups = self._recorder.unsettled(stage)
    if groups and self._runner is None:
      self._runner = self._lay_out(max(groups, key=len))
    for group in groups:
      assert self._runner is not None
      self._runner.run(iter(group))

  def close(self) -> None:
    """All is saved already."""

  def _lay_out(self, group: Sequence[Planned]) -> Runner:
    """Fixes the layout of all trials, by the first to run, and keeps it."""
    choice = self._plan.choice
    if choice is None:
      self._terminal.begin('measuring layouts')
      trials = [planned.trial for planned in group]
      choice = choose(trials, self._plan.devices, self._plan.options.feed)
    write_choice(self._plan.workdir, choice)
    self._terminal.say(f'layout: {describe_choice(choice)}')
    return Runner(self._plan.options, choice.layout, self)

  # What the runner tells. -----------------------------------------------------

  def begin(self, planned: Planned) -> None:
    """A trial begins, or goes on."""
    self._terminal.begin(f'{planned.row} {planned.seed}')

  def progress(self, figures: Progress) -> None:
    """The trials that run have come further."""
    self._terminal.advance(figures)

  def end(self, planned: Planned, outcome: Mapping[str, Any]) -> None:
    """A trial has ended, well or not: its part of the record."""
    self._recorder.end(planned, outcome)

  def warn(self, text: str) -> None:
    """Something is wrong, and nothing ends by it."""
    self._terminal.warn(text)

  def stop_requested(self) -> bool:
    """Returns whether to save and stop."""
    return self._stop_requested()
