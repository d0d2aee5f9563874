"""From the record of a plan to its table and its report."""

import json
import shlex
from collections.abc import Sequence

import numpy as np

from experiments import table as tables
from experiments import table_files
from experiments.experiment import BASE
from experiments.ledger import Ledger
from experiments.plan import Plan
from experiments.report import AttentionMaps, Report, write_report
from experiments.terminal import Terminal
from train.files import read_lines

METRIC = 'val_loss'


def finish(
  plan: Plan, ledger: Ledger, command: Sequence[str], terminal: Terminal
) -> None:
  """Writes the table and the report of what there is, and shows the table."""
  records = []
  for planned in plan.trials:
    record = ledger.record(planned.trial.id)
    if record is not None:
      records.append({**record, 'row': planned.row})
  rows = [row.name for row in plan.rows]
  base = BASE if BASE in rows else rows[0]
  withheld = (
    dict.fromkeys(rows, 'a smoke run: nothing has learned')
    if plan.command.smoke
    else None
  )
  table = tables.summarise(
    records, rows, base, METRIC, margin=plan.command.margin, withheld=withheld
  )
  table_files.write(table, plan.workdir)
  path = write_report(plan.workdir, _report(plan, table, command))
  terminal.show(table_files.render(table))
  terminal.say(f'report: {path}')


def _report(plan: Plan, table: tables.Table, command: Sequence[str]) -> Report:
  return Report(
    title=plan.experiment.title,
    claim=plan.experiment.claim,
    citation=plan.experiment.citation,
    command=shlex.join(command),
    definitions=(
      'val_loss: cross-entropy in nats per token on '
      + _evaluated(plan)
      + f'; data: {plan.data.description}.'
    ),
    table=table,
    curves=_curves(plan, 'val_loss'),
    train_curves=_curves(plan, 'loss'),
    attention=_attention(plan),
    environment=json.loads((plan.workdir / 'environment.json').read_text()),
    row_commands={
      row.name: shlex.join(
        [*command, f'--only={row.name}', *_lanes(plan), '--workdir=NEW']
      )
      for row in plan.rows
    },
    row_changes={
      row.name: ' '.join(f'{k}={v}' for k, v in row.changes.items())
      for row in plan.rows
    },
  )


def _lanes(plan: Plan) -> list[str]:
  """Returns the flag that pins the layout, on which bits may depend."""
  path = plan.workdir / 'layout.json'
  if not path.exists():
    return []
  return [f'--lanes={json.loads(path.read_text())["lanes"]}']


def _evaluated(plan: Plan) -> str:
  count = plan.base.eval_examples
  if count is None:
    return 'all windows of the validation part'
  return f'{count} windows, spread evenly over the validation part'


def _curves(
  plan: Plan, name: str
) -> dict[str, dict[int, list[tuple[int, float]]]]:
  out: dict[str, dict[int, list[tuple[int, float]]]] = {}
  for planned in plan.trials:
    lines = read_lines(planned.trial.directory / 'metrics.jsonl')
    points = [
      (line['step'], line[name])
      for line in lines
      if name in line and line[name] is not None
    ]
    if points:
      out.setdefault(planned.row, {})[planned.seed] = points
  return out


def _attention(plan: Plan) -> dict[str, AttentionMaps]:
  """Returns the maps of each row's first seed that has them."""
  out: dict[str, AttentionMaps] = {}
  for planned in plan.trials:
    path = planned.trial.directory / 'attention.npz'
    if planned.row in out or not path.exists():
      continue
    with np.load(path) as saved:
      symbols = planned.trial.data.vocabulary.symbols(saved['tokens_T'])
      out[planned.row] = AttentionMaps(symbols, saved['weights_LNTS'])
  return out
