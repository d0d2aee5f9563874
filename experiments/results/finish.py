"""Writes the table and the report of a plan from its records."""

import dataclasses
import itertools
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.claims.metrics import Measurements
from experiments.experiment import BASE
from experiments.messages import formats
from experiments.messages.escapes import command_line
from experiments.messages.terminal import Terminal
from experiments.planning.inputs import PlannedTrial
from experiments.planning.layout import read_layout
from experiments.planning.plan import Plan
from experiments.planning.stages import Selection, make_selection
from experiments.record.ledger import Ledger
from experiments.report import pictures
from experiments.report.render import Report, write_report
from experiments.results import claim_results as claims
from experiments.results import comparisons
from experiments.results.other_code import mark_code
from experiments.results.outcome import TableOutcome
from experiments.rows.title import label, question
from experiments.table import table as tables
from experiments.table import table_files, table_terminal
from experiments.table.extent import ComparisonLimits, target_mismatches
from train.core.metric import BITS_PER_BYTE, VAL_LOSS, Metric
from train.files.durable import JsonLines, read_json, write_json
from train.files.records import AGAIN, JsonRecord
from train.files.strict import DamagedFile


def finish(
  plan: Plan, ledger: Ledger, command: Sequence[str], terminal: Terminal
) -> TableOutcome:
  """Writes table and report of the trials so far, and prints the table."""
  selection = make_selection(plan, ledger)
  trials = selection.verdict(plan)
  rows = [r.name for r in plan.rows if r.name not in selection.retired]
  base = BASE if BASE in rows else rows[0]
  warned = _warnings_by_row(plan.warnings, base)
  records = []
  there = [(p, ledger.record(p.trial.id)) for p in trials]
  for planned, record in mark_code([(p, r) for p, r in there if r is not None]):
    tuned = {flag: float(v) for flag, v in planned.point.items()}
    own = {'row': planned.row, 'tuned': tuned}
    own['warnings'] = warned.get(planned.row, [])
    own['shown'] = planned.trial.config.task.shown
    records.append({**record, **own})
  missing = [p for p in trials if ledger.record(p.trial.id) is None]
  withheld = selection.withheld(base) | _incomplete_rows(missing, rows, base)
  if plan.command.smoke:
    withheld = dict.fromkeys(rows, 'a smoke run: nothing has learned')
  table = _table(plan, records, rows, base, withheld)
  table = dataclasses.replace(table, selected=selection.lines(plan))
  figures = pictures.figures_of([*trials, *plan.controls], terminal)
  found = claims.collect_measurements(
    [*trials, *plan.controls], ledger, figures
  )
  table = _with_claims(plan, trials, found, table, terminal)
  report = _report(plan, trials, selection, table, command, terminal, figures)
  own = comparisons.comparison_folder(plan)
  own.mkdir(parents=True, exist_ok=True)
  _write_selection(plan, own, selection)
  for folder in (own, plan.workdir):  # workdir has the latest comparison
    table_files.write(table, folder)
    path = write_report(folder, report)
  for part in table_terminal.parts(table):
    terminal.show(part)
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
  return TableOutcome(plan, trials, found, table, report.environment)


def _with_claims(
  plan: Plan,
  trials: Sequence[PlannedTrial],
  found: Measurements,
  table: tables.AblationTable,
  terminal: Terminal,
) -> tables.AblationTable:
  """Returns the table with the verdicts on published values and controls."""
  configs = {planned.row: planned.trial.config for planned in trials}
  smoke = plan.command.smoke
  return dataclasses.replace(
    table,
    published=claims.published_verdicts(plan.experiment, configs, found, smoke),
    controls=claims.control_verdicts(
      plan.experiment,
      {p.row: p.trial.config for p in plan.controls},
      claims.expected_numbers(plan, terminal),
      found,
      smoke,
    ),
  )


def _write_selection(
  plan: Plan, own: pathlib.Path, selection: Selection
) -> None:
  """Writes selection.json beside the table, and to the working directory.

  The working directory has that of the latest comparison; if this one selects
  nothing, the file there is removed.
  """
  name = 'selection.json'
  above = plan.workdir / name
  if selection != Selection({}, {}):
    found = formats.finite_json(dataclasses.asdict(selection))
    for folder in (own, plan.workdir):
      write_json(folder / name, found)
    return
  kept = own.parent.glob(f'*/{name}')
  # An older version wrote no copy beside the table: then this is the only one.
  if above.exists() and above.read_bytes() in {p.read_bytes() for p in kept}:
    above.unlink()


