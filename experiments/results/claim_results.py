"""Decides published values and controls from the record of a plan."""

import dataclasses
from collections.abc import Mapping, Sequence

from experiments.claims.metrics import Measurements, TrialMetrics, trial_metrics
from experiments.claims.published import (
  ClaimVerdict,
  PublishedValue,
  decide_control,
  decide_published,
  deviations,
)
from experiments.experiment import Experiment
from experiments.messages.terminal import Terminal
from experiments.planning.inputs import PlannedTrial
from experiments.planning.plan import Plan
from experiments.record.ledger import FINISHED, Ledger
from train.config.config import Config
from train.files.durable import JsonLines
from train.flags.schema import override


def collect_measurements(
  trials: Sequence[PlannedTrial],
  ledger: Ledger,
  figures: Mapping[str, JsonLines],
) -> Measurements:
  """Returns the metrics of the trials that have finished.

  Args:
    trials: one for each row and seed.
    ledger: has their records.
    figures: the lines of metrics.jsonl by trial id.
  """
  rows: dict[str, dict[int, TrialMetrics]] = {}
  for planned in trials:
    record = ledger.record(planned.trial.id)
    if record is not None and record['status'] in FINISHED:
      lines = figures[planned.trial.id].values
      own = trial_metrics(record, lines)
      rows.setdefault(planned.row, {})[planned.seed] = own
  return Measurements(rows)


def published_verdicts(
  experiment: Experiment,
  configs: Mapping[str, Config],
  found: Measurements,
  smoke: bool = False,
) -> tuple[ClaimVerdict, ...]:
  """Returns the verdict on each published value of an experiment.

  If other rows than the experiment's ran, published values that these rows
  cannot decide are left out.

  Args:
    experiment: has the published values.
    configs: configuration of each row that ran.
    found: metrics of these rows.
    smoke: whether this is a --smoke run, which decides nothing.
  """
  written = {*experiment.row_names} >= {*configs}
  judged = []
  for target in experiment.published:
    verdict = decide_published(
      target, found, _scale_deviations(experiment, target, configs)
    )
    if smoke:
      verdict = _without_numbers(verdict)
    if written or verdict.verdict != 'not run':
      judged.append(verdict)
  return tuple(judged)


def expected_numbers(plan: Plan, terminal: Terminal) -> dict[str, float]:
  """Computes the numbers that controls must reach, by row."""
  trials = {p.row: p.trial for p in reversed(plan.controls)}
  numbers = {}
  for control in plan.experiment.controls:
    if control.row in trials and control.expected is not None:
      own = trials[control.row]
      try:
        numbers[control.row] = control.expected(own.config, own.data)
      except Exception as e:  # must not cost the table
        fault = f'{type(e).__name__}: {e}'.partition('\n')[0]
        terminal.warn(f'control {control.row}: no number to reach: {fault}')
  return numbers


def control_verdicts(
  experiment: Experiment,
  configs: Mapping[str, Config],
  numbers: Mapping[str, float | None],
  found: Measurements,
  smoke: bool = False,
) -> tuple[ClaimVerdict, ...]:
  """Returns the verdict on each control that ran.

  Args:
    experiment: has the controls.
    configs: configuration of each control that ran.
    numbers: the number that each must reach, if it has one.
    found: metrics of controls and rows.
    smoke: whether this is a --smoke run, which decides nothing.
  """
  judged = []
  for control in experiment.controls:
    if control.row in configs:
      own = override(experiment.base, control.changes)
      what = "the experiment's own flags"
      changed = deviations(own, configs[control.row], what)
      number = numbers.get(control.row)
      verdict = decide_control(control, found, number, changed)
      judged.append(_without_numbers(verdict) if smoke else verdict)
  return tuple(judged)


def _scale_deviations(
  experiment: Experiment, target: PublishedValue, configs: Mapping[str, Config]
) -> list[str]:
  """Returns how the rows of a published value differ from its scale."""
  said: dict[str, None] = {}
  for row in target.rows:
    if row in configs:
      wanted = experiment.at_scale(target, row)
      said |= dict.fromkeys(
        deviations(wanted, configs[row], 'the published scale')
      )
  return list(said)


def _without_numbers(verdict: ClaimVerdict) -> ClaimVerdict:
  """Returns the verdict as 'not run', without the numbers of a smoke run."""
  why = 'a smoke run: nothing has learned'
  return dataclasses.replace(
    verdict, verdict='not run', measured=None, interval=None, seeds=0, why=why
  )
