"""From the record of a plan to its table and its report."""

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments import (
  comparisons,
  formats,
  pictures,
  table_files,
  table_terminal,
)
from experiments import table as tables
from experiments.experiment import BASE
from experiments.extent import Limits, Record, differing
from experiments.inputs import Planned
from experiments.layout import read_layout
from experiments.ledger import Ledger
from experiments.other_code import marked
from experiments.plan import Plan
from experiments.question import label, question
from experiments.report import Report, write_report
from experiments.shown import command_line
from experiments.stages import Selection, select
from experiments.terminal import Terminal
from train.figure import BITS_PER_BYTE, VAL_LOSS, Figure
from train.files import read_json, write_json
from train.records import AGAIN
from train.strict import Damaged


def finish(
  plan: Plan, ledger: Ledger, command: Sequence[str], terminal: Terminal
) -> None:
  """Writes the table and the report of what there is, and shows the table."""
  selection = select(plan, ledger)
  trials = selection.verdict(plan)
  rows = [r.name for r in plan.rows if r.name not in selection.retired]
  base = BASE if BASE in rows else rows[0]
  warned = _warned(plan.warnings, base)
  records = []
  there = [(p, ledger.record(p.trial.id)) for p in trials]
  for planned, record in marked([(p, r) for p, r in there if r is not None]):
    tuned = {flag: float(v) for flag, v in planned.point.items()}
    own = {'row': planned.row, 'tuned': tuned}
    own['warnings'] = warned.get(planned.row, [])
    own['shown'] = planned.trial.config.task.shown
    records.append({**record, **own})
  missing = [p for p in trials if ledger.record(p.trial.id) is None]
  withheld = selection.withheld(base) | _withheld(missing, rows, base)
  if plan.command.smoke:
    withheld = dict.fromkeys(rows, 'a smoke run: nothing has learned')
  table = _table(plan, records, rows, base, withheld)
  table = dataclasses.replace(table, selected=selection.lines(plan))
  report = _report(plan, trials, selection, table, command, terminal)
  own = comparisons.home(plan)
  own.mkdir(parents=True, exist_ok=True)
  _keep_selection(plan, own, selection)
  for folder in (own, plan.workdir):  # there, the last comparison's
    table_files.write(table, folder)
    path = write_report(folder, report)
  terminal.show(table_terminal.render(table))
  for row, why in selection.retired.items():
    terminal.say(f'{row}: {why}')
  if missing:
    fix = (
      'the command without --merge trains them'
      if plan.command.merge
      else '--merge joins them'
    )
    terminal.say(f'not here: {len(missing)} of {len(trials)} trials ({fix})')
  terminal.say(f'report: {path} (kept in {own})')


def _keep_selection(
  plan: Plan, own: pathlib.Path, selection: Selection
) -> None:
  """Writes what was selected beside the table of the comparison, and above.

  There it is the last comparison's: one without a selection has none.
  """
  name = 'selection.json'
  above = plan.workdir / name
  if selection != Selection({}, {}):
    found = formats.finite(dataclasses.asdict(selection))
    for folder in (own, plan.workdir):
      write_json(folder / name, found)
    return
  kept = own.parent.glob(f'*/{name}')
  # Of versions before this one it is kept here alone.
  if above.exists() and above.read_bytes() in {p.read_bytes() for p in kept}:
    above.unlink()


def _table(
  plan: Plan,
  records: Sequence[Record],
  rows: Sequence[str],
  base: str,
  withheld: Mapping[str, str],
) -> tables.Table:
  """Returns the table, and keeps which verdicts it shows."""
  by_row = {r: [t for t in records if t['row'] == r] for r in rows}
  unlike = differing(plan.comparable, base, by_row)
  unlike |= plan.comparable.withheld
  at = plan.comparable.positions
  limits = Limits({r: at[r] for r in at if r not in unlike}, unlike)
  why = {**withheld, **unlike}
  table = tables.summarise(
    records, rows, base, plan.metric, plan.command.margin, 0.05, why, limits
  )
  judged = comparisons.judged(table, why)
  before = comparisons.before(plan, judged)
  comparisons.remember(plan, judged)
  if base == BASE:
    name = label(plan.base, plan.rows)
    shown = (
      dataclasses.replace(r, label=name) if r.is_base else r for r in table.rows
    )
    table = dataclasses.replace(table, rows=tuple(shown))
  return dataclasses.replace(table, before=before)


