"""Data sets of Hugging Face `datasets` and TFDS, if these are installed."""

import abc
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from model.core.field import FieldError, field
from train.core.errors import DataError
from train.data.tables.base import NamedTable, Rows
from train.data.tables.keys import key_paths, text_at

HINT = 'pip install -r requirements-datasets.txt'


@dataclasses.dataclass(frozen=True)
class Hub(NamedTable, abc.ABC):
  """What both libraries share: a data set has a name, and splits as parts."""

  named: ClassVar[str] = 'SPLIT of the data set, such as train'

  train: str | None = field('train', 'Split to train on.')
  name: str | None = field(None, 'Name of the data set, or its folder.')
  keys: str | None = field(
    None,
    'Comma list of the keys of the columns, with dots into nested objects; '
    '`none` takes the names that the task has for them.',
  )

  def missing(self) -> Iterator[FieldError]:
    """Yields an error for each field that must be given before reading."""
    yield from super().missing()
    if self.name is None:
      what = 'NAME of the data set, or a folder of it'
      yield FieldError('name', None, f'must be given: {what}')


@dataclasses.dataclass(frozen=True)
class HuggingFace(Hub, tag='huggingface'):
  """Hugging Face `datasets`: from the hub, a folder, or `save_to_disk`."""

  config: str | None = field(None, 'Configuration of the data set.')

  def rows(self, name: str, columns: Sequence[str]) -> Rows:
    """Returns the rows of a split."""
    paths, whole = key_paths(self.keys, columns), f'{self.name} {name}'
    try:
      import datasets  # pyright: ignore[reportMissingImports]  # optional
    except ImportError as e:
      raise DataError(f'{whole}: needs datasets: {HINT}') from e
    folder = pathlib.Path(str(self.name))
    several = (folder / 'dataset_dict.json').is_file()
    single = not several and (folder / 'state.json').is_file()
    try:
      if several:
        found = datasets.load_from_disk(str(folder))[name]
      elif single:
        found = datasets.load_from_disk(str(folder))
      else:
        found = datasets.load_dataset(str(self.name), self.config, split=name)
    except Exception as e:
      raise DataError(_one_line(whole, e)) from e
    if single:
      self._check_single(str(found.split or 'train'))
    names = {
      key: feature.names
      for key, feature in found.features.items()
      if isinstance(feature, datasets.ClassLabel)
    }
    return _rows(whole, found, names, paths)

  def _check_single(self, split: str) -> None:
    """Raises a FieldError if splits are asked of a folder without splits.

    It would give all its rows for any split, so that the validation rows would
    be those that are trained on.

    Args:
      split: name of the split that the folder holds; `train` if it has none.
    """
    there = f'{self.name} is one data set, without splits'
    if self.validation is not None:
      raise FieldError(
        'task.data.validation',
        self.validation,
        f'{there}: drop the flag to evaluate on a part of it, or give a '
        'folder of a DatasetDict',
      )
    if self.train != split:
      raise FieldError(
        'task.data.train', self.train, f'{there}: try --task.data.train={split}'
      )


@dataclasses.dataclass(frozen=True)
class Tfds(Hub, tag='tfds'):
  """TensorFlow Datasets, read as ArrayRecord files without TensorFlow."""

  data_dir: str | None = field(None, 'Folder of prepared data sets.')

  def rows(self, name: str, columns: Sequence[str]) -> Rows:
    """Returns the rows of a split."""
    paths, whole = key_paths(self.keys, columns), f'{self.name} {name}'
    try:
      import tensorflow_datasets as tfds  # pyright: ignore[reportMissingImports]  # optional
    except ImportError as e:
      raise DataError(f'{whole}: needs tensorflow-datasets: {HINT}') from e
    try:
      folder = pathlib.Path(str(self.name))
      if (folder / 'dataset_info.json').is_file():
        builder = tfds.builder_from_directory(folder)
      else:
        builder = tfds.builder(str(self.name), data_dir=self.data_dir)
        builder.download_and_prepare(file_format='array_record')
      found = builder.as_data_source(name)
    except Exception as e:
      raise DataError(_one_line(whole, e)) from e
    names = {
      key: feature.names
      for key, feature in builder.info.features.items()
      if isinstance(feature, tfds.features.ClassLabel)
    }
    return _rows(whole, found, names, paths)


def _rows(
  whole: str, found: Any, names: dict[str, Any], paths: Sequence[Sequence[str]]
) -> Rows:
  """Returns the texts at the paths of each row; class ids become names."""
  columns: tuple[list[str], ...] = tuple([] for _ in paths)
  for number in range(len(found)):
    row = found[number]
    for column, path in zip(columns, paths, strict=True):
      value = row
      where = f'{whole}: row {number}'
      if path[0] in names and len(path) == 1:
        value = {path[0]: _name(row[path[0]], names[path[0]], where)}
      column.append(text_at(value, path, where))
  return Rows(whole, columns)


def _name(number: Any, names: Sequence[str], where: str) -> str:
  """Returns the name of a class id; -1 and None, for no label, are errors."""
  if number is None or not 0 <= number < len(names):
    raise DataError(
      f'{where} has the label {number}, which is no class ({len(names)} of '
      'them): choose a split with labels'
    )
  return names[int(number)]


def _one_line(whole: str, error: Exception) -> str:
  first = str(error).strip().splitlines()
  return (
    f'{whole}: cannot be loaded ({type(error).__name__}: '
    f'{first[0] if first else "no message"}): check --task.data.name and the '
    'split, or the network'
  )
