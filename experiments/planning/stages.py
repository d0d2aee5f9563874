"""The order of trials: first those of --tune or --halving, then the verdict's.

Everything here is a function of the plan and the record, so a repeated command
makes the same choices.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from experiments.planning.inputs import PlannedTrial
from experiments.planning.plan import Plan
from experiments.record.ledger import Ledger
from experiments.rows import halving, tuning
from experiments.rows.assignment import format_assignments
from experiments.rows.tuning import TuningResult
from experiments.shards import parse_shard
from train.core.metric import Metric
from train.files.records import CHECKPOINT_FOLDER, METRICS_FILE, read_metrics
from train.files.strict import DamagedFile


@dataclasses.dataclass(frozen=True)
class Stage:
  """Trials that can run in any order, but before the next stage is known."""

  title: str
  trials: tuple[PlannedTrial, ...]


@dataclasses.dataclass(frozen=True)
class Selection:
  """The result of --tune and --halving.

  Attributes:
    tuned: row -> the point that it chose.
    retired: row -> why --halving stopped it.
  """

  tuned: Mapping[str, TuningResult]
  retired: Mapping[str, str]

  def verdict(self, plan: Plan) -> tuple[PlannedTrial, ...]:
    """Returns the trials of the verdict: remaining rows at their points."""
    return tuple(
      planned
      for planned in plan.trials
      if planned.row not in self.retired
      and (
        planned.row not in self.tuned
        or planned.point == self.tuned[planned.row].point
      )
    )

  def withheld(self, base: str) -> dict[str, str]:
    """Returns `{row: why}` of the rows that get no verdict."""
    return tuning.withheld_rows(self.tuned, base) | dict(self.retired)

  def lines(self, plan: Plan) -> tuple[str, ...]:
    """Returns the selection in sentences for the table."""
    names = ', '.join(map(str, plan.search.seeds))
    on = f'by {plan.metric.name} on seeds {names}, which no verdict uses'
    said = []
    if self.tuned:
      each = ', '.join(
        f'{r} {format_assignments(own.point)}' for r, own in self.tuned.items()
      )
      said.append(f'Chosen by --tune {on}: {each}.')
    if self.retired:
      each = ', '.join(f'{row} ({why})' for row, why in self.retired.items())
      said.append(f'Left out, {on}: {each}.')
    return tuple(said)


def stages(plan: Plan, ledger: Ledger) -> Iterator[Stage]:
  """Yields the stages; each must be in the record before the next is taken."""
  if plan.search.tunes:
    yield Stage('tuning', plan.candidates)
  for rung in plan.search.rungs:
    alive = _rows_before(plan, ledger, rung)
    mine = [_paused_at(p, rung) for p in plan.candidates if p.row in alive]
    yield Stage(f'rung at step {rung}', tuple(mine))
  last = make_selection(plan, ledger).verdict(plan)
  yield Stage('', _in_shard(plan, (*last, *plan.controls)))


def _in_shard(
  plan: Plan, trials: tuple[PlannedTrial, ...]
) -> tuple[PlannedTrial, ...]:
  """Returns the trials that belong to --shard; all without it."""
  if plan.command.shard is None:
    return trials
  shard = parse_shard(plan.command.shard)
  return tuple(p for p in trials if shard.has(p.row, p.seed))


def make_selection(plan: Plan, ledger: Ledger) -> Selection:
  """Returns the selection that follows from the record so far."""
  tuned, retired = {}, {}
  if plan.search.tunes:
    tuned = {
      row.name: _choose_point(plan, ledger, row.name) for row in plan.rows
    }
  for rung in plan.search.rungs:
    costs = _costs_at(plan, ledger, _rows_before(plan, ledger, rung), rung)
    best = halving.survivors(costs, plan.search.eta)
    order = sorted(costs, key=lambda row: costs[row])
    for row in order:
      if row not in best:
        place = f'place {order.index(row) + 1} of {len(order)}'
        retired[row] = f'stopped at step {rung}, {place} (--halving)'
  return Selection(tuned, retired)


def size(plan: Plan) -> tuple[int, int]:
  """Returns the number of trials that will run, and their steps in all."""
  if plan.command.shard is not None:
    mine = _in_shard(plan, (*plan.trials, *plan.controls))
    return len(mine), sum(p.stop for p in mine)
  steps = {p.row: p.stop for p in plan.trials}
  stops = [p.stop for p in plan.candidates] if plan.search.tunes else []
  competing = plan.search.competing(plan.rows) if plan.search.rungs else []
  remaining = len(competing)
  for rung in plan.search.rungs:
    stops += [rung] * remaining * len(plan.search.seeds)
    remaining = max(1, remaining // plan.search.eta)
  fixed = [row for row in steps if row not in competing]
  ending = [*fixed, *competing[:remaining]]
  stops += [steps[row] for row in ending] * len(plan.seeds)
  stops += [p.stop for p in plan.controls]
  return len(stops), sum(stops)


# Results of the trials that select. -------------------------------------------


def _choose_point(plan: Plan, ledger: Ledger, row: str) -> TuningResult:
  """Returns the point of a row with the best mean over its final metrics."""
  metric = plan.metric

  def mean(point: tuning.TuningPoint) -> float:
    mine = [p for p in plan.candidates if p.row == row and p.point == point]
    records = [ledger.record(p.trial.id) for p in mine]
    return _mean(
      metric,
      [
        r['metrics'].get(metric.name) if r and r['status'] == 'ok' else None
        for r in records
      ],
    )

  tried = [(point, mean(point)) for point in plan.search.points]
  return tuning.choose_best_point(tried, metric)


def _rows_before(plan: Plan, ledger: Ledger, until: int) -> list[str]:
  """Returns the rows that no earlier rung stopped."""
  alive = list(dict.fromkeys(p.row for p in plan.candidates))
  for rung in plan.search.rungs:
    if rung == until:
      break
    alive = halving.survivors(
      _costs_at(plan, ledger, alive, rung), plan.search.eta
    )
  return alive


def _costs_at(
  plan: Plan, ledger: Ledger, rows: Sequence[str], rung: int
) -> dict[str, float]:
  """Returns the mean cost of each row at a rung, infinite if one is missing."""
  metric, name = plan.metric, plan.metric.name

  def value(planned: PlannedTrial) -> float | None:
    record = ledger.record(planned.trial.id)
    if record is None or record['status'] == 'failed':
      return None
    path = planned.trial.directory / METRICS_FILE
    lines = read_metrics(path)
    found = [x[name] for x in lines.values if name in x and x['step'] == rung]
    if found or record['status'] == 'diverged' or record['steps'] < rung:
      return found[-1] if found else None
    if paused := ledger.at(planned.trial.id, rung):
      return paused['metrics'].get(name)
    raise DamagedFile(
      f'{path}: lacks the {name} of step {rung}, by which --halving selects',
      f'empty {planned.trial.directory / CHECKPOINT_FOLDER} and repeat the '
      'command',
    )

  return {
    row: metric.cost(
      _mean(metric, [value(p) for p in plan.candidates if p.row == row])
    )
    for row in rows
  }


def _mean(metric: Metric, values: Sequence[float | None]) -> float:
  """Returns the mean; the worst possible value if one value is missing."""
  finite = [x for x in values if x is not None]
  if len(finite) < len(values):
    return metric.worst
  return sum(finite) / len(finite)


def _paused_at(planned: PlannedTrial, rung: int) -> PlannedTrial:
  """Returns the trial with a pause at a rung."""
  trial = dataclasses.replace(planned.trial, pause=rung)
  return dataclasses.replace(planned, trial=trial)
