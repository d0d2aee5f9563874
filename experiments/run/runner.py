"""Trains trials in this process, and isolates failures."""

import itertools
from collections.abc import Iterator, Sequence

from experiments.messages.advice import disk_error, one_line
from experiments.messages.terminal import Terminal
from experiments.planning.inputs import PlannedTrial
from experiments.planning.layout import describe_choice, write_choice
from experiments.planning.plan import Plan
from experiments.run.layout_choice import choose_layout
from experiments.run.recorder import Recorder
from train import loop
from train.devices.parallel import Layout, SharedLayout
from train.trial import (
  Failure,
  Interrupted,
  Options,
  Trial,
  TrialListener,
  TrialsFailed,
)


class Runner:
  """Trains trials, and finds which of them caused a failure."""

  def __init__(self, options: Options, layout: Layout, listener: TrialListener):
    self._options, self._layout = options, layout
    self._one_device = SharedLayout(layout.devices[:1])
    self._listener = listener

  def run(self, trials: Iterator[Trial]) -> None:
    """Trains or resumes all trials.

    Raises:
      Interrupted: the listener asked to stop; all states are saved.
      OSError: the disk is full or cannot be written.
    """
    # The loop takes further trials itself; those that it had not begun when it
    # failed are still to come.
    for first in trials:
      self._train(itertools.chain([first], trials), self._layout)

  def _train(self, trials: Iterator[Trial], layout: Layout) -> None:
    """Trains side by side; after a failure, the rest one after another."""
    if self._listener.stop_requested():
      raise Interrupted
    try:
      loop.run(trials, self._options, layout, self._listener)
    except TrialsFailed as e:
      if (problem := disk_error(e.error)) is not None:
        raise problem from e
      self._handle_failure(e, alone=e.num_begun == 1 or layout.lanes == 1)

  def _handle_failure(self, failed: TrialsFailed, alone: bool) -> None:
    """Records the failure of one trial; runs each of several alone to find it.

    Args:
      failed: the error, and the trials that it left unfinished.
      alone: whether only one trial ran.
    """
    text, unfinished = one_line(failed.error), failed.unfinished
    if not unfinished:
      self._listener.warn(f'after all trials had ended: {text}')
      return
    if alone:
      (trial,) = unfinished
      self._listener.end(trial, Failure('failed', text))
      return
    rows = ', '.join(dict.fromkeys(trial.row for trial in unfinished))
    self._listener.warn(f'{rows}: {text}: running each alone')
    for trial in unfinished:
      self._train(iter([trial]), self._one_device)


class LocalExecutor:
  """Runs one program after another, with the trials of each side by side."""

  def __init__(self, plan: Plan, recorder: Recorder, terminal: Terminal):
    self._plan, self._recorder, self._terminal = plan, recorder, terminal
    self._runner: Runner | None = None

  def run_all(self, stage: Sequence[PlannedTrial]) -> None:
    """Runs the trials that are not settled.

    Raises:
      Interrupted: it was asked to stop; all states are saved.
      OSError: the disk is full or cannot be written.
    """
    groups = self._recorder.unsettled_groups(stage)
    if groups and self._runner is None:
      self._runner = self._lay_out(groups)
    for group in groups:
      assert self._runner is not None
      self._runner.run(planned.trial for planned in group)

  def close(self) -> None:
    """Does nothing: all is saved already."""

  def _lay_out(self, groups: Sequence[Sequence[PlannedTrial]]) -> Runner:
    """Chooses a layout for all trials, and records it."""
    choice = self._plan.choice
    if choice is None:
      self._terminal.begin('measuring layouts')
      trials = [[planned.trial for planned in group] for group in groups]
      choice = choose_layout(trials, self._plan.devices, self._plan.options)
    write_choice(self._plan.workdir, choice)
    self._terminal.say(f'layout: {describe_choice(choice)}')
    return Runner(self._plan.options, choice.layout, self._recorder)
