"""Runs an experiment of several blocks, each with its own table and folder.

A block runs like any table, in WORKDIR/BLOCK, and is resumed, merged and
replayed on its own.  The summary of all blocks is in WORKDIR.
"""

import dataclasses
import hashlib
import json
import pathlib
import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from experiments.claims.metrics import Measurements
from experiments.command import Command
from experiments.experiment import Experiment, full_name
from experiments.messages.errors import CommandError
from experiments.messages.streams import say
from experiments.planning.plan import Plan, check_writable
from experiments.report import block_summary
from experiments.results import claim_results as claims
from experiments.results import stored
from experiments.results.other_code import survey_plan
from experiments.results.outcome import TableOutcome
from experiments.run.engine import run_table
from experiments.run.stop import GuardedRun
from model.core.field import FieldError
from train.config.config import Config
from train.files.durable import read_json, write_json
from train.files.records import AGAIN
from train.flags.schema import non_default_flags
from train.flags.suggest import suggest_value

BLOCKS_FILE = 'blocks.json'


@dataclasses.dataclass(frozen=True)
class BlocksOwner:
  """The content of blocks.json: the experiment whose blocks are in a folder."""

  experiment: str


class BlockTable(NamedTuple):
  """A block to run: its plan, and lines of a flag file that replays it."""

  plan: Plan
  flag_lines: Sequence[str]


def select_blocks(
  experiment: Experiment, name: str | None
) -> tuple[Experiment, ...]:
  """Returns the blocks to run: all, or the one named; or the experiment itself.

  Raises:
    FieldError: there is no block of this name.
  """
  parts = experiment.parts
  if name is None:
    return parts
  names = [part.block for part in parts if part.block is not None]
  if name not in names:
    there = f'one of {"|".join(names)}' if names else 'left out: it has none'
    near = suggest_value(name, names)
    raise FieldError(
      'block', name, f'of {experiment.name} must be {there}{near}'
    )
  return tuple(part for part in parts if part.block == name)


def blocks_folder(
  experiment: Experiment, typed: Mapping[str, str], command: Command
) -> pathlib.Path:
  """Returns the folder of all blocks: --workdir, or one named by a digest.

  Raises:
    CommandError: it has other files in it.
  """
  about = [
    experiment.name,
    non_default_flags(Config(), experiment.base),
    {flag: text for flag, text in typed.items() if flag != 'seed'},
    command.smoke,
  ]
  digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
  name = f'{experiment.name}-{digest.hexdigest()[:8]}'
  if command.shard is not None:
    name += f'-{command.shard.replace("/", "of")}'
  folder = pathlib.Path(command.workdir or f'runs/{name}')
  _check(folder, experiment)
  return folder


def block_command(
  part: Experiment, command: Command, folder: pathlib.Path
) -> Command:
  """Returns the command of one block, with its own working directory."""
  assert part.block is not None
  merge = command.merge and shlex.join(
    str(pathlib.Path(name) / part.block) for name in shlex.split(command.merge)
  )
  workdir = str(folder / part.block)
  return dataclasses.replace(
    command, workdir=workdir, merge=merge, block=part.block
  )


def check_different(plans: Sequence[Plan]) -> None:
  """Raises a FieldError if flags make two blocks the same."""
  seen: dict[tuple[Config, str], Plan] = {}
  for plan in plans:
    rows = json.dumps([[row.name, dict(row.changes)] for row in plan.rows])
    other = seen.setdefault((plan.base, rows), plan)
    if other is not plan:
      block = plan.experiment.block
      raise FieldError(
        'block',
        None,
        f'must be given: with these flags {other.experiment.block} and {block} '
        f'are the same, so --block={block} runs it once',
      )


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


def _check(folder: pathlib.Path, experiment: Experiment) -> None:
  """Refuses a folder with files other than blocks of this experiment."""
  try:
    names = sorted(p.name for p in folder.iterdir() if p.name[0] != '.')
  except FileNotFoundError:
    return
  except OSError as e:
    raise CommandError(
      f'--workdir={folder}: cannot be used ({e.strerror}): give another'
    ) from e
  if not names:
    return
  if BLOCKS_FILE not in names:
    raise CommandError(
      f'--workdir={folder}: holds no blocks but {names[0]}: give an empty or a '
      'new folder'
    )
  theirs = read_json(folder / BLOCKS_FILE, BlocksOwner, AGAIN).experiment
  if theirs != experiment.name:
    raise CommandError(
      f'--workdir={folder}: belongs to experiment {theirs}, not '
      f'{experiment.name}: give another --workdir'
    )
