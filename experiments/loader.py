"""What trials start from: each text, vocabulary and checkpoint, loaded once."""

import pathlib
from collections.abc import Mapping
from typing import NamedTuple

from experiments.streams import warn
from model.field import FieldError
from train.code import Recorded, Standing, standing, whole
from train.config import Config
from train.files import digest
from train.load import Loaded, load
from train.records import read_begun
from train.schema import override, to_flags
from train.step import Params
from train.store import FILE, read_vocabulary
from train.strict import Damaged
from train.task import Data, DataError, Task


class Loader:
  """Loads what the rows of a plan need, each once.

  Vocabularies that were learned belong to the trials that began with them: a
  working directory goes on with its own, whatever a new training would give.

  Args:
    workdir: the working directory, if it is known.
    anew: leave out the vocabularies of trials of other code.
  """

  def __init__(self, workdir: str | None, anew: bool = False):
    self._anew = anew
    self._workdir = None if workdir is None else pathlib.Path(workdir)
    self._data: dict[Task, Data] = {}
    self._initial: dict[str, tuple[Loaded, str]] = {}

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
      if self._anew and begun.standing == 'other':
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
    if config.init_from not in self._initial:
      workdir, _, trial = config.init_from.rpartition(':')
      try:
        found = load(workdir, trial)
      except DataError as e:
        raise FieldError('init_from', config.init_from, str(e)) from e
      self._initial[config.init_from] = found, digest(found.params)
      if found.caveat:
        text = f'warning: --init_from={config.init_from} {found.caveat}'
        warn(text)
    loaded, name = self._initial[config.init_from]
    # Of each row: tasks, and so vocabularies, may differ between them.
    if rule := _unlike(loaded, config.task, self.data(config.task)):
      raise FieldError('init_from', config.init_from, rule)
    return loaded.params, name


def _unlike(loaded: Loaded, task: Task, data: Data) -> str | None:
  """Returns why the ids of a trial are not those of a task, if they are not."""
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
  """Returns the folders of the trials there; none where nothing is."""
  try:
    return sorted((workdir / 'runs').iterdir())
  except OSError:
    return []


class _Begun(NamedTuple):
  """What a trial was begun with: flags of its task, digests, and its code."""

  flags: dict[str, str]
  data: str
  vocabulary: str
  learned: bool
  every: dict[str, str]
  code: Recorded

  @property
  def standing(self) -> Standing:
    """Returns whether it is of the code that is here."""
    return standing(self.code, override(Config(), self.every))


def _begun(folder: pathlib.Path) -> _Begun | None:
  """Returns what a trial was begun with, or none if that cannot be read."""
  try:
    about = read_begun(folder)
    return _Begun(
      _flags_of_task(about.flags),
      about.data,
      about.vocabulary.digest,
      about.vocabulary.learned,
      dict(about.flags),
      whole(about.code),
    )
  except Damaged:
    return None


def _flags_of_task(flags: Mapping[str, str]) -> dict[str, str]:
  return {k: v for k, v in flags.items() if k.partition('.')[0] == 'task'}
