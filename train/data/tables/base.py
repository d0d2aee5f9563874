"""The interface of tables of texts; parallel files and JSON lines.

A table gives the columns that a task asks for, in that order.  An invalid row
is an error that names the row; rows with an empty text are left out, and
counted.
"""

import abc
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import ClassVar, Literal, NamedTuple

from model.core.field import FieldError, Variant, field
from train.core.errors import DataError
from train.data.tables.keys import DuplicateKey, key_paths, text_at, unique_keys
from train.data.textfile import read_file

TablePart = Literal['train', 'validation']


class Rows(NamedTuple):
  """One part of a table: lists of equal length, one for each column.

  Attributes:
    name: its name in messages.
    columns: the columns in the order of the task, texts first.
    numbers: number of each row in the source, from 1.
    notes: remarks on how the source was interpreted.
  """

  name: str
  columns: tuple[list[str], ...]
  numbers: Sequence[int] = ()
  notes: tuple[str, ...] = ()

  @property
  def count(self) -> int:
    """Returns how many rows there are."""
    return len(self.columns[0])

  def chosen(self, which: Sequence[bool]) -> 'Rows':
    """Returns the rows that a mask selects."""
    columns = tuple(list(compress(column, which)) for column in self.columns)
    return self._replace(
      columns=columns, numbers=list(compress(self.numbers, which))
    )


class Table(Variant, abc.ABC):
  """A source of rows of texts, for training and for validation.

  Attributes:
    pretokenized: whether its texts are tokens (or pieces of words) separated by
      spaces.
    is_absent: whether it stands for no table.
  """

  pretokenized: ClassVar[bool] = False
  is_absent: ClassVar[bool] = False

  def missing(self) -> Iterator[FieldError]:
    """Yields an error for each field that must be given before reading.

    This is not checked on construction, because the command line constructs a
    variant with its defaults first.
    """
    return iter(())

  def unfit(self, columns: Sequence[str]) -> FieldError | None:
    """Returns the error if the table cannot have these columns, else None."""
    del columns
    return None

  @abc.abstractmethod
  def part(self, part: TablePart, columns: Sequence[str]) -> Rows | None:
    """Returns the rows of a part, or None if the table has no such part.

    Args:
      part: the part to read.
      columns: names of the columns that the task reads, in order.

    Raises:
      DataError: the table cannot be read, or a row is invalid.
    """


@dataclasses.dataclass(frozen=True)
class NoTable(Table, tag='none'):
  """No table (default)."""

  is_absent: ClassVar[bool] = True

  def part(self, part: TablePart, columns: Sequence[str]) -> Rows | None:
    """Returns None: there are no rows."""
    del part, columns
    return None


@dataclasses.dataclass(frozen=True)
class NamedTable(Table, abc.ABC):
  """A table whose parts are named by flags, as files or as splits.

  Attributes:
    named: what such a name is, for messages.
  """

  named: ClassVar[str]

  train: str | None = field(None, 'Rows to train on.')
  validation: str | None = field(
    None, 'Rows to evaluate on; `none` splits the others by --task.split.'
  )

  def missing(self) -> Iterator[FieldError]:
    """Yields an error if the rows to train on are not named."""
    if self.train is None:
      yield FieldError('train', None, f'must be given: {self.named}')

  @abc.abstractmethod
  def rows(self, name: str, columns: Sequence[str]) -> Rows:
    """Returns the rows of the part with this name."""

  def part(self, part: TablePart, columns: Sequence[str]) -> Rows | None:
    """Returns the rows of a part, or None if its name is not given."""
    name = vars(self)[part]
    return None if name is None else self.rows(name, columns)


@dataclasses.dataclass(frozen=True)
class ParallelText(NamedTable, tag='lines'):
  """Parallel text files, line by line: PREFIX.en and PREFIX.de, or .gz."""

  named: ClassVar[str] = (
    'PREFIX of parallel files, such as PREFIX.en and PREFIX.de '
    '(--task.data.suffixes)'
  )

  suffixes: str = field('en,de', 'Comma list of the suffixes of the files.')

  def rows(self, name: str, columns: Sequence[str]) -> Rows:
    """Returns the lines of the files with this prefix."""
    suffixes = self.suffixes.split(',')
    if len(suffixes) != len(columns):
      raise DataError(
        f'--task.data.suffixes={self.suffixes}: must name a file for each of '
        f'{", ".join(columns)}'
      )
    paths = [_plain_or_packed(f'{name}.{suffix}') for suffix in suffixes]
    found = tuple(split_lines(read_file(path)) for path in paths)
    check_counts([str(path) for path in paths], found)
    return Rows(name, found)


