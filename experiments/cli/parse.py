"""From the words of a command line to checked plans."""

import dataclasses
import itertools
from collections.abc import Sequence

from absl import flags

from experiments.command import MANY, PROMPT, Command
from experiments.experiment import Experiment
from experiments.messages.errors import CommandError
from experiments.planning import blocks
from experiments.planning.plan import Plan, make_plan
from experiments.questions.discover import Library
from experiments.record.flagfile import expand_flag_files
from experiments.results import stored
from experiments.rows.base import complete_base
from experiments.rows.rows import RowRequests
from model.core.field import FieldError
from train.config.config import Config
from train.devices.allocator import keep_freed_memory
from train.devices.cores import cores, split_cpu
from train.devices.repeatable import make_repeatable
from train.flags.absl_flags import define, define_help, given_flags
from train.flags.schema import changes, flag_specs, override, to_flags
from train.flags.suggest import suggest_flag, suggest_value
from train.inference.generation import Generation
from train.trial import Options

# Whose fields are the flags.
RECORDS: tuple[type, ...] = (Command, Options, Config, Generation)
ReplacedSettings = tuple[
  str, ...
]  # settings of the experiment that flags replaced


def parse_flags(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Defines all flags in `values` and parses the command line into them.

  Returns:
    Warnings about flag files.
  """
  said: list[str] = []
  for word in argv[1:]:
    if any(0xD800 <= ord(c) < 0xE000 for c in word):
      raise CommandError(f'{word!a}: is not UTF-8 text: rename the file')
  for record in RECORDS:
    define(record, values)
  for name, about in MANY.items():
    flags.DEFINE_multi_string(name, [], about, flag_values=values)
  flags.DEFINE_multi_string('prompt', [], PROMPT, flag_values=values)
  flags.DEFINE_bool('version', False, 'Show it.', flag_values=values)
  define_help(values)
  try:
    rest = values(expand_flag_files(argv, said.append))
  except flags.UnrecognizedFlagError as e:
    known = [*itertools.chain(*map(flag_specs, RECORDS)), *MANY, 'prompt']
    raise CommandError(
      f'{e.flagvalue}: is not a flag{suggest_flag(e.flagname, known)}'
    ) from None
  except flags.Error as e:
    raise CommandError(str(e)) from None
  if len(rest) > 1:
    raise CommandError(
      f'{rest[1]}: is not a flag; flags look like --NAME=VALUE'
    )
  return said


def many(name: str, values: flags.FlagValues) -> list[str]:
  """Returns all values of a flag that may be repeated."""
  return list(values[name].value or [])


def parse_options(values: flags.FlagValues) -> Options:
  """Returns the options of a run that trains; refuses flags that it ignores."""
  options = override(Options(), given_flags(Options, values))
  for destination in options.log_to:
    destination.check()
  refuse_generation(values)
  return options


def refuse_generation(values: flags.FlagValues) -> None:
  """Raises a FieldError if a flag of --generate is given without it."""
  given = given_flags(Generation, values)
  override(Generation(), given)
  for prompt in many('prompt', values):
    given.setdefault('prompt', prompt)
  for name, text in given.items():
    raise FieldError(
      name, text, 'has no effect without --generate=WORKDIR:TRIAL: drop it'
    )


def choose_experiment(
  name: str, there: Library, check: bool = True
) -> Experiment:
  """Returns an experiment by its name.

  Raises:
    FieldError: there is no such experiment, or its file or a row is broken.
  """
  found = there.experiments
  if (broken := there.broken_file(name)) is not None:
    raise FieldError('experiment', name, f'{there.fault(broken)}: mend it')
  if name not in found:
    raise FieldError(
      'experiment',
      name,
      f'must be one of {"|".join(found)}{suggest_value(name, found)}',
    )
  try:
    if check:
      found[name].check()
  except FieldError as e:
    raise FieldError('experiment', name, f'is broken: {e}: mend it') from None
  return found[name]


def make_plans(
  experiment: Experiment,
  command: Command,
  options: Options,
  values: flags.FlagValues,
) -> list[tuple[Plan, ReplacedSettings]]:
  """Returns the checked plan of each block, and the settings flags replaced."""
  keep_freed_memory()
  if options.repeatable:
    make_repeatable()
  split_cpu(len(cores()))
  requests = RowRequests(
    **{name: tuple(many(name, values)) for name in MANY},
    ablate_from=command.ablate_from,
    add_one=command.add_one,
    trials=command.trials,
    search_seed=command.search_seed,
  )
  typed = given_flags(Config, values)
  stored.check(command, requests)
  parts = blocks.select_blocks(experiment, command.block)
  folder = (
    blocks.blocks_folder(experiment, typed, command)
    if experiment.blocks
    else None
  )
  plans = []
  for part in parts:
    own = command
    if folder is not None:
      own = blocks.block_command(part, command, folder)
    base, notes = complete_base(part, typed, own, requests)
    plan = make_plan(part, base, own, options, requests)
    plans.append((dataclasses.replace(plan, given=typed), notes))
  blocks.check_different([plan for plan, _ in plans])
  return plans


# Flags about the place of a run and files there, which a replay leaves out.
_NO_REPLAY = ('workdir', 'merge', 'rerun', 'keep', 'result')


def flag_lines(plan: Plan, values: flags.FlagValues) -> list[str]:
  """Returns lines of a flag file that replays the command."""
  lines = changes(Command(), plan.command) | {'seeds': str(len(plan.seeds))}
  lines |= {'experiment': plan.experiment.name}
  lines |= to_flags(plan.base) | to_flags(plan.options)
  lines = {k: v for k, v in lines.items() if k not in _NO_REPLAY}
  repeated = [(name, v) for name in MANY for v in many(name, values)]
  return [f'--{k}={v}' for k, v in [*lines.items(), *repeated]]
