"""The command line: parse, check everything, then act."""

import functools
import itertools
from collections.abc import Sequence

from absl import flags

from experiments import advice, catalogue, engine, memory, trained, worker
from experiments.attention import describe_backends
from experiments.base import check_smoke, make_base
from experiments.command import MANY, PROMPT, Command
from experiments.environment import accelerator_warning, versions
from experiments.experiment import BASE, Experiment, discover
from experiments.flagfile import expand, other_data
from experiments.help import show_help
from experiments.ledger import Refused
from experiments.plan import Plan, make_plan
from experiments.question import label, question
from experiments.rows import Requests, judged_whole
from experiments.shown import shorten
from experiments.stages import size
from experiments.streams import Output, complain, lasting, say, warn
from model.field import FieldError
from train.config import Config
from train.cores import cores, split_cpu
from train.flags import define, define_help, present
from train.generate import Generation
from train.project import current
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
  with lasting() as output:
    if len(argv) == 3 and argv[1] == worker.WORD:
      return worker.main(argv[2])
    current()  # Its files are now what the modules are.
    try:
      return _main(argv, values, usage, output)
    except (FieldError, DataError, Refused) as e:
      complain(shorten(str(e)))
      return 2
    except KeyboardInterrupt:
      complain('interrupted before anything ran')
      return 130
    except Exception as e:
      if (reason := advice.of_memory(e)) is None:
        raise
      complain(f'{reason}; what was saved is kept')
      return 1


def _main(
  argv: Sequence[str], values: flags.FlagValues, usage: str, output: Output
) -> int:
  said = parse(argv, values)
  command = override(Command(), present(Command, values))
  if _inform(command, values, usage):
    return output.told()
  if command.evaluate is not None:
    records = (Config, Options, Generation)
    given = {k: v for r in records for k, v in present(r, values).items()}
    prompts = _many('prompt', values)
    given |= {'prompt': prompts[0]} if prompts else {}
    trained.evaluate(command, given)
    _warn(said)
    return output.told()
  generation = override(Generation(), present(Generation, values))
  prompts = _many('prompt', values)
  if command.generate is not None:
    # What it is given is judged by the trial, not by an experiment.
    given = {**present(Config, values), **present(Options, values)}
    trained.generate(command, given, generation, prompts)
    _warn(said)
    return output.told()
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
  plan, notes = _plan(experiment, command, options, values)
  if not command.plan:
    memory.check(plan)
  _introduce(plan, notes)
  _warn([*said, *other_data(argv, plan.data.digest)])
  if command.plan:
    catalogue.show_plan(plan)
    return output.told()
  words = ['python', *argv]
  return engine.execute(plan, words, _flag_lines(plan, command, values))


def _inform(command: Command, values: flags.FlagValues, usage: str) -> bool:
  """Prints what --version, --help and --list ask for, if they are given."""
  topic = str(values['help'].value)
  if values['version'].value:
    say(versions())
  elif topic != 'false':
    show_help(usage, topic, choose(command.experiment))
  elif command.list:
    catalogue.show_list(discover())
  else:
    return False
  return True


def _warn(lines: Sequence[str]) -> None:
  """Says what is no reason to refuse; not beside a refusal, which is a line."""
  for line in lines:
    warn(f'warning: {line}')


def parse(argv: Sequence[str], values: flags.FlagValues) -> list[str]:
  """Defines all flags in `values` and parses the command line into them.

  Returns:
    What is to be said of files of flags.
  """
  said: list[str] = []
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
    rest = values(expand(argv, said.append))
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
  return said


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
  asked = question(plan.experiment, plan.base, plan.rows)
  more = ', with those that select' if plan.candidates else ''
  if plan.command.shard is not None:
    more = f' in shard {plan.command.shard}'
  say(
    f'{plan.experiment.name}: {asked.title} '
    f'({rows} rows, {seeds} seeds, {trials} trials{more})'
  )
  if (base := label(plan.base, plan.rows)) != BASE:
    say(base)
  if plan.left_out:
    say(f'left out, the same as another row: {", ".join(plan.left_out)}')
  for row in plan.unfit:
    say(f'left out, does not go with what is given: {row}')
  for note in notes:
    say(note)
  for note in plan.notes:
    say(f'matched {note}')
  for line in plan.comparable.lines():
    say(line)
  if plan.base.eval_examples is None and plan.experiment.base.eval_examples:
    say('judged on all of the validation part: --eval_examples=none')
  say(f'data: {plan.data.description}')
  if note := plan.base.task.notes(plan.data, plan.base.seq_len):
    say(f'data: {note}')
  devices = plan.devices
  say(f'devices: {len(devices)} x {devices[0].device_kind}')
  attention = describe_backends(plan.base, plan.rows, devices[0].platform)
  say(f'attention: {attention}')
  say(f'workdir: {plan.workdir}')
  for line, found in plan.warnings.items():
    of = f' (in row {", ".join(map(repr, found))})' if found else ''
    warn(f'warning: {line}{of}')
  for warning in (accelerator_warning(), memory.warning(plan)):
    if warning:
      warn(f'warning: {warning}')


def _plan(
  experiment: Experiment,
  command: Command,
  options: Options,
  values: flags.FlagValues,
) -> tuple[Plan, tuple[str, ...]]:
  """Returns checked trials, and what of the experiment gave way to flags."""
  split_cpu(len(cores()))
  requests = Requests(
    **{name: tuple(_many(name, values)) for name in MANY},
    ablate_from=command.ablate_from,
    add_one=command.add_one,
    trials=command.trials,
    search_seed=command.search_seed,
  )
  typed = present(Config, values)
  fits = functools.partial(check_smoke, experiment, command, requests)
  base, notes = make_base(experiment, typed, command.smoke, fits)
  if 'eval_examples' not in typed and not command.smoke:
    base = judged_whole(base, experiment.rows, requests)
  return make_plan(experiment, base, command, options, requests), notes


# What says where the run was, and what to do with what is there.
_NO_REPLAY = ('workdir', 'merge', 'rerun', 'keep')


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