@dataclasses.dataclass(frozen=True)
class Jsonl(NamedTable, tag='jsonl'):
  """JSON lines: an object for each row, with a key for each column."""

  named: ClassVar[str] = 'FILE of JSON objects, one a line'

  keys: str | None = field(
    None,
    'Comma list of the keys of the columns, with dots into nested objects; '
    '`none` takes the names that the task has for them.',
  )

  def rows(self, name: str, columns: Sequence[str]) -> Rows:
    """Returns the rows of the file."""
    paths = key_paths(self.keys, columns)
    found: tuple[list[str], ...] = tuple([] for _ in paths)
    for number, line in enumerate(
      split_lines(read_file(pathlib.Path(name))), 1
    ):
      where = f'{name}: line {number}'
      if not line.strip():
        for column in found:
          column.append('')
        continue
      try:
        value = json.loads(line, object_pairs_hook=unique_keys)
      except DuplicateKey as e:
        raise DataError(
          f'{where} has the key {e.key!r} twice: leave one out'
        ) from e
      except json.JSONDecodeError as e:
        raise DataError(
          f'{where} is not JSON ({e.msg} at character {e.colno}): mend it, or '
          'leave the line out'
        ) from e
      except (ValueError, RecursionError) as e:  # huge number, deep nesting
        raise DataError(
          f'{where} cannot be read as JSON ({e}): mend it, or leave the line '
          'out'
        ) from e
      if not isinstance(value, dict):
        raise DataError(f'{where} is {type(value).__name__}, not an object')
      for column, path in zip(found, paths, strict=True):
        column.append(text_at(value, path, where))
    return Rows(name, found)


# Parts of tables. -------------------------------------------------------------


def read_parts(
  table: Table, columns: Sequence[str]
) -> tuple[Rows, Rows | None, list[str]]:
  """Reads a table, and leaves out rows with an empty text.

  Args:
    table: the table.
    columns: names of the columns that the task reads.

  Returns:
    The training rows (or all rows), the validation rows if the table has them
    separately, and remarks.

  Raises:
    FieldError: the table lacks a value that it needs.
    DataError: it has no row, or a row is invalid.
  """
  for problem in table.missing():
    raise problem.under('task.data.')
  found = table.part('train', columns)
  assert found is not None
  train, empty = _without_empty(found)
  other = table.part('validation', columns)
  held = None
  if other is not None:
    held, more = _without_empty(other)
    empty += more
  if not (train.count or (held and held.count)):
    raise DataError(f'{train.name}: has no row to use: give more of them')
  remarks = [note for part in (train, held) if part for note in part.notes]
  notes = list(dict.fromkeys(remarks))
  if empty:
    notes.append(f'{empty:,} with an empty text left out')
  return train, held, notes


def _without_empty(rows: Rows) -> tuple[Rows, int]:
  """Returns the rows without an empty text, and the number of the others."""
  whole = [all(map(str.strip, row)) for row in zip(*rows.columns, strict=True)]
  rows = rows._replace(numbers=range(1, rows.count + 1))
  return rows.chosen(whole), whole.count(False)


def split_lines(text: str) -> list[str]:
  r"""Splits a text into lines at \n alone.

  str.splitlines would also split at a form feed or U+2028, and parallel files
  with different numbers of these would no longer match line by line.
  """
  found = text.removesuffix('\n').split('\n') if text else []
  return [line.removesuffix('\r') for line in found]


def check_counts(names: Sequence[str], columns: Sequence[list[str]]) -> None:
  """Raises a DataError unless all files have the same number of lines."""
  counts = [len(column) for column in columns]
  if len(set(counts)) > 1:
    each = ', '.join(
      f'{n} has {c:,}' for n, c in zip(names, counts, strict=True)
    )
    raise DataError(
      f'{each} lines: line n of one must translate that of others'
    )


def _plain_or_packed(name: str) -> pathlib.Path:
  packed = f'{name}.gz'
  # os.path, as pathlib raises if the name is too long or not accessible.
  chosen = os.path.exists(packed) and not os.path.exists(name)
  return pathlib.Path(packed if chosen else name)
