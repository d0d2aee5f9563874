"""The engine: runs the trials of a plan, then writes table and report."""

import contextlib
from collections.abc import Sequence
from typing import NamedTuple

from experiments.messages.terminal import Terminal
from experiments.planning.layout import mend_layout
from experiments.planning.plan import Plan, check_writable
from experiments.planning.stages import size, stages
from experiments.record.ledger import Ledger, lock_workdir
from experiments.results import comparisons, stored
from experiments.results.description import describe_run
from experiments.results.finish import finish
from experiments.results.merge import merge
from experiments.results.other_code import CodeSurvey, prepare, survey_plan
from experiments.results.outcome import TableOutcome
from experiments.run.executor import TrialExecutor
from experiments.run.pool import WorkerPool
from experiments.run.recorder import Recorder
from experiments.run.runner import LocalExecutor
from experiments.run.stop import GuardedRun, StopSignal
from train.files.durable import remove_temporaries


def run_plan(
  plan: Plan, command: Sequence[str], flag_lines: Sequence[str]
) -> int:
  """Runs all unfinished trials of a plan; returns the exit code.

  Writes the table and the report.

  Args:
    plan: the checked plan.
    command: the words of the command line, to print how to resume.
    flag_lines: lines of a flag file that replays the command.

  Raises:
    CommandError: the directory belongs to something else, or is in use.
  """
  with GuardedRun(plan.workdir, command) as guard:
    found = survey_plan(plan)
    done = run_table(plan, found, command, flag_lines, guard.stop)
    stored.write(plan.experiment, [done.outcome], command)
    guard.code = done.code
  return guard.code


class TableResult(NamedTuple):
  """The exit code and the results of a table."""

  code: int
  outcome: TableOutcome


def run_table(
  plan: Plan,
  found: CodeSurvey,
  command: Sequence[str],
  flag_lines: Sequence[str],
  stop: StopSignal,
) -> TableResult:
  """Runs a plan and writes its report, with its directory locked.

  Raises:
    CommandError: the directory is in use.
    Interrupted: a signal came; all states are saved.
    OSError: the disk is full or cannot be written.
  """
  check_writable(plan.workdir)
  with lock_workdir(plan.workdir) as lock:
    for folder in (plan.workdir, plan.workdir / 'runs'):
      remove_temporaries(folder)
    describe_run(plan, flag_lines)
    ledger = Ledger(plan.workdir)
    layout = mend_layout(plan.workdir)
    trials, steps = size(plan)
    with Terminal(trials, steps) as terminal:
      damage = [
        *ledger.damage,
        *comparisons.damaged_verdict_lines(plan.workdir),
      ]
      for line in [*damage, *([layout] if layout else [])]:
        terminal.warn(line)
      about = plan.metric, plan.devices, stop.requested
      recorder = Recorder(ledger, terminal, *about)
      prepare(plan, found, ledger, terminal)
      if plan.command.merge is not None:
        merge(plan, ledger, terminal)
      else:
        alone = plan.command.workers == 1
        where = plan, recorder, terminal
        run: TrialExecutor = (
          LocalExecutor(*where) if alone else WorkerPool(*where, lock)
        )
        with contextlib.closing(run):
          for stage in stages(plan, ledger):
            if stage.title:
              terminal.say(f'{stage.title}: {len(stage.trials)} trials')
            run.run_all(stage.trials)
      outcome = finish(plan, ledger, command, terminal)
    every = [p for stage in stages(plan, ledger) for p in stage.trials]
    return TableResult(
      0 if all(map(recorder.is_settled, every)) else 1, outcome
    )
