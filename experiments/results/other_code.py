"""Handles trials that ran with other code than the present one.

The record and the folder of a trial have digests of the code that it ran.  If
the code has been edited since, its metrics are not used unless the user decides
so (--keep or --rerun).  The same holds if the default of a flag has changed,
because the same command would now train another trial.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from experiments.messages.errors import CommandError
from experiments.messages.terminal import Terminal
from experiments.planning.inputs import PlannedTrial
from experiments.planning.plan import Plan
from experiments.record.ledger import FINISHED, Ledger
from experiments.results.merge import MergeSource, set_aside, sources
from train.config import code_digest as code
from train.config.code_digest import CodeRecord, CodeStatus, first_few
from train.files.records import (
  CHECKPOINT_FOLDER,
  JsonRecord,
  read_trial_start,
  read_trials,
)
from train.files.strict import DamagedFile
from train.files.version import describe_difference, flag_differences
from train.flags.schema import to_flags


class CodeSurvey(NamedTuple):
  """The trials of a plan that exist but did not run with the present code.

  Attributes:
    other: trials that ran with other code.
    unknown: trials from before code was recorded.
    merged: whether some of them come from --merge.
    why: the differences in code, in words.
    defaults: the differences in defaults of flags, in words.
  """

  other: tuple[PlannedTrial, ...]
  unknown: tuple[PlannedTrial, ...]
  merged: bool
  why: tuple[str, ...]
  defaults: tuple[str, ...] = ()


def survey_code(plan: Plan, merged: Sequence[MergeSource]) -> CodeSurvey:
  """Finds the trials of a plan that ran with other code; changes nothing."""
  every = {p.trial.id: p for p in (*plan.trials, *plan.candidates)}
  own = {line['trial']: line for line in read_trials(plan.workdir).values}
  found: dict[CodeStatus, dict[str, PlannedTrial]] = {
    'other': {},
    'unknown': {},
  }
  every |= {p.trial.id: p for p in plan.controls}
  why: dict[str, None] = {}
  defaults: dict[str, None] = {}
  from_elsewhere = False
  for name, planned in every.items():
    theirs = [s.records[name] for s in merged if name in s.records]
    for flags in _recorded_flags(planned, [*theirs, own.get(name)]):
      for flag, both in flag_differences(flags, planned.trial.config).items():
        found['other'][name] = planned
        defaults[f'{name} {describe_difference(flag, *both)}'] = None
    codes = [code.code_in_record(record) for record in theirs]
    codes += _local_code(planned, own.get(name))
    for n, recorded in enumerate(codes):
      where = code.code_status(recorded, planned.trial.config)
      if where == 'same':
        continue
      found[where][name] = planned
      if where == 'other':
        from_elsewhere |= n < len(theirs)
        full = code.read_code(planned.trial.directory)
        said = code.code_differences(full or recorded, planned.trial.config)
        why |= dict.fromkeys(said)
  other = found['other']
  unknown = [p for name, p in found['unknown'].items() if name not in other]
  return CodeSurvey(
    tuple(other.values()),
    tuple(unknown),
    from_elsewhere,
    tuple(why),
    tuple(defaults),
  )


def _recorded_flags(
  planned: PlannedTrial, records: Sequence[JsonRecord | None]
) -> list[Mapping[str, str]]:
  """Returns the flags of a trial from its records and, if used, its folder.

  Raises:
    OtherFormat: its folder has a format that cannot be read.
  """
  found = [r['config'] for r in records if r and r['status'] != 'failed']
  try:
    flags = read_trial_start(planned.trial.directory).flags
  except DamagedFile:  # or missing
    return found
  return [*found, flags] if _has_checkpoints(planned) else found


def _has_checkpoints(planned: PlannedTrial) -> bool:
  return any((planned.trial.directory / CHECKPOINT_FOLDER).glob('[0-9]*'))


def _local_code(
  planned: PlannedTrial, record: JsonRecord | None
) -> list[CodeRecord]:
  """Returns the recorded code of a trial, if it was started here."""
  status, folder = (record or {}).get('status'), planned.trial.directory
  if status in FINISHED:
    return [code.code_in_record(record)]
  if _has_checkpoints(planned):
    return [code.read_code(folder)]
  return [code.code_in_record(record)] if status == 'paused' else []


def check_code(plan: Plan, found: CodeSurvey) -> None:
  """Requires --keep or --rerun if there are trials from other code.

  Raises:
    CommandError: neither flag is set, or it does not apply.
  """
  command = plan.command
  _check_defaults(plan, found)
  if not found.other or command.keep or (command.rerun and not found.merged):
    return
  said = first_few(found.why) or 'in what was not recorded'
  many = trials_are(len(found.other))
  if found.merged:
    raise CommandError(
      f'--merge={command.merge}: {many} from other code: --keep, or --rerun '
      f'where they were trained (other: {said})'
    )
  raise CommandError(
    f'--workdir={plan.workdir}: {many} from other code: --rerun or --keep '
    f'(other: {said}; --rerun trains again and moves what is there to '
    f'{plan.workdir / "replaced"}, --keep takes them and marks the table)'
  )


def _check_defaults(plan: Plan, found: CodeSurvey) -> None:
  """Raises CommandError if a default has changed, unless --rerun retrains."""
  command = plan.command
  if not found.defaults or (command.rerun and command.merge is None):
    return
  where, fix = (
    f'workdir={plan.workdir}',
    (
      f'--rerun trains again and moves what is there to '
      f'{plan.workdir / "replaced"}'
    ),
  )
  if command.merge is not None:
    where, fix = f'merge={command.merge}', '--rerun where they were trained'
  raise CommandError(
    f'--{where}: the defaults of flags are other than those of trials there '
    f'({first_few(found.defaults)}): {fix}'
  )


def trials_are(number: int) -> str:
  """Returns '1 trial is' or 'N trials are'."""
  return f'{number} trials are' if number != 1 else '1 trial is'


def prepare(
  plan: Plan, found: CodeSurvey, ledger: Ledger, terminal: Terminal
) -> None:
  """Reports the trials from other code, and with --rerun moves them aside.

  Nothing is deleted: lines of the record stay, and folders are moved.
  """
  if found.unknown:
    many = trials_are(len(found.unknown))
    terminal.say(f'{many} from unknown code, from before it was recorded: kept')
  if not found.other:
    if plan.command.rerun:
      terminal.say('--rerun: no trial is from other code: nothing to do')
    return
  done = 'kept' if plan.command.keep else 'trained again'
  terminal.say(f'{trials_are(len(found.other))} from other code: {done}')
  if plan.command.keep:
    return
  for planned in found.other:
    record = ledger.record(planned.trial.id)
    if record is not None and record['status'] != 'failed':
      # Before the move: after a kill in between, the user is asked again.
      ledger.append(
        {
          'row': planned.row,
          'trial': planned.trial.id,
          'seed': planned.seed,
          'status': 'failed',
          'error': 'from other code: moved to replaced, to be trained again',
          'config': to_flags(planned.trial.config),
        }
      )
    set_aside(planned.trial.directory)


def mark_code(
  trials: Sequence[tuple[PlannedTrial, JsonRecord]],
) -> list[tuple[PlannedTrial, JsonRecord]]:
  """Adds to each record its `mark`, such as 'from other code', or ''."""
  standings = [
    code.code_status(code.code_in_record(record), planned.trial.config)
    if record['status'] in FINISHED
    else 'same'
    for planned, record in trials
  ]
  # If all trials are from before code was recorded, none is marked.
  known = {'other', 'same'} & {*standings}
  marks = {'other': 'from other code', 'same': ''}
  marks['unknown'] = 'from unknown code' if known else ''
  return [
    (planned, {**record, 'mark': marks[found]})
    for (planned, record), found in zip(trials, standings, strict=True)
  ]


def survey_plan(plan: Plan) -> CodeSurvey:
  """Returns which trials, here or to be merged, were trained by other code.

  Raises:
    CommandError: there are some, and the command must say whether to keep them.
  """
  if plan.command.merge is None:
    found = survey_code(plan, ())
  else:
    with sources(plan) as there:
      found = survey_code(plan, there)
  check_code(plan, found)
  return found