def _warned(
  warnings: Mapping[str, Sequence[str]], base: str
) -> dict[str, list[str]]:
  """Returns the warnings by row; those of every row stand with the base."""
  found: dict[str, list[str]] = {}
  for line, rows in warnings.items():
    for row in rows or [base]:
      found.setdefault(row, []).append(line if rows else f'every row: {line}')
  return found


def _withheld(
  missing: Sequence[Planned], rows: Sequence[str], base: str
) -> dict[str, str]:
  """Returns why rows get no verdict yet: trials are not here."""
  seeds: dict[str, list[str]] = {}
  for planned in missing:
    seeds.setdefault(planned.row, []).append(str(planned.seed))
  why = {row: f'not here: seed {", ".join(own)}' for row, own in seeds.items()}
  if base in why:
    return dict.fromkeys(rows, f'in the base, {why[base]}')
  return why


def _report(
  plan: Plan,
  trials: Sequence[Planned],
  selection: Selection,
  table: tables.Table,
  command: Sequence[str],
  terminal: Terminal,
) -> Report:
  asked = question(plan.experiment, plan.base, plan.rows)
  figures = pictures.figures_of(trials, terminal)
  return Report(
    title=asked.title,
    claim=asked.claim,
    citation=asked.citation,
    command=command_line(command),
    definitions=_definitions(plan) + pictures.gaps(figures, trials),
    table=table,
    curves=pictures.curves(figures, trials, _plotted(plan.metric).name),
    plotted=_plotted(plan.metric).name,
    train_curves=pictures.curves(figures, trials, 'loss'),
    tuned=selection.tuned,
    retired=selection.retired,
    attention=pictures.attention(trials, terminal),
    samples=pictures.samples(trials, terminal),
    environment=read_json(
      plan.workdir / 'environment.json', dict[str, Any], AGAIN
    ),
    row_commands={
      row.name: command_line(
        [
          *_without(command, ('workdir', 'only', 'lanes')),
          *_anew(plan),
          f'--only={row.name}',
          *_lanes(plan),
          '--workdir=NEW',
        ]
      )
      for row in plan.rows
      if row.name not in selection.retired
    },
    row_changes={
      row.name: ' '.join(f'{k}={v}' for k, v in row.changes.items())
      for row in plan.rows
      if row.name not in selection.retired
    },
  )


def _plotted(metric: Figure) -> Figure:
  """Returns what is drawn over the steps: the loss, if that is comparable."""
  return metric if metric == BITS_PER_BYTE else VAL_LOSS


def _without(command: Sequence[str], flags: Sequence[str]) -> list[str]:
  """Returns the words of a command but for these flags and their values."""
  names = {f'{dashes}{name}' for dashes in ('-', '--') for name in flags}
  return [
    word
    for before, word in itertools.pairwise(['', *command])
    if word.partition('=')[0] not in names and before not in names
  ]


def _anew(plan: Plan) -> list[str]:
  """Returns what undoes flags by which only some trials would run."""
  given = {'shard': plan.command.shard, 'merge': plan.command.merge}
  return [f'--{name}=none' for name, value in given.items() if value]


def _lanes(plan: Plan) -> list[str]:
  """Returns the flag that pins the layout, on which bits may depend."""
  try:
    kept = read_layout(plan.workdir)
  except Damaged:  # the command gave --lanes, and nothing has run with it yet
    return [] if plan.choice is None else [f'--lanes={plan.choice.layout.text}']
  return [] if kept is None else [f'--lanes={kept.lanes}']


def _definitions(plan: Plan) -> str:
  """Returns what the figures of the report are, and of what."""
  evaluated = f' on {_evaluated(plan)}'
  said = ''.join(
    f'{own.name}: {own.about}{evaluated if own.on_the_way else ""}; '
    for own in dict.fromkeys((plan.metric, VAL_LOSS, *_shown(plan)))
  )
  return f'{said}data: {plan.data.description}.'


def _shown(plan: Plan) -> list[Figure]:
  """Returns what the tasks of the rows have shown unasked."""
  tasks = [planned.trial.config.task for planned in plan.trials]
  return [task.measured()[name] for task in tasks for name in task.shown]


def _evaluated(plan: Plan) -> str:
  count = plan.base.eval_examples
  if count is None:
    return 'all examples of the validation part'
  return f'{count} examples, spread evenly over the validation part'
