"""Finds trained trials on disk, and restores and verifies checkpoints."""

import contextlib
import dataclasses
import os
import pathlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from model.core.field import FieldError
from train.config.config import Config
from train.core.errors import DataError
from train.files.checkpoint import (
  BEST,
  Checkpoints,
  RestoredCheckpoint,
  first_line,
)
from train.files.durable import digest
from train.files.records import (
  AGAIN,
  CHECKPOINT_FOLDER,
  TRIALS,
  check_readable,
  read_end,
  read_end_file,
  read_trial_start,
  read_trials,
)
from train.files.strict import DamagedFile
from train.files.version import UnreadableFormat
from train.flags.schema import override
from train.flags.suggest import suggest_value
from train.programs.state import TrainState


def find_trial(workdir: pathlib.Path, trial: str) -> pathlib.Path:
  """Returns the run directory of a trial named by id, ROW or ROW/SEED."""
  runs = workdir / 'runs'
  # os.path: pathlib raises if a name is too long or cannot be accessed.
  ids = sorted(p.name for p in runs.iterdir()) if os.path.isdir(runs) else []
  if not ids:
    raise DataError(f'{workdir}: is not a working directory with trials')
  check_readable(workdir)
  row, _, seed = trial.rpartition('/') if '/' in trial else (trial, '', '')
  lines = read_trials(workdir)
  named = {
    line['seed']: line['trial']
    for line in lines.values
    if line['row'] == row and (not seed or str(line['seed']) == seed)
  }
  known = trial in ids or (trial and [i for i in ids if i.startswith(trial)])
  if lines.faults and not known:  # a damaged line may be of this trial
    raise DamagedFile(
      lines.said(workdir / TRIALS)[0], f'{AGAIN}, or give an id'
    )
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
  """Raises if an earlier seed of the row has ended but its line is missing.

  Args:
    chosen: folder of the trial of the first seed that has a line.
    unlisted: folders of trials without a line, most of which still run.
  """
  for directory in unlisted:
    try:
      end, mine = read_end_file(directory), _configuration(directory)
      theirs = _configuration(chosen)
    except (DamagedFile, FieldError):
      continue
    same = mine == dataclasses.replace(theirs, seed=mine.seed)
    if end and end.is_final and same and mine.seed < theirs.seed:
      raise DamagedFile(
        f'{chosen.parent.parent / TRIALS}: has no line of {directory.name}, '
        f'which ended and is seed {mine.seed} of that row',
        f'{AGAIN}, or name the seed',
      )


def _configuration(directory: pathlib.Path) -> Config:
  """Returns the configuration of a trial; flags newer than it have defaults."""
  return override(Config(), read_trial_start(directory).flags)


def _rows_of(lines: Sequence[Mapping[str, Any]], trial: str) -> str:
  """Returns a hint with the names of trials, for an error about `trial`."""
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
  hint = suggest_value(meant[0] if len(meant) == 1 else row, rows)
  return f'its rows are {"|".join(rows)}, named ROW or ROW/SEED{hint}'


def restore_last(directory: pathlib.Path, template: Any) -> RestoredCheckpoint:
  """Returns the last checkpoint of a trial, verified against its record.

  Raises:
    DamagedFile: no checkpoint is whole, or it is not the one of the record.
  """
  end, notes = read_end(directory), list[str]()
  with _opened(directory, notes.append) as checkpoints:
    found = checkpoints.restore(template)
  if found is None:
    raise DamagedFile(
      f'{directory}: has no whole checkpoint{_because(notes)}', AGAIN
    )
  if end is None:
    if notes:
      raise DamagedFile(
        f'{directory}: its newest checkpoint is damaged and the one before is '
        f'of step {found.step}{_because(notes)}',
        AGAIN,
      )
    return found
  last = found.step if end.step is None else end.step
  if found.step != last and not (end.status == 'paused' and found.step > last):
    raise DamagedFile(
      f'{directory}: its newest whole checkpoint is of step {found.step}, its '
      f'record of step {last}{_because(notes)}',
      _anew(directory, last),
    )
  if (
    found.step == last
    and digest(TrainState.from_checkpoint(found.tree).eval_params) != end.digest
  ):
    raise DamagedFile(
      f'{directory}: checkpoint {last} holds other parameters than its record '
      'says',
      _anew(directory, last),
    )
  return found


def restore_best(directory: pathlib.Path, template: Any) -> RestoredCheckpoint:
  """Returns the checkpoint with the lowest validation loss."""
  end = read_end(directory)
  step = (
    restore_last(directory, template).extra[BEST]
    if end is None
    else end.best_step
  )
  if step is None:
    raise DataError(
      f'{directory}: has no best checkpoint, as no validation loss was '
      'finite: leave best out'
    )
  with _opened(directory, lambda line: None) as checkpoints:
    try:
      found = checkpoints.restore_step(step, template)
    except UnreadableFormat:
      raise
    except Exception as e:
      raise DamagedFile(
        f'{directory}: its best checkpoint, of step {step}, is damaged or gone '
        f'({first_line(e)})',
        f'empty {directory / CHECKPOINT_FOLDER} and {AGAIN}',
      ) from e
  if found.extra[BEST] != step:
    raise DamagedFile(
      f'{directory}: checkpoint {step} is not its best as its record says',
      f'empty {directory / CHECKPOINT_FOLDER} and {AGAIN}',
    )
  return found


def list_steps(directory: pathlib.Path) -> list[int]:
  """Returns the steps that have checkpoints, ascending."""
  with _opened(directory, lambda line: None) as checkpoints:
    return checkpoints.steps()


def restore_at(
  directory: pathlib.Path, template: Any, step: int
) -> RestoredCheckpoint:
  """Returns the checkpoint of a step.

  Raises:
    DataError: there is no checkpoint of this step.
  """
  with _opened(directory, lambda line: None) as checkpoints:
    there = checkpoints.steps()
    if step not in there:
      raise DataError(
        f'{directory}: has no checkpoint of step {step}, but of '
        f'{", ".join(map(str, there))}: --keep_every in training keeps more'
      )
    try:
      return checkpoints.restore_step(step, template)
    except UnreadableFormat:
      raise
    except Exception as e:
      raise DamagedFile(
        f'{directory}: its checkpoint of step {step} is damaged '
        f'({first_line(e)})',
        'take another',
      ) from e


@contextlib.contextmanager
def _opened(
  directory: pathlib.Path, warn: Callable[[str], None]
) -> Iterator[Checkpoints]:
  """Yields the checkpoints of a trial, opened for reading only."""
  if not (directory / CHECKPOINT_FOLDER).is_dir():
    raise DataError(
      f'{directory}: has no checkpoint: make the folder '
      f'{directory / CHECKPOINT_FOLDER} and {AGAIN}'
    )
  checkpoints = Checkpoints(
    directory / CHECKPOINT_FOLDER, 1, warn, read_only=True
  )
  try:
    yield checkpoints
  finally:
    checkpoints.close()


def _anew(directory: pathlib.Path, step: int) -> str:
  """Returns advice on how to train the end of a trial again."""
  path = directory / CHECKPOINT_FOLDER / str(step)
  return f'remove {path} and {AGAIN}' if path.exists() else AGAIN


def _because(notes: Sequence[str]) -> str:
  return f' ({"; ".join(notes)})' if notes else ''
