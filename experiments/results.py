"""From the record of a plan to its table and its report."""

import dataclasses
import itertools
import json
import shlex
from collections.abc import Mapping, Sequence

import numpy as np

from experiments import formats, table_files
from experiments import table as tables
from experiments.experiment import BASE
from experiments.inputs import Planned
from experiments.ledger import Ledger
from experiments.plan import Plan
from experiments.report import AttentionMaps, Report, Sample, write_report
from experiments.stages import Selection, select
from experiments.terminal import Terminal
from train.figure import VAL_LOSS, Figure
from train.files import read_lines, write_json
from train.look import FILE as MAPS_FILE
from train.look import MAPS, SOURCE, TEXT
from train.sample import FILE
from train.vocabulary import Vocabulary


def finish(
  plan: Plan, ledger: Ledger, command: Sequence[str], terminal: Terminal
) -> None:
  """Writes the table and the report of what there is, and shows the table."""
  selection = select(plan, ledger)
  trials = selection.verdict(plan)
  records = []
  for planned in trials:
    record = ledger.record(planned.trial.id)
    if record is not None:
      tuned = {flag: float(v) for flag, v in planned.point.items()}
      own = {'row': planned.row, 'tuned': tuned}
      own['shown'] = planned.trial.config.task.shown
      records.append({**record, **own})
  rows = [r.name for r in plan.rows if r.name not in selection.retired]
  base = BASE if BASE in rows else rows[0]
  missing = [p for p in trials if ledger.record(p.trial.id) is None]
  withheld = selection.withheld(base) | _withheld(missing, rows, base)
  if plan.command.smoke:
    withheld = dict.fromkeys(rows, 'a smoke run: nothing has learned')
  table = tables.summarise(
    records,
    rows,
    base,
    plan.metric,
    plan.command.margin,
    withheld=withheld,
  )
  table_files.write(table, plan.workdir)
  if selection != Selection({}, {}):
    found = formats.finite(dataclasses.asdict(selection))
    write_json(plan.workdir / 'selection.json', found)
  report = _report(plan, trials, selection, table, command)
  path = write_report(plan.workdir, report)
  terminal.show(table_files.render(table))
  for row, why in selection.retired.items():
    terminal.say(f'{row}: {why}')
  if missing:
    fix = (
      'the command without --merge trains them'
      if plan.command.merge
      else '--merge joins them'
    )
    terminal.say(f'not here: {len(missing)} of {len(trials)} trials ({fix})')
  terminal.say(f'report: {path}')


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
) -> Report:
  return Report(
    title=plan.experiment.title,
    claim=plan.experiment.claim,
    citation=plan.experiment.citation,
    command=shlex.join(command),
    definitions=_definitions(plan),
    table=table,
    curves=_curves(trials, VAL_LOSS.name),
    train_curves=_curves(trials, 'loss'),
    tuned=selection.tuned,
    retired=selection.retired,
    attention=_attention(trials),
    samples=_samples(trials),
    environment=json.loads((plan.workdir / 'environment.json').read_text()),
    row_commands={
      row.name: shlex.join(
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
  path = plan.workdir / 'layout.json'
  if not path.exists():
    return []
  return [f'--lanes={json.loads(path.read_text())["lanes"]}']


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


def _curves(
  trials: Sequence[Planned], name: str
) -> dict[str, dict[int, list[tuple[int, float]]]]:
  out: dict[str, dict[int, list[tuple[int, float]]]] = {}
  for planned in trials:
    lines = read_lines(planned.trial.directory / 'metrics.jsonl')
    points = [
      (line['step'], line[name])
      for line in lines
      if name in line and line[name] is not None
    ]
    if points:
      out.setdefault(planned.row, {})[planned.seed] = points
  return out


def _attention(
  trials: Sequence[Planned],
) -> dict[str, dict[str, AttentionMaps]]:
  """Returns the maps of each row's first seed that has them, by their kind."""
  out: dict[str, dict[str, AttentionMaps]] = {}
  for planned in trials:
    path = planned.trial.directory / MAPS_FILE
    if planned.row not in out and path.exists():
      with np.load(path) as saved:
        out[planned.row] = _maps(saved, planned.trial.data.vocabulary)
  return out


def _maps(
  saved: Mapping[str, np.ndarray], vocabulary: Vocabulary
) -> dict[str, AttentionMaps]:
  """Returns what a file of maps holds, its tokens as a reader sees them."""
  symbols = {
    name: vocabulary.symbols(saved[name])
    for name in (TEXT, SOURCE)
    if name in saved
  }
  return {
    f'{own.stack} {own.what}' if SOURCE in saved else own.what: AttentionMaps(
      symbols[own.queries], symbols[own.keys], saved[own.weights]
    )
    for own in MAPS
    if own.weights in saved
  }


def _samples(trials: Sequence[Planned]) -> dict[str, Sample]:
  """Returns what each row's first seed that has written a text wrote."""
  out: dict[str, Sample] = {}
  for planned in trials:
    path = planned.trial.directory / FILE
    if planned.row not in out and path.exists():
      out[planned.row] = Sample(**json.loads(path.read_text()))
  return out
