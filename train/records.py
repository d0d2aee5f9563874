"""What the files of a working directory hold, a dataclass for each.

The record of a trial lies in trials.jsonl, and what of it says whether its
checkpoints are the right ones lies beside them too, in end.json: a folder that
was moved alone is still checked.
"""

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from train.files import Lines, all_lines, read_json
from train.strict import Damaged, check

TRIALS, BEGUN, END = 'trials.jsonl', 'config.json', 'end.json'
FIGURES = 'metrics.jsonl'
# What is written of a trial when it ends, for people to look at.
LOOKED_AT = ('attention.npz', 'sample.json', 'written.tsv')
FOLDER = 'checkpoints'  # of a trial, within its own
AGAIN = 'repeat the command that trained it, which writes it again'

Status = Literal['ok', 'diverged', 'paused']


def _check_name(trial: str) -> None:
  """Raises ValueError unless a trial's id can only be a folder of `runs`."""
  if not re.fullmatch(r'[A-Za-z0-9_-]{1,100}', trial):
    raise ValueError('trial is not the id of one')


def _check_digest(digest: str) -> None:
  if not re.fullmatch(r'[0-9a-f]{64}', digest):
    raise ValueError('digest is not a sha256')


@dataclasses.dataclass(frozen=True)
class TrialRecord:
  """A line of trials.jsonl; see `Result` for what a trial comes to."""

  row: str
  trial: str
  seed: int
  status: Status | Literal['failed']
  config: Mapping[str, str]
  metrics: Mapping[str, float | None] | None = None
  clock: Mapping[str, float] | None = None
  steps: int | None = None
  tokens: int | None = None
  digest: str | None = None
  parameters: int | None = None
  flops_per_token: float | None = None
  error: str | None = None
  code: Mapping[str, Any] | None = None
  by_position: Mapping[str, Sequence[float | None]] | None = None

  def __post_init__(self) -> None:
    _check_name(self.trial)
    if self.status == 'failed':
      needed = {'error': self.error}
    else:
      needed = {
        'metrics': self.metrics,
        'clock': self.clock,
        'steps': self.steps,
        'tokens': self.tokens,
        'digest': self.digest,
        'parameters': self.parameters,
        'flops_per_token': self.flops_per_token,
      }
      _check_digest(self.digest or '')
    for name, value in needed.items():
      if value is None:
        raise ValueError(f'lacks {name}')
    if self.status == 'diverged' and 'diverged_at' not in (self.metrics or ()):
      raise ValueError('lacks metrics.diverged_at')
    if 'seconds' not in (self.clock or {'seconds': 0}):
      raise ValueError('lacks clock.seconds')


def read_trials(workdir: pathlib.Path) -> Lines:
  """Returns the records of a working directory."""

  def accept(value: Any) -> None:
    check(TrialRecord, value)

  return all_lines(workdir / TRIALS, accept)


def read_figures(path: pathlib.Path) -> Lines:
  """Returns the figures of a trial, step by step, from its metrics.jsonl."""
  return all_lines(path, _check_figures)


def count_figures(directory: pathlib.Path) -> int:
  """Returns how many figures a trial has logged, damaged ones too."""
  found = read_figures(directory / FIGURES)
  return len(found.values) + len(found.faults)


def digests(directory: pathlib.Path) -> dict[str, str]:
  """Returns 64 bits of the sha256 of each file that people look at."""
  return {
    name: hashlib.sha256((directory / name).read_bytes()).hexdigest()[:16]
    for name in LOOKED_AT
    if (directory / name).is_file()
  }


def _check_figures(value: Any) -> None:
  """Raises ValueError unless a line is a step and numbers."""
  if not isinstance(value, dict) or type(value.get('step')) is not int:
    raise ValueError('has no step')
  if value['step'] < 0:
    raise ValueError('has a step below 0')
  for name, x in value.items():
    if x is not None and type(x) not in (int, float):
      raise ValueError(f'{name[:40]!a} is no number')


@dataclasses.dataclass(frozen=True)
class VocabularyDigest:
  """Which vocabulary a trial was begun with."""

  kind: str
  learned: bool
  digest: str


@dataclasses.dataclass(frozen=True)
class Begun:
  """config.json of a trial: what rebuilds it, and how its trials lay.

  `lanes` pins the layout of its working directory, on which bits may depend.
  """

  trial: str
  flags: Mapping[str, str]
  data: str
  vocabulary: VocabularyDigest
  lanes: str | None = None
  code: Mapping[str, Any] | None = None

  def __post_init__(self) -> None:
    _check_name(self.trial)


def read_begun(directory: pathlib.Path) -> Begun:
  """Returns what a trial was begun with.

  Raises:
    Damaged: config.json is damaged, or that of another trial.
  """
  path = directory / BEGUN
  found = read_json(path, Begun, AGAIN)
  if found.trial != directory.name:
    raise Damaged(f'{path}: is that of trial {found.trial}', AGAIN)
  return found


@dataclasses.dataclass(frozen=True)
class End:
  """end.json: where a trial ended, for who reads its checkpoints.

  Attributes:
    trial: its id.
    status: how it ended.
    step: of its last checkpoint; none where an older version ended it by
      diverging, and only the digest is known.
    digest: of the parameters there, those that are evaluated.
    best_step: of the checkpoint with the lowest validation loss, if any.
    figures: how many lines metrics.jsonl had; none in older versions.
    files: digests of what was written at the end, by the names of the files.
  """

  trial: str
  status: Status
  step: int | None
  digest: str
  best_step: int | None
  figures: int | None = None
  files: Mapping[str, str] | None = None

  @property
  def is_final(self) -> bool:
    """Returns whether the trial ended, well or not: it was not interrupted."""
    return self.status != 'paused'

  def __post_init__(self) -> None:
    _check_name(self.trial)
    _check_digest(self.digest)


def read_end(directory: pathlib.Path) -> End | None:
  """Returns where a trial ended; none before that.

  It is that of its record, where a version without end.json trained it.

  Raises:
    Damaged: it cannot be read, or is that of another trial.
  """
  if (own := read_own_end(directory)) is not None:
    return own
  lines = read_trials(directory.parent.parent)
  mine = [v for v in lines.values if v['trial'] == directory.name]
  if lines.faults and not mine:  # one of them may be its own
    raise Damaged(lines.said(directory.parent.parent / TRIALS)[0], AGAIN)
  if not mine or mine[-1]['status'] == 'failed':
    return None
  last = mine[-1]
  return End(
    directory.name,
    last['status'],
    None if last['status'] == 'diverged' else last['steps'],
    last['digest'],
    last['metrics'].get('best_step'),
  )


def read_own_end(directory: pathlib.Path) -> End | None:
  """Returns what end.json says; none where there is none.

  Raises:
    Damaged: it cannot be read, or is that of another trial.
  """
  path = directory / END
  if not path.exists():
    return None
  found = read_json(path, End, AGAIN)
  if found.trial != directory.name:
    raise Damaged(f'{path}: is that of trial {found.trial}', AGAIN)
  return found
