"""Shows the progress of trials on the terminal, and records their results."""

import collections
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from experiments.messages.terminal import Terminal
from experiments.planning.cost import cost_on
from experiments.planning.inputs import PlannedTrial
from experiments.planning.plan import program_key
from experiments.planning.row_backends import resolved
from experiments.planning.speed import store_speed
from experiments.record.ledger import Ledger
from experiments.report.damage import damage, has_ended
from experiments.rows.assignment import format_assignments
from train.core.metric import VAL_LOSS, Metric
from train.devices.repeatable import repeatable
from train.files.records import TRIALS
from train.flags.schema import to_flags
from train.trial import Progress, Trial, TrialOutcome


class Recorder:
  """The listener of a command, and the only writer of its record."""

  def __init__(
    self,
    ledger: Ledger,
    terminal: Terminal,
    metric: Metric,
    devices: Sequence[Any],
    stop_requested: Callable[[], bool],
  ):
    self._ledger, self._terminal, self._metric = ledger, terminal, metric
    self._devices, self._stop_requested = devices, stop_requested
    # By row too: if --tune sets the flag in which two rows differ, they may
    # share a trial.
    self._planned: dict[tuple[str, str], PlannedTrial] = {}
    # Number of trials of each program that run in the same stage.
    self._beside: dict[Hashable, int] = collections.defaultdict(int)

  def is_settled(self, planned: PlannedTrial) -> bool:
    """Returns whether a trial has a result, so that it need not run now."""
    return self._ledger.is_settled(planned.trial.id, planned.trial.pause)

  def unsettled_groups(
    self, stage: Sequence[PlannedTrial]
  ) -> list[list[PlannedTrial]]:
    """Returns the trials that must run, by program; prints the others."""
    groups: dict[Hashable, list[PlannedTrial]] = {}
    for planned in stage:
      if self.is_settled(planned) and not self._broken(planned):
        self._say(planned, 'done before')
      else:
        self._say_lost(planned)
        groups.setdefault(program_key(planned.trial), []).append(planned)
        self._planned[planned.trial.id, planned.row] = planned
    for key, group in groups.items():
      self._beside[key] = len(group)
    return list(groups.values())

  def _broken(self, planned: PlannedTrial) -> bool:
    """Returns whether files of a finished trial must be written again."""
    trial = planned.trial
    problem = damage(trial.directory, trial.data.vocabulary)
    if problem is not None:
      self._terminal.warn(f'{problem}: made again from its checkpoint')
    return problem is not None

  def _say_lost(self, planned: PlannedTrial) -> None:
    """Warns if a trial has ended but its line is missing from the record."""
    trial = planned.trial
    if self._ledger.record(trial.id) is None and has_ended(trial.directory):
      self._terminal.warn(
        f'{trial.directory}: had ended, and {TRIALS} has no line of it: '
        'recorded again from its checkpoint'
      )

  def begin(self, trial: Trial) -> None:
    """Shows that a trial begins or resumes."""
    self._terminal.begin(f'{trial.row} {trial.config.seed}')

  def progress(self, figures: Progress) -> None:
    """Shows the progress of the running trials."""
    self._terminal.advance(figures)

  def warn(self, text: str) -> None:
    """Shows a problem that stops no trial."""
    self._terminal.warn(text)

  def stop_requested(self) -> bool:
    """Returns whether to save and stop."""
    return self._stop_requested()

  def end(self, trial: Trial, outcome: TrialOutcome) -> None:
    """Appends the result of a trial to the record, and syncs it to disk."""
    planned = self._planned[trial.id, trial.row]
    config, data = trial.config, trial.data
    record = {
      'row': trial.row,
      'trial': trial.id,
      'seed': config.seed,
      **outcome._asdict(),
      'flops_per_token': cost_on(config, data.vocabulary).flops_per_token,
      'repeatable': repeatable(
        frozenset(resolved(config, self._devices[0])), self._devices[0]
      ),
      'config': to_flags(config),
    }
    self._ledger.append(record)
    alone = self._beside[program_key(trial)] < 2
    store_speed(planned, record, self._devices, alone)
    self._say(planned, _outcome(record, self._metric))

  def _say(self, planned: PlannedTrial, text: str) -> None:
    point = f' {format_assignments(planned.point)}' if planned.point else ''
    name = f'{planned.row}{point}, seed {planned.seed}'
    self._terminal.end(planned.stop, f'{name}: {text}')


def _outcome(record: Mapping[str, Any], metric: Metric) -> str:
  """Returns the result in words: the loss, and the metric of verdicts."""
  if record['status'] == 'failed':
    return f'failed: {record["error"]}'
  if record['status'] == 'diverged':
    return f'diverged at step {record["metrics"]["diverged_at"]}'
  found, seconds = record['metrics'], record['clock']['seconds']
  names = [n for n in dict.fromkeys((VAL_LOSS.name, metric.name)) if n in found]
  figures = ', '.join(f'{name} {found[name]:.4f}' for name in names)
  paused = record['status'] == 'paused'
  at = f' at step {record["steps"]}' if paused else ''
  return f'{figures}{at} in {seconds:.1f} s'
