"""The files of a working directory, with a dataclass for the content of each.

The record of a trial is a line of trials.jsonl.  The part of it that verifies
checkpoints is repeated beside them in end.json, so that the folder of a trial
can still be verified after it was moved alone.
"""

import dataclasses
import hashlib
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from train.files.durable import JsonLines, read_json, read_json_lines
from train.files.strict import DamagedFile, check_type
from train.files.version import FIRST, TRIAL, WORKDIR_READ_ONLY

# Files of a working directory; SPARE is a copy of OWNER.
OWNER, SPARE = 'config.json', '.config.json'
TRIALS, BEGUN, END = 'trials.jsonl', 'config.json', 'end.json'
METRICS_FILE = 'metrics.jsonl'
# Files that a trial writes when it ends, for people to look at.
ARTIFACTS = ('attention.npz', 'sample.json', 'written.tsv')
CHECKPOINT_FOLDER = 'checkpoints'  # within the folder of a trial
AGAIN = 'repeat the command that trained it, which writes it again'

Status = Literal['ok', 'diverged', 'paused']
JsonRecord = Mapping[str, Any]  # a line of trials.jsonl that is not checked yet


def _check_name(trial: str) -> None:
  """Raises ValueError unless a trial's id is safe as the name of a folder."""
  if not re.fullmatch(r'[A-Za-z0-9_-]{1,100}', trial):
    raise ValueError('trial is not the id of one')


def _check_digest(digest: str) -> None:
  if not re.fullmatch(r'[0-9a-f]{64}', digest):
    raise ValueError('digest is not a sha256')


@dataclasses.dataclass(frozen=True)
class TrialRecord:
  """A line of trials.jsonl: the outcome of one trial; see `Result`.

  `repeatable` is True if a repeated run gives the same bits, else it says why
  it may not; older records lack it.
  """

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
  repeatable: bool | str | None = None
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


def check_readable(workdir: pathlib.Path) -> None:
  """Checks that a working directory has a format that this version reads.

  If its files do not tell, the format of each trial is checked later instead.

  Raises:
    OtherFormat: this version cannot read it.
  """
  for name in (OWNER, SPARE):
    try:
      read_json(workdir / name, dict[str, Any], AGAIN, WORKDIR_READ_ONLY)
    except DamagedFile:
      continue
    return


def read_trials(workdir: pathlib.Path) -> JsonLines:
  """Returns the records of the trials of a working directory."""

  def accept(value: Any) -> None:
    check_type(TrialRecord, value)

  return read_json_lines(workdir / TRIALS, accept)


def read_metrics(path: pathlib.Path) -> JsonLines:
  """Returns the metrics of a trial, step by step, from its metrics.jsonl."""
  return read_json_lines(path, _check_figures)


def count_log_lines(directory: pathlib.Path) -> int:
  """Returns how many lines a trial has logged, including damaged ones."""
  found = read_metrics(directory / METRICS_FILE)
  return len(found.values) + len(found.faults)


def artifact_digests(directory: pathlib.Path) -> dict[str, str]:
  """Returns 64 bits of the sha256 of each `ARTIFACTS` file that exists."""
  return {
    name: hashlib.sha256((directory / name).read_bytes()).hexdigest()[:16]
    for name in ARTIFACTS
    if (directory / name).is_file()
  }


def _check_figures(value: Any) -> None:
  """Raises ValueError unless a line has a step and otherwise only numbers."""
  if not isinstance(value, dict) or type(value.get('step')) is not int:
    raise ValueError('has no step')
  if value['step'] < 0:
    raise ValueError('has a step below 0')
  for name, x in value.items():
    if x is not None and type(x) not in (int, float):
      raise ValueError(f'{name[:40]!a} is no number')


@dataclasses.dataclass(frozen=True)
class VocabularyDigest:
  """Identifies the vocabulary that a trial started with."""

  kind: str
  learned: bool
  digest: str


@dataclasses.dataclass(frozen=True)
class TrialStart:
  """config.json of a trial, written at its start: what is needed to rebuild it.

  `lanes` is the layout of the trials of its working directory on devices, which
  must stay the same because the last bits of results may depend on it.
  """

  trial: str
  flags: Mapping[str, str]
  data: str
  vocabulary: VocabularyDigest
  lanes: str | None = None
  code: Mapping[str, Any] | None = None
  format: int = FIRST

  def __post_init__(self) -> None:
    _check_name(self.trial)


def read_trial_start(directory: pathlib.Path) -> TrialStart:
  """Reads config.json of a trial.

  Raises:
    DamagedFile: it is damaged, or belongs to another trial.
    OtherFormat: it has a format that this version cannot read.
  """
  path = directory / BEGUN
  found = read_json(path, TrialStart, AGAIN, TRIAL)
  if found.trial != directory.name:
    raise DamagedFile(f'{path}: is that of trial {found.trial}', AGAIN)
  return found


@dataclasses.dataclass(frozen=True)
class TrialEnd:
  """end.json: where a trial ended, to verify its checkpoints.

  Attributes:
    trial: id of the trial.
    status: how it ended.
    step: step of its last checkpoint; None if it diverged under an older
      version, of which only the digest is known.
    digest: sha256 of the evaluated parameters at that step.
    best_step: step of the checkpoint with the lowest validation loss, if any.
    figures: how many lines metrics.jsonl had; None in older versions.
    files: digests of the files that were written at the end, by name.
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
    """Returns whether the trial is over, as opposed to interrupted."""
    return self.status != 'paused'

  def __post_init__(self) -> None:
    _check_name(self.trial)
    _check_digest(self.digest)


def read_end(directory: pathlib.Path) -> TrialEnd | None:
  """Returns where a trial ended, or None if it has not ended.

  If there is no end.json, as in older versions, the record of the trial tells.

  Raises:
    DamagedFile: the file cannot be read, or belongs to another trial.
  """
  if (own := read_end_file(directory)) is not None:
    return own
  lines = read_trials(directory.parent.parent)
  mine = [v for v in lines.values if v['trial'] == directory.name]
  if lines.faults and not mine:  # one of them may be the record of this trial
    raise DamagedFile(lines.said(directory.parent.parent / TRIALS)[0], AGAIN)
  if not mine or mine[-1]['status'] == 'failed':
    return None
  last = mine[-1]
  return TrialEnd(
    directory.name,
    last['status'],
    None if last['status'] == 'diverged' else last['steps'],
    last['digest'],
    last['metrics'].get('best_step'),
  )


def read_end_file(directory: pathlib.Path) -> TrialEnd | None:
  """Reads end.json of a trial; returns None if there is none.

  Raises:
    DamagedFile: it cannot be read, or belongs to another trial.
  """
  path = directory / END
  if not path.exists():
    return None
  found = read_json(path, TrialEnd, AGAIN)
  if found.trial != directory.name:
    raise DamagedFile(f'{path}: is that of trial {found.trial}', AGAIN)
  return found
