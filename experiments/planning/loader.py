"""Loads what trials start from: data, vocabularies and initial parameters.

What restores a trained trial is imported when there is one to restore: Flax and
Orbax take a second to import, and every plan imports this file.
"""

import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from experiments.messages.streams import warn
from model.core.field import FieldError
from model.core.parameter import Params
from train.config.code_digest import (
  CodeRecord,
  CodeStatus,
  code_status,
  valid_code,
)
from train.config.config import Config
from train.core.errors import DataError
from train.files.durable import digest
from train.files.records import read_trial_start
from train.files.strict import DamagedFile
from train.files.version import UnreadableFormat, flag_differences
from train.flags.schema import override
from train.tasks.base import Data, Task
from train.text.store import VOCABULARY_FILE, read_vocabulary

if TYPE_CHECKING:
  from train.inference.load import TrainedTrial


class Loader:
  """Loads data and initial parameters of the rows of a plan, each only once.

  A learned vocabulary belongs to the trials that started with it: a working
  directory keeps its own, even if learning it again would give another one.

  Args:
    workdir: the working directory, if it is known.
    rerun: do not reuse vocabularies of trials that ran with other code.
  """

  def __init__(self, workdir: str | None, rerun: bool = False):
    self._rerun = rerun
    self._workdir = None if workdir is None else pathlib.Path(workdir)
    self._data: dict[Task, Data] = {}
    self._initial: dict[str, tuple[TrainedTrial, str]] = {}

  def resume(self, workdir: pathlib.Path) -> None:
    """Uses the vocabularies of this directory, also for data already loaded."""
    if workdir == self._workdir:
      return
    self._workdir = workdir
    for task, data in self._data.items():
      if data.vocabulary.learned:
        self._data[task] = self._data_of_trials(task) or data

  def data(self, task: Task) -> Data:
    """Returns the data of a task."""
    if task not in self._data:
      self._data[task] = self._data_of_trials(task) or task.load()
    return self._data[task]

  def _data_of_trials(self, task: Task) -> Data | None:
    """Returns the data with the learned vocabulary of an existing trial."""
    if self._workdir is None:
      return None
    for folder in _trials(self._workdir):
      begun = _read_start(folder)
      if begun is None or not begun.learned or begun.task != task.tag:
        continue
      if flag_differences(begun.flags, task):
        continue
      if self._rerun and begun.standing == 'other':
        continue
      try:
        data = task.load(
          read_vocabulary(folder / VOCABULARY_FILE, begun.vocabulary)
        )
      except DataError:
        continue  # damaged, or learned from another text
      if data.digest == begun.data:
        return data
    return None

  def initial(self, config: Config) -> tuple[Params | None, str]:
    """Returns the parameters of --init_from (or None), and their digest."""
    if config.init_from is None:
      return None, ''
    if config.init_from not in self._initial:
      from train.inference.load import load

      workdir, _, trial = config.init_from.rpartition(':')
      try:
        found = load(workdir, trial)
      except DataError as e:
        raise FieldError('init_from', config.init_from, str(e)) from e
      self._initial[config.init_from] = found, digest(found.params)
      if found.code_warning:
        text = f'warning: --init_from={config.init_from} {found.code_warning}'
        warn(text)
    loaded, name = self._initial[config.init_from]
    # For each row, because tasks, and so vocabularies, may differ between rows.
    if rule := _vocabulary_problem(loaded, config.task, self.data(config.task)):
      raise FieldError('init_from', config.init_from, rule)
    return loaded.params, name


def _vocabulary_problem(
  loaded: 'TrainedTrial', task: Task, data: Data
) -> str | None:
  """Returns why the token ids of a trial differ from a task's, or None."""
  mine, other = loaded.vocabulary, data.vocabulary
  if mine == other:
    return None
  first = loaded.config.task.tag
  if mine.specials != other.specials:
    reserved = {first, task.tag} == {'text', 'mlm'}
    return (
      f'learned --task={first}, whose special tokens are not those of '
      f'--task={task.tag}: '
      + ('train text with --task.reserve_mask=true' if reserved else 'drop it')
    )
  if mine.labels != other.labels:
    return 'has other labels than --task: drop it'
  return (
    'has another vocabulary than --task: train both with --task.tokenizer=byte'
  )


def _trials(workdir: pathlib.Path) -> list[pathlib.Path]:
  """Returns the folders of the trials there."""
  try:
    return sorted((workdir / 'runs').iterdir())
  except OSError:
    return []


class _TrialStart(NamedTuple):
  """What a trial started with.

  Attributes:
    task: the value of --task.
    flags: the flags --task.*, without this prefix.
    data: digest of the data.
    vocabulary: digest of the vocabulary.
    learned: whether the vocabulary was learned.
    every: all flags.
    code: digests of the code that it ran.
  """

  task: str
  flags: dict[str, str]
  data: str
  vocabulary: str
  learned: bool
  every: dict[str, str]
  code: CodeRecord

  @property
  def standing(self) -> CodeStatus:
    """How its code compares with the present code."""
    try:
      config = override(Config(), self.every)
    except FieldError:  # a flag that does not exist any more
      return 'other'
    return code_status(self.code, config)


def _read_start(folder: pathlib.Path) -> _TrialStart | None:
  """Returns the task and data of a trial, or None if they are unreadable."""
  try:
    about = read_trial_start(folder)
    return _TrialStart(
      about.flags.get('task', ''),
      _flags_of_task(about.flags),
      about.data,
      about.vocabulary.digest,
      about.vocabulary.learned,
      dict(about.flags),
      valid_code(about.code),
    )
  except (DamagedFile, UnreadableFormat):  # reported when the trial is resumed
    return None


def _flags_of_task(flags: Mapping[str, str]) -> dict[str, str]:
  first = 'task.'
  return {
    k.removeprefix(first): v for k, v in flags.items() if k.startswith(first)
  }
