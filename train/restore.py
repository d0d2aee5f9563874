"""Trained trials on the disk: which is meant, and its parameters, verified."""

import contextlib
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from train.checkpoint import BEST, Checkpoints, Restored, one_line
from train.files import digest
from train.records import (
  AGAIN,
  FOLDER,
  TRIALS,
  read_begun,
  read_end,
  read_own_end,
  read_trials,
)
from train.step import State
from train.strict import Damaged
from train.suggest import suggest
from train.task import DataError


def find(workdir: pathlib.Path, trial: str) -> pathlib.Path:
  """Returns the run directory of a trial named by id, ROW or ROW/SEED."""
  runs = workdir / 'runs'
  # os.path, for pathlib raises where a name is too long or out of reach.
  ids = sorted(p.name for p in runs.iterdir()) if os.path.isdir(runs) else []
  if not ids:
    raise DataError(f'{workdir}: is not a working directory with trials')
  row, _, seed = trial.rpartition('/') if '/' in trial else (trial, '', '')
  lines = read_trials(workdir)
  named = {
    line['seed']: line['trial']
    for line in lines.values
    if line['row'] == row and (not seed or str(line['seed']) == seed)
  }
  known = trial in ids or (trial and [i for i in ids if i.startswith(trial)])
  if lines.faults and not known:  # one of them may be the trial that is meant
    raise Damaged(lines.said(workdir / TRIALS)[0], f'{AGAIN}, or give an id')
  if named:
    chosen = runs / named[min(named)]
    if not seed:
      listed = {line['trial'] for line in lines.values}
      _check_first(chosen, [runs / name for name in ids if name not in listed])
    return chosen
  found = [name for name in ids if trial and name.startswith(trial)]
  if len(found) == 1:
    return runs / found[0]
  if found:
    raise DataError(
      f'{workdir}: has {len(found)} trials {trial}: {", ".join(found[:8])}: '
      'give more letters'
    )
  raise DataError(
    f'{workdir}: has no trial {trial}: {_rows_of(lines.values, trial)}'
  )


def _check_first(
  chosen: pathlib.Path, unlisted: Sequence[pathlib.Path]
) -> None:
  """Raises where an earlier seed of a row ended, and its line is gone.

  Args:
    chosen: the trial of the first seed that has a line.
    unlisted: trials without a line, most of them still running.
  """
  for directory in unlisted:
    try:
      end, mine = read_own_end(directory), dict(read_begun(directory).flags)
      theirs = dict(read_begun(chosen).flags)
    except Damaged:
      continue
    seeds = [int(flags.pop('seed', 0)) for flags in (mine, theirs)]
    if end and end.is_final and mine == theirs and seeds[0] < seeds[1]:
      raise Damaged(
        f'{chosen.parent.parent / TRIALS}: has no line of {directory.name}, '
        f'which ended and is seed {seeds[0]} of that row',
        f'{AGAIN}, or name the seed',
      )


def _rows_of(lines: Sequence[Mapping[str, Any]], trial: str) -> str:
  """Returns the names that trials have, for one who gave another."""
  rows: dict[str, list[int]] = {}
  for line in lines:
    rows.setdefault(line['row'], []).append(line['seed'])
  if not rows:
    return 'no trial has ended yet: give the beginning of an id'
  row, _, seed = trial.rpartition('/') if '/' in trial else (trial, '', '')
  if row in rows:
    seeds = ', '.join(map(str, sorted(rows[row])))
    return f'row {row} has no seed {seed}: it has {seeds}'
  meant = [name for name in rows if row in re.split('[ =,]', name)]
  hint = suggest(meant[0] if len(meant) == 1 else row, rows)
  return f'its rows are {"|".join(rows)}, named ROW or ROW/SEED{hint}'


def last(directory: pathlib.Path, template: Any) -> Restored:
  """Returns the last checkpoint of a trial: the one of its record, if any."""
  end, notes = read_end(directory), list[str]()
  with _opened(directory, notes.append) as checkpoints:
    found = checkpoints.restore(template)
  if found is None:
    raise Damaged(
      f'{directory}: has no whole checkpoint{_because(notes)}', AGAIN
    )
  if end is None:
    if notes:
      raise Damaged(
        f'{directory}: its newest checkpoint is damaged and the one before is '
        f'of step {found.step}{_because(notes)}',
        AGAIN,
      )
    return found
  last = found.step if end.step is None else end.step
  if found.step != last and not (end.status == 'paused' and found.step > last):
    raise Damaged(
      f'{directory}: its newest whole checkpoint is of step {found.step}, its '
      f'record of step {last}{_because(notes)}',
      _anew(directory, last),
    )
  if found.step == last and digest(State(*found.tree).evaluated) != end.digest:
    raise Damaged(
      f'{directory}: checkpoint {last} holds other parameters than its record '
      'says',
      _anew(directory, last),
    )
  return found


def best(directory: pathlib.Path, template: Any) -> Restored:
  """Returns the checkpoint with the lowest validation loss."""
  end = read_end(directory)
  step = last(directory, template).extra[BEST] if end is None else end.best_step
  if step is None:
    raise DataError(
      f'{directory}: has no best checkpoint, as no validation loss was '
      'finite: leave best out'
    )
  with _opened(directory, lambda line: None) as checkpoints:
    try:
      found = checkpoints.restore_step(step, template)
    except Exception as e:
      raise Damaged(
        f'{directory}: its best checkpoint, of step {step}, is damaged or gone '
        f'({one_line(e)})',
        f'empty {directory / FOLDER} and {AGAIN}',
      ) from e
  if found.extra[BEST] != step:
    raise Damaged(
      f'{directory}: checkpoint {step} is not its best as its record says',
      f'empty {directory / FOLDER} and {AGAIN}',
    )
  return found


@contextlib.contextmanager
def _opened(
  directory: pathlib.Path, warn: Callable[[str], None]
) -> Iterator[Checkpoints]:
  """Yields the checkpoints of a trial, to be read only."""
  if not (directory / FOLDER).is_dir():
    raise DataError(
      f'{directory}: has no checkpoint: make the folder {directory / FOLDER} '
      f'and {AGAIN}'
    )
  checkpoints = Checkpoints(directory / FOLDER, 1, warn, read_only=True)
  try:
    yield checkpoints
  finally:
    checkpoints.close()


def _anew(directory: pathlib.Path, step: int) -> str:
  """Returns how to train the last part of a trial again."""
  path = directory / FOLDER / str(step)
  return f'remove {path} and {AGAIN}' if path.exists() else AGAIN


def _because(notes: Sequence[str]) -> str:
  return f' ({"; ".join(notes)})' if notes else ''
