"""What trials start from: each text, vocabulary and checkpoint, loaded once."""

import json
import pathlib
from collections.abc import Mapping
from typing import NamedTuple

from model.field import FieldError
from train.config import Config
from train.files import digest
from train.load import load
from train.schema import to_flags
from train.step import Params
from train.store import FILE, read_vocabulary
from train.task import Data, DataError, Task


class Loader:
  """Loads what the rows of a plan need, each once.

  Vocabularies that were learned belong to the trials that began with them: a
  working directory goes on with its own, whatever a new training would give.
  """

  def __init__(self, workdir: str | None):
    self._workdir = None if workdir is None else pathlib.Path(workdir)
    self._data: dict[Task, Data] = {}
    self._params: dict[str, tuple[Params, str]] = {}

  def resume(self, workdir: pathlib.Path) -> None:
    """Takes vocabularies from here, those of tasks loaded before too."""
    if workdir == self._workdir:
      return
    self._workdir = workdir
    for task, data in self._data.items():
      if data.vocabulary.learned:
        self._data[task] = self._saved(task) or data

  def data(self, task: Task) -> Data:
    """Returns the data of a task."""
    if task not in self._data:
      self._data[task] = self._saved(task) or task.load()
    return self._data[task]

  def _saved(self, task: Task) -> Data | None:
    """Returns the data in the vocabulary of a trial that was begun with it."""
    if self._workdir is None:
      return None
    mine = {f'task.{name}': text for name, text in to_flags(task).items()}
    mine['task'] = task.tag
    for folder in _trials(self._workdir):
      begun = _begun(folder)
      if begun is None or not begun.learned or begun.flags != mine:
        continue
      try:
        data = task.load(read_vocabulary(folder / FILE, begun.vocabulary))
      except DataError:
        continue  # damaged, or begun on another text
      if data.digest == begun.data:
        return data
    return None

  def initial(self, config: Config) -> tuple[Params | None, str]:
    """Returns the parameters that a trial starts from, and their digest."""
    if config.init_from is None:
      return None, ''
    if config.init_from not in self._params:
      workdir, _, trial = config.init_from.rpartition(':')
      try:
        loaded = load(workdir, trial)
      except DataError as e:
        raise FieldError('init_from', config.init_from, str(e)) from e
      if loaded.vocabulary != self.data(config.task).vocabulary:
        raise FieldError(
          'init_from',
          config.init_from,
          'has another vocabulary than --task: train both with '
          '--task.tokenizer=byte',
        )
      self._params[config.init_from] = loaded.params, digest(loaded.params)
    return self._params[config.init_from]


def _trials(workdir: pathlib.Path) -> list[pathlib.Path]:
  """Returns the folders of the trials there; none where nothing is."""
  try:
    return sorted((workdir / 'runs').iterdir())
  except OSError:
    return []


class _Begun(NamedTuple):
  """What a trial was begun with: flags of its task, and digests."""

  flags: dict[str, str]
  data: str
  vocabulary: str
  learned: bool


def _begun(folder: pathlib.Path) -> _Begun | None:
  """Returns what a trial was begun with, or none if that cannot be read."""
  try:
    about = json.loads((folder / 'config.json').read_text())
    vocabulary = about['vocabulary']
    return _Begun(
      _flags_of_task(about['flags']),
      about['data'],
      vocabulary['digest'],
      vocabulary['learned'],
    )
  except (OSError, ValueError, KeyError, TypeError):
    return None


def _flags_of_task(flags: Mapping[str, str]) -> dict[str, str]:
  return {k: v for k, v in flags.items() if k.partition('.')[0] == 'task'}
