"""--merge: copies trials that ran elsewhere into this working directory.

It reads nothing but files: records, and the folders of trials.  The folder of a
trial is copied before its record, so that a merge that was killed can be
repeated.
"""

import contextlib
import os
import pathlib
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.messages.errors import CommandError
from experiments.messages.terminal import Terminal
from experiments.planning.layout import read_layout, write_layout
from experiments.planning.plan import Plan
from experiments.record.ledger import (
  FINISHED,
  Ledger,
  check_owner,
  lock_for_reading,
)
from train.files.durable import (
  read_json,
  temporary_path,
  unused_path,
  write_json,
)
from train.files.records import (
  AGAIN,
  TRIALS,
  JsonRecord,
  read_trial_start,
  read_trials,
)
from train.files.strict import DamagedFile


class MergeSource(NamedTuple):
  """A working directory to merge.

  Attributes:
    path: its path.
    records: trial id -> the last record of the trial.
    damage: a line of text for each damaged record.
  """

  path: pathlib.Path
  records: Mapping[str, JsonRecord]
  damage: Sequence[str]

  def folders(self) -> list[pathlib.Path]:
    """Returns the folders of all trials, including those without a record."""
    found = self.path / 'runs'
    if not found.is_dir():
      return []
    return sorted(p for p in found.iterdir() if p.is_dir() and p.name[0] != '.')


@contextlib.contextmanager
def sources(plan: Plan) -> Iterator[list[MergeSource]]:
  """Yields the directories to merge, and locks them in the meantime.

  Raises:
    CommandError: a directory belongs to another experiment, base or data, or is
      in use, or two directories have different results of one trial.
  """
  with contextlib.ExitStack() as stack:
    found = []
    for name in shlex.split(plan.command.merge or ''):
      path = pathlib.Path(name)
      if not os.path.exists(path / 'config.json'):
        raise CommandError(f'--merge={path}: is no working directory of a run')
      if path.resolve() == plan.workdir.resolve():
        raise CommandError(f'--merge={path}: is what it would be merged into')
      check_owner(path, plan.owner, plan.base, 'merge')
      stack.enter_context(lock_for_reading(path))
      read_layout(path)
      found.append(_source(path))
      _check_formats(found[-1])
    _check_conflicts([_source(plan.workdir), *found])
    yield found


def _check_formats(source: MergeSource) -> None:
  """Raises OtherFormat if a trial has a format that cannot be read."""
  for folder in source.folders():
    with contextlib.suppress(DamagedFile):  # repaired when the trial is resumed
      read_trial_start(folder)


def _source(workdir: pathlib.Path) -> MergeSource:
  lines = read_trials(workdir)
  damage = lines.said(workdir / TRIALS)
  return MergeSource(workdir, {r['trial']: r for r in lines.values}, damage)


def _check_conflicts(found: Sequence[MergeSource]) -> None:
  """Raises CommandError if a trial ended with two different results."""
  places: dict[str, tuple[pathlib.Path, str]] = {}
  for path, records, _ in found:
    for trial, record in records.items():
      if record['status'] not in FINISHED:
        continue
      place, digest = places.setdefault(trial, (path, record['digest']))
      if record['digest'] != digest:
        raise CommandError(
          f'--merge={path}: trial {trial} (row {record["row"]!r}, seed '
          f'{record["seed"]}) ended with other parameters than in {place}: '
          'leave one of them out, and use one --lanes everywhere'
        )


def merge(plan: Plan, ledger: Ledger, terminal: Terminal) -> None:
  """Copies the trials that are missing here, or not finished here."""
  with sources(plan) as found:
    _take_layout(plan.workdir, found, terminal)
    for source in found:
      for line in source.damage:
        terminal.warn(f'{line}: its trial is not merged: there, {AGAIN}')
      taken = {
        trial: record
        for trial, record in source.records.items()
        if _is_better(record, ledger.record(trial))
      }
      for folder in source.folders():
        target = plan.workdir / 'runs' / folder.name
        if folder.name in taken or not target.exists():
          _copy(folder, target)
      for record in taken.values():
        ledger.append(record)
      _write_origin(plan.workdir, source.path, terminal)
      text = f'merged {len(taken)} of {len(source.records)} trials'
      terminal.say(f'{text} from {source.path}')


def _is_better(theirs: JsonRecord, mine: JsonRecord | None) -> bool:
  """Returns whether a record should replace the one that is here."""
  if mine is None:
    return True
  return theirs['status'] in FINISHED and mine['status'] not in FINISHED


def _copy(folder: pathlib.Path, target: pathlib.Path) -> None:
  """Copies a folder atomically; an existing one moves to WORKDIR/replaced."""
  half = temporary_path(target)
  shutil.copytree(folder, half, symlinks=True)
  set_aside(target)
  os.replace(half, target)


def set_aside(folder: pathlib.Path) -> None:
  """Moves the folder of a trial, if it exists, to WORKDIR/replaced."""
  if not folder.exists():
    return
  aside = folder.parent.parent / 'replaced'
  aside.mkdir(exist_ok=True)
  os.replace(folder, unused_path(aside / folder.name))


def _take_layout(
  workdir: pathlib.Path, found: Sequence[MergeSource], terminal: Terminal
) -> None:
  """Takes over the layout of the sources; warns if there are several."""
  kept = {}
  for path in (workdir, *(source.path for source in found)):
    if (own := read_layout(path)) is not None:
      kept[path] = own
  names = {own.lanes for own in kept.values()}
  if len(names) > 1:
    terminal.warn(
      f'trials ran in several layouts, on which bits may depend: '
      f'{", ".join(sorted(names))}; --lanes fixes one'
    )
  if kept and workdir not in kept:
    write_layout(workdir, next(iter(kept.values())))


def _write_origin(
  workdir: pathlib.Path, source: pathlib.Path, terminal: Terminal
) -> None:
  """Adds a source and its environment to merged.json."""
  path = workdir / 'merged.json'
  known = dict(_read_object(path, 'begun again', terminal) or {})
  known[str(source)] = _read_object(
    source / 'environment.json', 'unknown', terminal
  )
  write_json(path, known)


def _read_object(
  path: pathlib.Path, then: str, terminal: Terminal
) -> Mapping[str, Any] | None:
  """Reads a JSON object; returns None if it is missing, or damaged (warns)."""
  if not path.exists():
    return None
  try:
    return read_json(path, dict[str, Any], AGAIN)
  except DamagedFile as e:
    terminal.warn(f'{e.fault}: {then}')
    return None
