"""The command line: parse, check everything, then act."""

import functools
import itertools
import sys
from collections.abc import Sequence

from absl import flags

from experiments import catalogue, engine, trained, worker
from experiments.attention import describe_backends
from experiments.base import check_smoke, make_base
from experiments.command import MANY, PROMPT, Command
from experiments.environment import accelerator_warning, versions
from experiments.experiment import Experiment, discover
from experiments.help import show_help
from experiments.ledger import Refused
from experiments.plan import Plan, check_memory, make_plan
from experiments.rows import Requests
from experiments.stages import size
from model.field import FieldError
from train.config import Config
from train.cores import cores, split_cpu
from train.flags import define, define_help, present
from train.generate import Generation
from train.schema import changes, leaves, override, to_flags
from train.suggest import suggest, suggest_flag
from train.task import DataError
from train.trial import Options


def main(argv: Sequence[str], values: flags.FlagValues, usage: str) -> int:
  """Returns the exit code of a command line.

  Args:
    argv: the program's name and its arguments.
    values: an empty set of flags to define ours in.
    usage: what --help begins with.
  """
  if len(argv) == 3 and argv[1] == worker.WORD:
    return worker.main(argv[2])
  try:
    return _main(argv, values, usage)
  except (FieldError, DataError, Refused) as e:
    print(f'launch.py: {" ".join(str(e).split())}', file=sys.stderr)
    return 2
  except KeyboardInterrupt:
    print('launch.py: interrupted before anything ran', file=sys.stderr)
    return 130


def _main(argv: Sequence[str], values: flags.FlagValues, usage: str) -> int:
  parse(argv, values)
  command = override(Command(), present(Command, values))
  if _inform(command, values, usage):
    return 0
  if command.evaluate is not None:
    records = (Config, Options, Generation)
    given = {k: v for r in records for k, v in present(r, values).items()}
    prompts = _many('prompt', values)
    return trained.evaluate(
      command, given | ({'prompt': prompts[0]} if prompts else {})
    )
  generation = override(Generation(), present(Generation, values))
  prompts = _many('prompt', values)
  if command.generate is not None:
    # What it is given is judged by the trial, not by an experiment.
    given = {**present(Config, values), **present(Options, values)}
    return trained.generate(command, given, generation, prompts)
  experiment = choose(command.experiment)
  options = override(Options(), present(Options, values))
  for destination in options.log_to:
    destination.check()
  if idle := [*present(Generation, values), *(['prompt'] if prompts else [])]:
    raise FieldError(
      idle[0],
      prompts[0] if idle[0] == 'prompt' else values[idle[0]].value,
      'has no effect without --generate=WORKDIR:TRIAL: drop it',
    )
  split_cpu(len(cores()))
  requests = Requests(
    **{name: tuple(_many(name, values)) for name in MANY},
    ablate_from=command.ablate_from,
    add_one=command.add_one,
    trials=command.trials,
    search_seed=command.search_seed,
  )
  base, notes = make_base(
    experiment,
    present(Config, values),
    command.smoke,
    functools.partial(check_smoke, experiment, command, requests),
  )
  plan = make_plan(experiment, base, command, options, requests)
  _introduce(plan, notes)
  if command.plan:
    catalogue.show_plan(plan)
    return 0
  check_memory(plan)
  words = ['python', *argv]
  return engine.execute(plan, words, _flag_lines(plan, command, values))


def _inform(command: Command, values: flags.FlagValues, usage: str) -> bool:
  """Prints what --version, --help and --list ask for, if they are given."""
  topic = str(values['help'].value)
  if values['version'].value:
    print(versions())
  elif topic != 'false':
    show_help(usage, topic, choose(command.experiment))
  elif command.list:
    catalogue.show_list(discover())
  else:
    return False
  return True


def parse(argv: Sequence[str], values: flags.FlagValues) -> None:
  """Defines all flags in `values` and parses the command line into them."""
  for word in argv[1:]:
    if any(0xD800 <= ord(c) < 0xE000 for c in word):
      raise Refused(f'{word!a}: is not UTF-8 text: rename the file')
  for record in (Command, Options, Config, Generation):
    define(record, values)
  for name, about in MANY.items():
    flags.DEFINE_multi_string(name, [], about, flag_values=values)
  flags.DEFINE_multi_string('prompt', [], PROMPT, flag_values=values)
  flags.DEFINE_bool('version', False, 'Show it.', flag_values=values)
  define_help(values)
  try:
    rest = values(argv)
  except flags.UnrecognizedFlagError as e:
    records = (Command, Options, Config, Generation)
    known = [*itertools.chain(*map(leaves, records)), *MANY, 'prompt']
    raise Refused(
      f'{e.flagvalue}: is not a flag{suggest_flag(e.flagname, known)}'
    ) from None
  except flags.Error as e:
    raise Refused(str(e)) from None
  if len(rest) > 1:
    raise Refused(f'{rest[1]}: is not a flag; flags look like --NAME=VALUE')


def _many(name: str, values: flags.FlagValues) -> list[str]:
  """Returns what a flag that may be repeated was given."""
  return list(values[name].value or [])


def choose(name: str) -> Experiment:
  """Returns an experiment by its name."""
  found = discover()
  if name not in found:
    raise FieldError(
      'experiment',
      name,
      f'must be one of {"|".join(found)}{suggest(name, found)}',
    )
  return found[name]


def _introduce(plan: Plan, notes: Sequence[str]) -> None:
  """Prints what will run, on what, and what of the experiment gave way."""
  rows, seeds = len(plan.rows), len(plan.seeds)
  trials, _ = size(plan)
  more = ', with those that select' if plan.candidates else ''
  if plan.command.shard is not None:
    more = f' in shard {plan.command.shard}'
  print(
    f'{plan.experiment.name}: {plan.experiment.title} '
    f'({rows} rows, {seeds} seeds, {trials} trials{more})'
  )
  if plan.left_out:
    print(f'left out, the same as another row: {", ".join(plan.left_out)}')
  for row in plan.unfit:
    print(f'left out, does not go with what is given: {row}')
  for note in notes:
    print(note)
  for note in plan.notes:
    print(f'matched {note}')
  print(f'data: {plan.data.description}')
  if note := plan.base.task.notes(plan.data, plan.base.seq_len):
    print(f'data: {note}')
  devices = plan.devices
  print(f'devices: {len(devices)} x {devices[0].device_kind}')
  attention = describe_backends(plan.base, plan.rows, devices[0].platform)
  print(f'attention: {attention}')
  print(f'workdir: {plan.workdir}', flush=True)
  if warning := accelerator_warning():
    print(f'warning: {warning}', file=sys.stderr)


# What says where the run was.
_NO_REPLAY = ('workdir', 'merge')


def _flag_lines(
  plan: Plan, command: Command, values: flags.FlagValues
) -> list[str]:
  """Returns the lines of a flag file that replays the command."""
  lines = changes(Command(), command) | {'seeds': str(len(plan.seeds))}
  lines |= {'experiment': plan.experiment.name}
  lines |= to_flags(plan.base) | to_flags(plan.options)
  lines = {k: v for k, v in lines.items() if k not in _NO_REPLAY}
  many = [(name, v) for name in MANY for v in _many(name, values)]
  return [f'--{k}={v}' for k, v in [*lines.items(), *many]]
