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
    CommandError: the directory is in use, or holds trials from other code and
      neither --keep nor --rerun is given.
  """
  with GuardedRun(plan.workdir, command) as guard:
    survey = survey_plan(plan)
    result = run_table(plan, survey, command, flag_lines, guard.stop)
    stored.write(plan.experiment, [result.outcome], command)
    guard.code = result.code
  return guard.code


class TableResult(NamedTuple):
  """The exit code and the results of a table."""

  code: int
  outcome: TableOutcome


def run_table(
  plan: Plan,
  survey: CodeSurvey,
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
    layout_warning = mend_layout(plan.workdir)
    with Terminal(*size(plan)) as terminal:
      damage = [
        *ledger.damage,
        *comparisons.damaged_verdict_lines(plan.workdir),
      ]
      for line in [*damage, *([layout_warning] if layout_warning else [])]:
        terminal.warn(line)
      recorder = Recorder(
        ledger, terminal, plan.metric, plan.devices, stop.requested
      )
      prepare(plan, survey, ledger, terminal)
      if plan.command.merge is not None:
        merge(plan, ledger, terminal)
      else:
        executor: TrialExecutor = (
          LocalExecutor(plan, recorder, terminal)
          if plan.command.workers == 1
          else WorkerPool(plan, recorder, terminal, lock)
        )
        with contextlib.closing(executor):
          for stage in stages(plan, ledger):
            if stage.title:
              terminal.say(f'{stage.title}: {len(stage.trials)} trials')
            executor.run_all(stage.trials)
      outcome = finish(plan, ledger, command, terminal)
    # Again, since the record decides which trials the later stages have.
    trials = [p for stage in stages(plan, ledger) for p in stage.trials]
    is_complete = all(map(recorder.is_settled, trials))
    return TableResult(0 if is_complete else 1, outcome)
