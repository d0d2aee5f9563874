"""How trials end: on the record, and on the terminal."""

import collections
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from experiments.assignment import join
from experiments.cost import cost_on
from experiments.damage import damage, has_ended
from experiments.inputs import Planned
from experiments.ledger import Ledger
from experiments.plan import program_key
from experiments.speed import remember
from experiments.terminal import Terminal
from train.figure import VAL_LOSS, Figure
from train.records import TRIALS
from train.schema import to_flags


class Recorder:
  """The only one that adds to the record."""

  def __init__(
    self,
    ledger: Ledger,
    terminal: Terminal,
    metric: Figure,
    devices: Sequence[Any],
  ):
    self._ledger, self._terminal, self._metric = ledger, terminal, metric
    self._devices = devices
    # How many trials of each program were begun together.
    self._beside: dict[Hashable, int] = collections.defaultdict(int)

  def settled(self, planned: Planned) -> bool:
    """Returns whether a trial need not run now."""
    return self._ledger.settled(planned.trial.id, planned.trial.pause)

  def unsettled(self, stage: Sequence[Planned]) -> list[list[Planned]]:
    """Returns what has to run, by program; says what was done before."""
    groups: dict[Hashable, list[Planned]] = {}
    for planned in stage:
      if self.settled(planned) and not self._broken(planned):
        self._say(planned, 'done before')
      else:
        self._say_lost(planned)
        groups.setdefault(program_key(planned.trial), []).append(planned)
    for key, group in groups.items():
      self._beside[key] = len(group)
    return list(groups.values())

  def _broken(self, planned: Planned) -> bool:
    """Returns whether files of a trial that ended must be made again."""
    trial = planned.trial
    problem = damage(trial.directory, trial.data.vocabulary)
    if problem is not None:
      self._terminal.warn(f'{problem}: made again from its checkpoint')
    return problem is not None

  def _say_lost(self, planned: Planned) -> None:
    """Says where the line of a trial that ended is gone from the record."""
    trial = planned.trial
    if self._ledger.record(trial.id) is None and has_ended(trial.directory):
      self._terminal.warn(
        f'{trial.directory}: had ended, and {TRIALS} has no line of it: '
        'recorded again from its checkpoint'
      )

  def end(self, planned: Planned, outcome: Mapping[str, Any]) -> None:
    """Records how a trial ended, on the disk before this returns."""
    config, data = planned.trial.config, planned.trial.data
    record = {
      'row': planned.row,
      'trial': planned.trial.id,
      'seed': planned.seed,
      **outcome,
      'flops_per_token': cost_on(config, data.vocabulary).flops_per_token,
      'config': to_flags(config),
    }
    self._ledger.append(record)
    alone = self._beside[program_key(planned.trial)] < 2
    remember(planned, outcome, self._devices, alone)
    self._say(planned, _outcome(record, self._metric))

  def _say(self, planned: Planned, text: str) -> None:
    point = f' {join(planned.point)}' if planned.point else ''
    name = f'{planned.row}{point}, seed {planned.seed}'
    self._terminal.end(planned.stop, f'{name}: {text}')


def _outcome(record: Mapping[str, Any], metric: Figure) -> str:
  """Returns how a trial ended: its loss, and what verdicts compare."""
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
