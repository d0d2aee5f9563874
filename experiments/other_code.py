"""Trials of other code than what would train them now: the user decides.

What a trial executed stands in its record and in its folder.  Nobody is given
the figures of edited code unasked.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.inputs import Planned
from experiments.ledger import FINISHED, Ledger, Refused
from experiments.merge import Source, set_aside
from experiments.plan import Plan
from experiments.terminal import Terminal
from train import code
from train.code import Recorded, Standing, some
from train.files import read_lines
from train.schema import to_flags

Record = Mapping[str, Any]


class Survey(NamedTuple):
  """Trials that are there, and not of the code that is here.

  Attributes:
    other: those of other code.
    unknown: those that were trained before code was recorded.
    merged: whether some of them are to be merged.
    why: what is other, in words.
  """

  other: tuple[Planned, ...]
  unknown: tuple[Planned, ...]
  merged: bool
  why: tuple[str, ...]


def survey(plan: Plan, merged: Sequence[Source]) -> Survey:
  """Returns what of the trials of a plan is of other code; changes nothing."""
  every = {p.trial.id: p for p in (*plan.trials, *plan.candidates)}
  lines = read_lines(plan.workdir / 'trials.jsonl')
  own = {line.get('trial'): line for line in lines}
  found: dict[Standing, dict[str, Planned]] = {'other': {}, 'unknown': {}}
  why: dict[str, None] = {}
  from_elsewhere = False
  for name, planned in every.items():
    theirs = [s.records[name] for s in merged if name in s.records]
    codes = [code.checked(record) for record in theirs]
    codes += _here(planned, own.get(name))
    for n, recorded in enumerate(codes):
      where = code.standing(recorded, planned.trial.config)
      if where == 'same':
        continue
      found[where][name] = planned
      if where == 'other':
        from_elsewhere |= n < len(theirs)
        full = code.recorded(planned.trial.directory)
        said = code.differences(full or recorded, planned.trial.config)
        why |= dict.fromkeys(said)
  other, unknown = (tuple(found[x].values()) for x in ('other', 'unknown'))
  return Survey(other, unknown, from_elsewhere, tuple(why))


def _here(planned: Planned, record: Record | None) -> list[Recorded]:
  """Returns what is said of the code of a trial, if it was begun here."""
  status, folder = (record or {}).get('status'), planned.trial.directory
  if status in FINISHED:
    return [code.checked(record)]
  if any((folder / 'checkpoints').glob('[0-9]*')):
    return [code.recorded(folder)]
  return [code.checked(record)] if status == 'paused' else []


def check_code(plan: Plan, found: Survey) -> None:
  """Asks what to do about trials of other code, if that is not said.

  Raises:
    Refused: it is asked.
  """
  command = plan.command
  if not found.other or command.keep or (command.rerun and not found.merged):
    return
  said = some(found.why) or 'in what was not recorded'
  many = counted(len(found.other))
  if found.merged:
    raise Refused(
      f'--merge={command.merge}: {many} of other code: --keep, or --rerun '
      f'where they were trained (other: {said})'
    )
  raise Refused(
    f'--workdir={plan.workdir}: {many} of other code: --rerun or --keep '
    f'(other: {said}; --rerun trains anew and moves what is there to '
    f'{plan.workdir / "replaced"}, --keep takes them and marks the table)'
  )


def counted(number: int) -> str:
  """Returns how many trials are, in words."""
  return f'{number} trials are' if number != 1 else '1 trial is'


def prepare(
  plan: Plan, found: Survey, ledger: Ledger, terminal: Terminal
) -> None:
  """Says what is kept, and moves aside what is to be trained anew.

  Nothing is lost: lines of the record stay, and folders are moved.
  """
  if found.unknown:
    many = counted(len(found.unknown))
    terminal.say(f'{many} of unknown code, from before it was recorded: kept')
  if not found.other:
    if plan.command.rerun:
      terminal.say('--rerun: no trial is of other code: none is trained anew')
    return
  done = 'kept' if plan.command.keep else 'trained anew'
  terminal.say(f'{counted(len(found.other))} of other code: {done}')
  if plan.command.keep:
    return
  for planned in found.other:
    record = ledger.record(planned.trial.id)
    if record is not None and record['status'] != 'failed':
      # First: a kill in between leaves a folder, about which it is asked again.
      ledger.append(
        {
          'row': planned.row,
          'trial': planned.trial.id,
          'seed': planned.seed,
          'status': 'failed',
          'error': 'of other code: moved to replaced, to be trained anew',
          'config': to_flags(planned.trial.config),
        }
      )
    set_aside(planned.trial.directory)


def marked(
  trials: Sequence[tuple[Planned, Record]],
) -> list[tuple[Planned, Record]]:
  """Returns records with `mark`: how their code differs from the others'."""
  standings = [
    code.standing(code.checked(record), planned.trial.config)
    if record['status'] in FINISHED
    else 'same'
    for planned, record in trials
  ]
  # Where all are from before it was recorded, none differs from another.
  known = {'other', 'same'} & {*standings}
  marks = {'other': 'of other code', 'same': ''}
  marks['unknown'] = 'of unknown code' if known else ''
  return [
    (planned, {**record, 'mark': marks[found]})
    for (planned, record), found in zip(trials, standings, strict=True)
  ]
