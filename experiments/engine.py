"""The engine: runs the trials of a plan, keeps the record, writes the table.

Trials run one after another here; how many share a program, and where, is
decided above the loop, by the static half of their configurations.
"""

import errno
import json
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import numpy as np

from experiments import table as tables
from experiments import table_files
from experiments.environment import environment
from experiments.experiment import BASE
from experiments.ledger import Ledger, locked
from experiments.plan import Plan, Planned, check_writable
from experiments.report import AttentionMaps, Report, write_report
from experiments.terminal import Terminal
from train import loop
from train.files import read_lines, write_atomically, write_json
from train.schema import to_flags
from train.trial import Hooks, Interrupted

METRIC = 'val_loss'


class Stop:
  """Remembers SIGINT and SIGTERM; a second one ends the process at once."""

  def __init__(self) -> None:
    self.signal: int | None = None
    self._before = {
      number: signal.signal(number, self._handle)
      for number in (signal.SIGINT, signal.SIGTERM)
    }

  def restore(self) -> None:
    """Puts back what handled the signals before."""
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _handle(self, number: int, frame: FrameType | None) -> None:
    del frame
    self.signal = number
    signal.signal(number, signal.SIG_DFL)

  def requested(self) -> bool:
    """Returns whether to stop at the next chunk."""
    return self.signal is not None


def execute(
  plan: Plan, command: Sequence[str], flag_lines: Sequence[str]
) -> int:
  """Runs what is not finished, writes table and report; returns the exit code.

  Args:
    plan: checked trials.
    command: the words of the command line, for the line that resumes.
    flag_lines: lines of a flag file that replays the command.

  Raises:
    Refused: the directory belongs to something else, or is in use.
  """
  stop = Stop()
  try:
    check_writable(plan.workdir)
    with locked(plan.workdir):
      return _execute(plan, command, flag_lines, stop)
  except Interrupted:
    assert stop.signal is not None
    print(f'\nsaved; to go on: {shlex.join(command)}', flush=True)
    return 128 + stop.signal
  except OSError as e:
    print(
      f'{plan.workdir}: cannot be written ({e.strerror or e}); what was saved '
      f'is kept; make room, then: {shlex.join(command)}',
      file=sys.stderr,
    )
    return 1
  finally:
    stop.restore()


def _execute(
  plan: Plan, command: Sequence[str], flag_lines: Sequence[str], stop: Stop
) -> int:
  """Runs and reports a plan whose directory is held; returns the exit code."""
  _describe(plan, flag_lines)
  ledger = Ledger(plan.workdir)
  with Terminal(sum(p.trial.config.steps for p in plan.trials)) as terminal:
    _run_all(plan, ledger, terminal, stop)
    finish(plan, ledger, command, terminal)
  failed = [p for p in plan.trials if not ledger.finished(p.trial.id)]
  return 1 if failed else 0


def _describe(plan: Plan, flag_lines: Sequence[str]) -> None:
  """Writes what the run is: flags, configuration, environment, layout."""
  workdir = plan.workdir
  write_json(workdir / 'config.json', plan.owner)
  write_atomically(workdir / 'flags.txt', '\n'.join(flag_lines) + '\n')
  about = environment(plan.devices)
  about['data'] = {plan.data.description: plan.data.digest}
  write_json(workdir / 'environment.json', about)
  layout = {'lanes': 'solo', 'devices': plan.devices.count}
  write_json(workdir / 'layout.json', layout)


def _run_all(
  plan: Plan, ledger: Ledger, terminal: Terminal, stop: Stop
) -> None:
  hooks = Hooks(terminal.advance, terminal.warn, stop.requested)
  for number, planned in enumerate(plan.trials, 1):
    steps = planned.trial.config.steps
    head = f'[{number}/{len(plan.trials)}] {planned.row}, seed {planned.seed}:'
    if ledger.finished(planned.trial.id):
      terminal.end(steps, f'{head} done before')
      continue
    if stop.requested():
      raise Interrupted
    terminal.begin(f'{planned.row} {planned.seed}')
    record = _run_one(plan, planned, hooks)
    ledger.append(record)
    terminal.end(steps, f'{head} {_outcome(record)}')


def _run_one(plan: Plan, planned: Planned, hooks: Hooks) -> dict[str, Any]:
  """Returns the record of a trial; one that fails does not stop the others."""
  record: dict[str, Any] = {
    'row': planned.row,
    'trial': planned.trial.id,
    'seed': planned.seed,
  }
  config = to_flags(planned.trial.config)
  try:
    result = loop.run(planned.trial, plan.options, plan.devices, hooks)
  except (Interrupted, OSError):
    raise
  except Exception as e:
    if (problem := _of_the_disk(e)) is not None:
      raise problem from e
    first = str(e).splitlines()[0] if str(e) else ''
    error = f'{type(e).__name__}: {first}'[:300]
    return record | {'status': 'failed', 'error': error, 'config': config}
  return record | result._asdict() | {'config': config}


def _of_the_disk(error: Exception) -> OSError | None:
  """Returns the error of the disk that Orbax wrapped in one of its own."""
  for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO):
    if os.strerror(code) in str(error):
      return OSError(code, os.strerror(code))
  return None


def _outcome(record: Mapping[str, Any]) -> str:
  if record['status'] == 'failed':
    return f'failed: {record["error"]}'
  if record['status'] == 'diverged':
    return f'diverged at step {record["metrics"]["diverged_at"]}'
  value, seconds = record['metrics'][METRIC], record['clock']['seconds']
  return f'{METRIC} {value:.4f} in {seconds:.1f} s'


# Table and report. ------------------------------------------------------------


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
  table = tables.summarise(records, rows, base, METRIC)
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
      row.name: shlex.join([*command, f'--only={row.name}', '--workdir=NEW'])
      for row in plan.rows
    },
    row_changes={
      row.name: ' '.join(f'{k}={v}' for k, v in row.changes.items())
      for row in plan.rows
    },
  )


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
