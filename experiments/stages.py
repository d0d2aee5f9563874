"""What runs after what: first what selects, then the trials of the verdict.

Everything here is a function of the plan and the record, so that a command
that is repeated takes the same way.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

from experiments import halving, tuning
from experiments.assignment import join
from experiments.inputs import Planned
from experiments.ledger import Ledger
from experiments.plan import Plan
from experiments.shards import parse_shard
from experiments.tuning import Tuned
from train.figure import Figure
from train.records import FIGURES, FOLDER, read_figures
from train.strict import Damaged


@dataclasses.dataclass(frozen=True)
class Stage:
  """Trials that can run in any order, before what follows is known."""

  title: str
  trials: tuple[Planned, ...]


@dataclasses.dataclass(frozen=True)
class Selection:
  """What --tune and --halving found: what rows chose, and who stopped why."""

  tuned: Mapping[str, Tuned]
  retired: Mapping[str, str]

  def verdict(self, plan: Plan) -> tuple[Planned, ...]:
    """Returns the trials of the verdict: of these points, of these rows."""
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
    """Returns why rows get no verdict."""
    return tuning.withheld(self.tuned, base) | dict(self.retired)

  def lines(self, plan: Plan) -> tuple[str, ...]:
    """Returns what was chosen, and on which seeds, for the table."""
    names = ', '.join(map(str, plan.search.seeds))
    on = f'by {plan.metric.name} on seeds {names}, which no verdict uses'
    said = []
    if self.tuned:
      each = ', '.join(
        f'{r} {join(own.point)}' for r, own in self.tuned.items()
      )
      said.append(f'Chosen by --tune {on}: {each}.')
    if self.retired:
      each = ', '.join(f'{row} ({why})' for row, why in self.retired.items())
      said.append(f'Left out, {on}: {each}.')
    return tuple(said)


def stages(plan: Plan, ledger: Ledger) -> Iterator[Stage]:
  """Yields what to run; the record must know each stage before the next."""
  if plan.search.tunes:
    yield Stage('tuning', plan.candidates)
  for rung in plan.search.rungs:
    alive = _alive(plan, ledger, rung)
    mine = [_until(p, rung) for p in plan.candidates if p.row in alive]
    yield Stage(f'rung at step {rung}', tuple(mine))
  yield Stage('', _mine(plan, select(plan, ledger).verdict(plan)))


def _mine(plan: Plan, trials: tuple[Planned, ...]) -> tuple[Planned, ...]:
  """Returns those that are of this shard, if there is one."""
  if plan.command.shard is None:
    return trials
  shard = parse_shard(plan.command.shard)
  return tuple(p for p in trials if shard.has(p.row, p.seed))


def select(plan: Plan, ledger: Ledger) -> Selection:
  """Returns what the record says so far."""
  tuned, retired = {}, {}
  if plan.search.tunes:
    tuned = {row.name: _tune(plan, ledger, row.name) for row in plan.rows}
  for rung in plan.search.rungs:
    costs = _at(plan, ledger, _alive(plan, ledger, rung), rung)
    best = halving.survivors(costs, plan.search.eta)
    order = sorted(costs, key=lambda row: costs[row])
    for row in order:
      if row not in best:
        place = f'place {order.index(row) + 1} of {len(order)}'
        retired[row] = f'stopped at step {rung}, {place} (--halving)'
  return Selection(tuned, retired)


def size(plan: Plan) -> tuple[int, int]:
  """Returns how many trials will run, and to how many steps in all."""
  if plan.command.shard is not None:
    mine = _mine(plan, plan.trials)
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
  return len(stops), sum(stops)


# How far rows have come. ------------------------------------------------------


def _tune(plan: Plan, ledger: Ledger, row: str) -> Tuned:
  """Returns the choice of a row: of the best mean at the end."""
  metric = plan.metric

  def mean(point: tuning.Point) -> float:
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
  return tuning.choose(tried, metric)


def _alive(plan: Plan, ledger: Ledger, until: int) -> list[str]:
  """Returns the rows that train to a rung."""
  alive = list(dict.fromkeys(p.row for p in plan.candidates))
  for rung in plan.search.rungs:
    if rung == until:
      break
    alive = halving.survivors(_at(plan, ledger, alive, rung), plan.search.eta)
  return alive


def _at(
  plan: Plan, ledger: Ledger, rows: Sequence[str], rung: int
) -> dict[str, float]:
  """Returns the mean cost of each row at a rung, infinite if it has none."""
  metric, name = plan.metric, plan.metric.name

  def value(planned: Planned) -> float | None:
    record = ledger.record(planned.trial.id)
    if record is None or record['status'] == 'failed':
      return None
    path = planned.trial.directory / FIGURES
    lines = read_figures(path)
    found = [x[name] for x in lines.values if name in x and x['step'] == rung]
    if found or record['status'] == 'diverged' or record['steps'] < rung:
      return found[-1] if found else None
    if paused := ledger.at(planned.trial.id, rung):
      return paused['metrics'].get(name)
    raise Damaged(
      f'{path}: lacks the {name} of step {rung}, by which --halving selects',
      f'empty {planned.trial.directory / FOLDER} and repeat the command',
    )

  return {
    row: metric.cost(
      _mean(metric, [value(p) for p in plan.candidates if p.row == row])
    )
    for row in rows
  }


def _mean(metric: Figure, values: Sequence[float | None]) -> float:
  """Returns the mean; the worst there is if one is not there."""
  finite = [x for x in values if x is not None]
  if len(finite) < len(values):
    return metric.worst
  return sum(finite) / len(finite)


def _until(planned: Planned, rung: int) -> Planned:
  """Returns a trial that pauses at a rung."""
  trial = dataclasses.replace(planned.trial, pause=rung)
  return dataclasses.replace(planned, trial=trial)
