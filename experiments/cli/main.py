"""The command line: parses flags, checks everything, then acts.

What acts is imported when it is known that something is to be done: Flax, Optax
and Orbax take longer to import than a command line takes to check.
"""

from collections.abc import Sequence

from absl import flags

from experiments.cli import inform, parse
from experiments.cli.parse import ReplacedSettings, flag_lines
from experiments.command import WORKER_FLAG, Command
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
from model.core.field import FieldError
from train.code.project import current_project, is_unchanged
from train.core.errors import DataError
from train.devices.program_cache import kept_programs
from train.flags.absl_flags import given_flags
from train.flags.schema import override


def main(argv: Sequence[str], values: flags.FlagValues, usage: str) -> int:
  """Runs a command line, and returns its exit code.

  Args:
    argv: the program's name and its arguments.
    values: an empty set of flags, to define ours in.
    usage: text that --help begins with.
  """
  with lasting_streams() as output:
    if len(argv) == 3 and argv[1] == WORKER_FLAG:
      from experiments.run import worker

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
  flag_warnings = parse.parse_flags(argv, values)
  command = override(Command(), given_flags(Command, values))
  if inform.print_information(command, values, usage):
    return output.exit_code()
  if command.evaluate is not None or command.generate is not None:
    from experiments.cli import trained_trials

    with kept_programs(inform.warn_line):
      trained_trials.evaluate_or_generate(command, values)
    inform.warn_all(flag_warnings)
    return output.exit_code()
  experiments = library()
  experiment = parse.choose_experiment(command.experiment, experiments)
  flag_warnings += experiments.warnings()
  options = parse.parse_options(values)
  plans = parse.make_plans(experiment, command, options, values)
  inform.warn_all(flag_warnings)
  if command.plan:
    inform.show_plans(plans, argv)
    return output.exit_code()
  with kept_programs(inform.warn_line):
    return _run(experiment, plans, argv, values)


def _run(
  experiment: Experiment,
  plans: Sequence[tuple[Plan, ReplacedSettings]],
  argv: Sequence[str],
  values: flags.FlagValues,
) -> int:
  """Runs the table of an experiment, or the tables of its blocks."""
  import model.network  # noqa: F401  # else the first trial imports it
  from experiments.run import blocks, engine

  if not is_unchanged():
    raise CommandError('the code changed while it was imported: repeat')
  for plan, _ in plans:
    memory.check(plan)
  words = ['python', *argv]
  if not experiment.blocks:
    ((plan, notes),) = plans
    inform.introduce(plan, notes, argv)
    return engine.run_plan(plan, words, flag_lines(plan, values))
  notes_of = {plan.workdir: notes for plan, notes in plans}
  return blocks.run_blocks(
    experiment,
    [blocks.BlockTable(plan, flag_lines(plan, values)) for plan, _ in plans],
    words,
    lambda plan: inform.introduce(plan, notes_of[plan.workdir], argv),
  )
