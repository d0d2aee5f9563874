"""Runs an experiment of several blocks, each with its own table and folder.

A block runs like any table, in WORKDIR/BLOCK, and is resumed, merged and
replayed on its own.  The summary of all blocks is in WORKDIR.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

from experiments.claims.metrics import Measurements
from experiments.experiment import Experiment, full_name
from experiments.messages.streams import say
from experiments.planning.blocks import BLOCKS_FILE, BlocksOwner
from experiments.planning.plan import Plan, check_writable
from experiments.report import block_summary
from experiments.results import claim_results as claims
from experiments.results import stored
from experiments.results.other_code import survey_plan
from experiments.results.outcome import TableOutcome
from experiments.run.engine import run_table
from experiments.run.stop import GuardedRun
from train.files.durable import write_json


class BlockTable(NamedTuple):
  """A block to run: its plan, and lines of a flag file that replays it."""

  plan: Plan
  flag_lines: Sequence[str]


def run_blocks(
  experiment: Experiment,
  tables: Sequence[BlockTable],
  words: Sequence[str],
  introduce: Callable[[Plan], None],
) -> int:
  """Runs blocks one after another, then shows them side by side.

  Args:
    experiment: the experiment of the blocks.
    tables: the blocks to run: all, or the one that --block names.
    words: the command line.
    introduce: prints what a block will run.

  Returns:
    The exit code: 1 if a trial of any block failed.

  Raises:
    CommandError: a directory belongs to something else, or is in use.
  """
  folder = tables[0].plan.workdir.parent

  with GuardedRun(folder, words) as guard:
    # Check all blocks before the first one runs.
    found = [survey_plan(table.plan) for table in tables]
    check_writable(folder)
    write_json(
      folder / BLOCKS_FILE, dataclasses.asdict(BlocksOwner(experiment.name))
    )
    done = []
    for table, own in zip(tables, found, strict=True):
      introduce(table.plan)
      one = _words(words, table.plan)
      done.append(run_table(table.plan, own, one, table.flag_lines, guard.stop))
      say('')
    guard.code = max(one.code for one in done)
    if len(tables) < len(experiment.blocks):
      say('the command without --block shows all blocks beside each other')
    else:
      _summarise(experiment, [one.outcome for one in done], words, folder)
  return guard.code


def _summarise(
  experiment: Experiment,
  outcomes: Sequence[TableOutcome],
  words: Sequence[str],
  folder: pathlib.Path,
) -> None:
  """Writes and shows the results of all blocks."""
  configs = {
    full_name(own.plan.experiment.block, planned.row): planned.trial.config
    for own in outcomes
    for planned in own.trials
  }
  rows = {
    full_name(own.plan.experiment.block, row): trials
    for own in outcomes
    for row, trials in own.found.rows.items()
  }
  smoke = outcomes[0].plan.command.smoke
  summary = block_summary.Summary(
    experiment,
    {own.plan.workdir.name: own.table for own in outcomes},
    claims.published_verdicts(experiment, configs, Measurements(rows), smoke),
    words,
  )
  path = block_summary.write(summary, folder)
  block_summary.show(summary)
  say(f'report: {path}')
  stored.write(experiment, outcomes, words)


def _words(words: Sequence[str], plan: Plan) -> list[str]:
  """Returns the command line that runs one block only."""
  flag = f'--block={plan.experiment.block}'
  return [*words] if flag in words else [*words, flag]
