"""The command line: parses flags, checks everything, then acts."""

from collections.abc import Sequence

from absl import flags

from experiments.cli import listing, trained_trials
from experiments.cli.inform import introduce, print_information, warn_all
from experiments.cli.parse import (
  ReplacedSettings,
  choose_experiment,
  flag_lines,
  make_plans,
  parse_flags,
)
from experiments.command import Command
from experiments.experiment import Experiment
from experiments.messages import advice
from experiments.messages.errors import CommandError
from experiments.messages.escapes import shorten
from experiments.messages.signals import interruptible
from experiments.messages.streams import (
  OutputStatus,
  lasting_streams,
  print_error,
)
from experiments.planning import memory
from experiments.planning.plan import Plan
from experiments.questions.discover import library
from experiments.run import blocks, engine, worker
from model.core.field import FieldError
from train.code.project import current_project
from train.core.errors import DataError
from train.flags.absl_flags import given_flags
from train.flags.schema import override
from train.trial import Options


def main(argv: Sequence[str], values: flags.FlagValues, usage: str) -> int:
  """Runs a command line, and returns its exit code.

  Args:
    argv: the program's name and its arguments.
    values: an empty set of flags, to define ours in.
    usage: text that --help begins with.
  """
  with lasting_streams() as output:
    if len(argv) == 3 and argv[1] == worker.WORKER_FLAG:
      return worker.run_worker(argv[2])
    try:
      with interruptible():
        # Reads the sources while they equal the modules: records digest them.
        current_project()
        return _main(argv, values, usage, output)
    except (FieldError, DataError, CommandError) as e:
      print_error(shorten(str(e)))
      return 2
    except KeyboardInterrupt:
      print_error('interrupted; nothing was trained')
      return 130
    except Exception as e:
      if (reason := advice.memory_advice(e)) is None:
        raise
      print_error(f'{reason}; what was saved is kept')
      return 1


def _main(
  argv: Sequence[str],
  values: flags.FlagValues,
  usage: str,
  output: OutputStatus,
) -> int:
  flag_warnings = parse_flags(argv, values)
  command = override(Command(), given_flags(Command, values))
  if print_information(command, values, usage):
    return output.exit_code()
  if command.evaluate is not None or command.generate is not None:
    trained_trials.evaluate_or_generate(command, values)
    warn_all(flag_warnings)
    return output.exit_code()
  experiments = library()
  experiment = choose_experiment(command.experiment, experiments)
  flag_warnings += experiments.warnings()
  options = override(Options(), given_flags(Options, values))
  for destination in options.log_to:
    destination.check()
  trained_trials.refuse_generation(values)
  plans = make_plans(experiment, command, options, values)
  warn_all(flag_warnings)
  if command.plan:
    for plan, notes in plans:
      introduce(plan, notes, argv)
      listing.show_plan(plan)
    return output.exit_code()
  return _run(experiment, plans, argv, values)


def _run(
  experiment: Experiment,
  plans: Sequence[tuple[Plan, ReplacedSettings]],
  argv: Sequence[str],
  values: flags.FlagValues,
) -> int:
  """Runs the table of an experiment, or the tables of its blocks."""
  for plan, _ in plans:
    memory.check(plan)
  words = ['python', *argv]
  if not experiment.blocks:
    ((plan, notes),) = plans
    introduce(plan, notes, argv)
    return engine.run_plan(plan, words, flag_lines(plan, values))
  notes_of = {plan.workdir: notes for plan, notes in plans}
  return blocks.run_blocks(
    experiment,
    [blocks.BlockTable(plan, flag_lines(plan, values)) for plan, _ in plans],
    words,
    lambda plan: introduce(plan, notes_of[plan.workdir], argv),
  )
