"""What a command prints before it runs, or instead of running."""

from collections.abc import Sequence

from absl import flags

from experiments.cli import listing
from experiments.cli.help import show_help
from experiments.cli.parse import (
  RECORDS,
  ReplacedSettings,
  choose_experiment,
  many,
)
from experiments.command import MANY, Command
from experiments.experiment import BASE, DEFAULTS
from experiments.messages import formats
from experiments.messages.streams import say, warn
from experiments.planning import memory
from experiments.planning.plan import Plan
from experiments.planning.row_backends import (
  describe_backends,
  describe_loops,
)
from experiments.planning.stages import size
from experiments.questions.discover import library
from experiments.record.environment import accelerator_warning, versions
from experiments.record.flagfile import data_warnings
from experiments.results import digest
from experiments.rows.title import label, question
from model.core.field import FieldError
from train.flags.absl_flags import given_flags
from train.flags.schema import changes


def print_information(
  command: Command, values: flags.FlagValues, usage: str
) -> bool:
  """Prints what --version, --help, --list or --digest asks for.

  Returns:
    Whether one of them was given.
  """
  topic = str(values['help'].value)
  if values['version'].value:
    say(versions())
  elif topic != 'false':
    there = library()
    # Help works even if the experiment's file is broken; a warning says so.
    name = command.experiment
    broken = there.broken_file(name) is not None
    own = DEFAULTS if broken else choose_experiment(name, there, check=False)
    show_help(usage, topic, own)
    warn_all(there.warnings())
  elif command.list:
    _refuse_others('list', command, values)
    there = library()
    listing.show_list(there.experiments)
    warn_all(there.warnings())
  elif command.digest:
    _refuse_others('digest', command, values)
    there = library()
    warnings = digest.write(there.experiments)
    say(f'written: {digest.PAGE}')
    warn_all([*warnings, *there.warnings()])
  else:
    return False
  return True


def _refuse_others(
  flag: str, command: Command, values: flags.FlagValues
) -> None:
  """Raises a FieldError if other flags are given, which would do nothing."""
  others = [
    *(name for name in changes(Command(), command) if name != flag),
    *(n for r in RECORDS if r is not Command for n in given_flags(r, values)),
    *(name for name in (*MANY, 'prompt') if many(name, values)),
  ]
  if others:
    raise FieldError(
      flag, True, f'leaves --{others[0]} without effect: drop one of them'
    )


def warn_all(lines: Sequence[str]) -> None:
  """Prints warnings; to be called only when the command was not refused."""
  for line in lines:
    warn_line(line)


def warn_line(line: str) -> None:
  """Prints a warning."""
  warn(f'warning: {line}')


def introduce(plan: Plan, notes: Sequence[str], argv: Sequence[str]) -> None:
  """Prints what will run, on what, and which settings flags replaced."""
  counts = ', '.join(
    formats.format_number_of(count, noun)
    for count, noun in (
      (len(plan.rows), 'row'),
      (len(plan.seeds), 'seed'),
      (size(plan)[0], 'trial'),
    )
  )
  asked = question(plan.experiment, plan.base, plan.rows)
  more = ', with those that select' if plan.candidates else ''
  more += f', {len(plan.controls)} of controls' if plan.controls else ''
  if plan.command.shard is not None:
    more = f' in shard {plan.command.shard}'
  say(f'{plan.experiment.name}: {asked.title} ({counts}{more})')
  if (base := label(plan.base, plan.rows)) != BASE:
    say(base)
  if plan.left_out:
    say(f'left out, the same as another row: {", ".join(plan.left_out)}')
  for row in plan.unfit:
    say(f'left out, conflicts with the given flags: {row}')
  for note in notes:
    say(note)
  for note in plan.notes:
    say(f'matched {note}')
  for line in plan.comparable.lines():
    say(line)
  if plan.base.eval_examples is None and plan.experiment.base.eval_examples:
    say('evaluated on all of the validation part: --eval_examples=none')
  say(f'data: {plan.data.description}')
  if note := plan.base.task.notes(plan.data, plan.base.seq_len):
    say(f'data: {note}')
  devices = plan.devices
  say(f'devices: {len(devices)} x {devices[0].device_kind}')
  attention = describe_backends(plan.base, plan.rows, devices[0])
  say(f'attention: {attention}')
  say(f'layers: {describe_loops(plan.base, plan.rows)}')
  say(f'workdir: {plan.workdir}')
  for line, found in plan.warnings.items():
    of = f' (in row {", ".join(map(repr, found))})' if found else ''
    warn(f'warning: {line}{of}')
  warn_all(plan.confounded)
  for warning in (accelerator_warning(), memory.warning(plan)):
    if warning:
      warn(f'warning: {warning}')
  warn_all(data_warnings(argv, plan.data.digest))


def show_plans(
  plans: Sequence[tuple[Plan, ReplacedSettings]], argv: Sequence[str]
) -> None:
  """Prints what would run, and what it would cost."""
  for plan, notes in plans:
    introduce(plan, notes, argv)
    listing.show_plan(plan)