def _table(
  plan: Plan,
  records: Sequence[JsonRecord],
  rows: Sequence[str],
  base: str,
  withheld: Mapping[str, str],
) -> tables.AblationTable:
  """Returns the table, and stores which verdicts it shows."""
  by_row = {r: [t for t in records if t['row'] == r] for r in rows}
  unlike = target_mismatches(plan.comparable, base, by_row)
  unlike |= plan.comparable.withheld
  at = plan.comparable.positions
  limits = ComparisonLimits({r: at[r] for r in at if r not in unlike}, unlike)
  why = {**withheld, **unlike}
  table = tables.make_table(
    records, rows, base, plan.metric, plan.command.margin, 0.05, why, limits
  )
  judged = comparisons.seeds_of_verdicts(table, why)
  before = comparisons.changes_since_shown(plan, judged)
  comparisons.record_shown(plan, judged)
  if base == BASE:
    name = label(plan.base, plan.rows)
    shown = (
      dataclasses.replace(r, label=name) if r.is_base else r for r in table.rows
    )
    table = dataclasses.replace(table, rows=tuple(shown))
  return dataclasses.replace(table, before=before)


def _warnings_by_row(
  warnings: Mapping[str, Sequence[str]], base: str
) -> dict[str, list[str]]:
  """Returns the warnings by row; the base has those that concern all rows."""
  found: dict[str, list[str]] = {}
  for line, rows in warnings.items():
    for row in rows or [base]:
      found.setdefault(row, []).append(line if rows else f'every row: {line}')
  return found


def _incomplete_rows(
  missing: Sequence[PlannedTrial], rows: Sequence[str], base: str
) -> dict[str, str]:
  """Returns `{row: why}` of rows whose trials are not all here."""
  seeds: dict[str, list[str]] = {}
  for planned in missing:
    seeds.setdefault(planned.row, []).append(str(planned.seed))
  why = {row: f'not here: seed {", ".join(own)}' for row, own in seeds.items()}
  if base in why:
    return dict.fromkeys(rows, f'in the base, {why[base]}')
  return why


def _report(
  plan: Plan,
  trials: Sequence[PlannedTrial],
  selection: Selection,
  table: tables.AblationTable,
  command: Sequence[str],
  terminal: Terminal,
  figures: Mapping[str, JsonLines],
) -> Report:
  asked = question(plan.experiment, plan.base, plan.rows)
  return Report(
    title=asked.title,
    claim=asked.claim,
    citation=asked.citation,
    command=command_line(command),
    definitions=_definitions(plan) + pictures.gaps(figures, trials),
    table=table,
    curves=pictures.curves(figures, trials, _curve_metric(plan.metric).name),
    plotted=_curve_metric(plan.metric).name,
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
          *_reset_flags(plan),
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


def _curve_metric(metric: Metric) -> Metric:
  """Returns the metric of the learning curves: bits per byte, or the loss."""
  return metric if metric == BITS_PER_BYTE else VAL_LOSS


def _without(command: Sequence[str], flags: Sequence[str]) -> list[str]:
  """Returns the words of a command without these flags and their values."""
  names = {f'{dashes}{name}' for dashes in ('-', '--') for name in flags}
  return [
    word
    for before, word in itertools.pairwise(['', *command])
    if word.partition('=')[0] not in names and before not in names
  ]


def _reset_flags(plan: Plan) -> list[str]:
  """Returns flags that reset --shard and --merge, so that all trials run."""
  given = {'shard': plan.command.shard, 'merge': plan.command.merge}
  return [f'--{name}=none' for name, value in given.items() if value]


def _lanes(plan: Plan) -> list[str]:
  """Returns the flag that fixes the layout, on which the bits may depend."""
  try:
    kept = read_layout(plan.workdir)
  except DamagedFile:  # then the command has --lanes, and no trial has run yet
    return [] if plan.choice is None else [f'--lanes={plan.choice.layout.text}']
  return [] if kept is None else [f'--lanes={kept.lanes}']


def _definitions(plan: Plan) -> str:
  """Returns the definitions of the metrics, and the data they come from."""
  evaluated = f' on {_evaluation_examples(plan)}'
  said = ''.join(
    f'{own.name}: {own.about}{evaluated if own.at_every_evaluation else ""}; '
    for own in dict.fromkeys((plan.metric, VAL_LOSS, *_task_metrics(plan)))
  )
  return f'{said}data: {plan.data.description}.'


def _task_metrics(plan: Plan) -> list[Metric]:
  """Returns the additional metrics that the tasks of the rows always show."""
  tasks = [planned.trial.config.task for planned in plan.trials]
  return [task.measured()[name] for task in tasks for name in task.shown]


def _evaluation_examples(plan: Plan) -> str:
  count = plan.base.eval_examples
  if count is None:
    return 'all examples of the validation part'
  return f'{count} examples, spread evenly over the validation part'
