"""--merge: trials that ran elsewhere, from their directories into this one.

Files alone are read: records, and the folders of trials.  A folder is there
before its record is, so that a merge that was killed can be repeated.
"""

import contextlib
import os
import pathlib
import shlex
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.layout import read_layout, write_layout
from experiments.ledger import FINISHED, Ledger, Refused, check_owner, reading
from experiments.plan import Plan
from experiments.terminal import Terminal
from train.files import read_json, temporary, unused, write_json
from train.records import AGAIN, TRIALS, read_trials
from train.strict import Damaged

Record = Mapping[str, Any]


class Source(NamedTuple):
  """A directory to take from.

  Attributes:
    path: of it.
    records: the last record of each trial.
    damage: a line of text for each damaged line of its record.
  """

  path: pathlib.Path
  records: Mapping[str, Record]
  damage: Sequence[str]

  def folders(self) -> list[pathlib.Path]:
    """Returns the folders of the trials, of those without a record too."""
    found = self.path / 'runs'
    if not found.is_dir():
      return []
    return sorted(p for p in found.iterdir() if p.is_dir() and p.name[0] != '.')


@contextlib.contextmanager
def sources(plan: Plan) -> Iterator[list[Source]]:
  """Yields what to merge, which nobody changes meanwhile.

  Raises:
    Refused: a directory is of something else or in use, or a trial has two
      results.
  """
  with contextlib.ExitStack() as stack:
    found = []
    for name in shlex.split(plan.command.merge or ''):
      path = pathlib.Path(name)
      if not os.path.exists(path / 'config.json'):
        raise Refused(f'--merge={path}: is no working directory of a run')
      if path.resolve() == plan.workdir.resolve():
        raise Refused(f'--merge={path}: is what it would be merged into')
      check_owner(path, plan.owner, 'merge')
      stack.enter_context(reading(path))
      read_layout(path)
      found.append(_source(path))
    _check([_source(plan.workdir), *found])
    yield found


def _source(workdir: pathlib.Path) -> Source:
  lines = read_trials(workdir)
  damage = lines.said(workdir / TRIALS)
  return Source(workdir, {r['trial']: r for r in lines.values}, damage)


def _check(found: Sequence[Source]) -> None:
  """Refuses trials that came to different ends in two places."""
  places: dict[str, tuple[pathlib.Path, str]] = {}
  for path, records, _ in found:
    for trial, record in records.items():
      if record['status'] not in FINISHED:
        continue
      place, digest = places.setdefault(trial, (path, record['digest']))
      if record['digest'] != digest:
        raise Refused(
          f'--merge={path}: trial {trial} (row {record["row"]!r}, seed '
          f'{record["seed"]}) ended with other parameters than in {place}: '
          'leave one of them out, and use one --lanes everywhere'
        )


def merge(plan: Plan, ledger: Ledger, terminal: Terminal) -> None:
  """Takes from the sources what this directory has not, or not finished."""
  with sources(plan) as found:
    _take_layout(plan.workdir, found, terminal)
    for source in found:
      for line in source.damage:
        terminal.warn(f'{line}: its trial is not merged: there, {AGAIN}')
      taken = {
        trial: record
        for trial, record in source.records.items()
        if _better(record, ledger.record(trial))
      }
      for folder in source.folders():
        target = plan.workdir / 'runs' / folder.name
        if folder.name in taken or not target.exists():
          _copy(folder, target)
      for record in taken.values():
        ledger.append(record)
      _remember(plan.workdir, source.path, terminal)
      text = f'merged {len(taken)} of {len(source.records)} trials'
      terminal.say(f'{text} from {source.path}')


def _better(theirs: Record, mine: Record | None) -> bool:
  """Returns whether a record says more than the one that is here."""
  if mine is None:
    return True
  return theirs['status'] in FINISHED and mine['status'] not in FINISHED


def _copy(folder: pathlib.Path, target: pathlib.Path) -> None:
  """Copies a folder, which then is there as a whole; keeps one before it."""
  half = temporary(target)
  shutil.copytree(folder, half, symlinks=True)
  set_aside(target)
  os.replace(half, target)


def set_aside(folder: pathlib.Path) -> None:
  """Moves the folder of a trial, if it is there, to WORKDIR/replaced."""
  if not folder.exists():
    return
  aside = folder.parent.parent / 'replaced'
  aside.mkdir(exist_ok=True)
  os.replace(folder, unused(aside / folder.name))


def _take_layout(
  workdir: pathlib.Path, found: Sequence[Source], terminal: Terminal
) -> None:
  """Goes on in the layout of the sources; warns if they have several."""
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


def _remember(
  workdir: pathlib.Path, source: pathlib.Path, terminal: Terminal
) -> None:
  """Keeps where trials came from, and what they ran on."""
  path = workdir / 'merged.json'
  known = dict(_read(path, 'begun anew', terminal) or {})
  known[str(source)] = _read(source / 'environment.json', 'unknown', terminal)
  write_json(path, known)


def _read(
  path: pathlib.Path, then: str, terminal: Terminal
) -> Mapping[str, Any] | None:
  """Returns a JSON object; none if it is absent, or damaged, which is said."""
  if not path.exists():
    return None
  try:
    return read_json(path, dict[str, Any], AGAIN)
  except Damaged as e:
    terminal.warn(f'{e.fault}: {then}')
    return None
