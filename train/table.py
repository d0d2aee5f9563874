"""Tables of texts: parallel files, JSON lines, and what all must be.

A table gives the columns that a task asks for, in the order it asks.  What is
wrong with a row is an error that names the row; rows that hold an empty text
are left out, and counted.
"""

import abc
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Sequence
from itertools import compress
from typing import ClassVar, Literal, NamedTuple

from model.field import FieldError, Variant, field
from train.keys import Twice, key_paths, once, text_at
from train.task import DataError
from train.textfile import read_file

Part = Literal['train', 'validation']


class Rows(NamedTuple):
  """A part of a table: a list of texts for each column, all equally long.

  Attributes:
    name: for messages.
    columns: texts first.
    numbers: those of the rows, where some were left out; else from 1 on.
    notes: how the table was read, where that is not as it stands there.
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
    """Returns some of the rows, in order."""
    columns = tuple(list(compress(column, which)) for column in self.columns)
    return self._replace(
      columns=columns, numbers=list(compress(self.numbers, which))
    )


class Table(Variant, abc.ABC):
  """A source of rows, to train on and to evaluate on.

  Attributes:
    pretokenized: its texts are tokens between spaces, or pieces of them.
  """

  pretokenized: ClassVar[bool] = False

  def missing(self) -> Iterator[FieldError]:
    """Yields fields without which there is nothing to read.

    Not a rule on construction: a choice begins with its defaults.
    """
    return iter(())

  def unfit(self, columns: Sequence[str]) -> FieldError | None:
    """Returns why it cannot hold these columns, if it cannot."""
    del columns
    return None

  @abc.abstractmethod
  def part(self, part: Part, columns: Sequence[str]) -> Rows | None:
    """Returns the rows of a part, or none where there is no such part.

    Args:
      part: which.
      columns: what the task reads, in this order.

    Raises:
      DataError: it cannot be read, or a row is not what it must be.
    """


@dataclasses.dataclass(frozen=True)
class NoTable(Table, tag='none'):
  """No table (default)."""

  def part(self, part: Part, columns: Sequence[str]) -> Rows | None:
    """Returns none."""
    del part, columns
    return None


@dataclasses.dataclass(frozen=True)
class Named(Table, abc.ABC):
  """What most tables have: parts that are named by a text.

  Attributes:
    named: what such a text is.
  """

  named: ClassVar[str]

  train: str | None = field(None, 'Rows to train on.')
  validation: str | None = field(
    None, 'Rows to evaluate on; none is a part of the others: --task.split.'
  )

  def missing(self) -> Iterator[FieldError]:
    """Yields fields without which there is nothing to read."""
    if self.train is None:
      yield FieldError('train', None, f'must be given: {self.named}')

  @abc.abstractmethod
  def rows(self, name: str, columns: Sequence[str]) -> Rows:
    """Returns the rows of the part that is named so."""

  def part(self, part: Part, columns: Sequence[str]) -> Rows | None:
    """Returns the rows of a part, or none where it was not given."""
    name = vars(self)[part]
    return None if name is None else self.rows(name, columns)


@dataclasses.dataclass(frozen=True)
class Lines(Named, tag='lines'):
  """Parallel text files, line by line: PREFIX.en and PREFIX.de, or .gz."""

  named: ClassVar[str] = (
    'PREFIX of parallel files, such as PREFIX.en and PREFIX.de '
    '(--task.data.suffixes)'
  )

  suffixes: str = field('en,de', 'Comma list of what follows each prefix.')

  def rows(self, name: str, columns: Sequence[str]) -> Rows:
    """Returns the lines of the files with this prefix."""
    suffixes = self.suffixes.split(',')
    if len(suffixes) != len(columns):
      raise DataError(
        f'--task.data.suffixes={self.suffixes}: must name a file for each of '
        f'{", ".join(columns)}'
      )
    paths = [_plain_or_packed(f'{name}.{suffix}') for suffix in suffixes]
    found = tuple(lines(read_file(path)) for path in paths)
    check_counts([str(path) for path in paths], found)
    return Rows(name, found)


@dataclasses.dataclass(frozen=True)
class Jsonl(Named, tag='jsonl'):
  """JSON lines: an object a row, with a key for each column."""

  named: ClassVar[str] = 'FILE of JSON objects, one a line'

  keys: str | None = field(
    None, 'Comma list of keys, with dots into objects; none is as the task.'
  )

  def rows(self, name: str, columns: Sequence[str]) -> Rows:
    """Returns the rows of the file."""
    paths = key_paths(self.keys, columns)
    found: tuple[list[str], ...] = tuple([] for _ in paths)
    for number, line in enumerate(lines(read_file(pathlib.Path(name))), 1):
      where = f'{name}: line {number}'
      if not line.strip():
        for column in found:
          column.append('')
        continue
      try:
        value = json.loads(line, object_pairs_hook=once)
      except Twice as e:
        raise DataError(
          f'{where} has the key {e.key!r} twice: leave one out'
        ) from e
      except json.JSONDecodeError as e:
        raise DataError(
          f'{where} is not JSON ({e.msg} at character {e.colno}): mend it, or '
          'leave the line out'
        ) from e
      except (ValueError, RecursionError) as e:  # a number too long, too deep
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
  """Returns rows, those to judge where they are of their own, and notes.

  Args:
    table: where rows come from.
    columns: what the task reads.

  Raises:
    FieldError: it was not given what to read.
    DataError: it has no row, or a row is not what it must be.
  """
  for problem in table.missing():
    raise problem.under('task.data.')
  found = table.part('train', columns)
  assert found is not None
  train, empty = _whole(found)
  other = table.part('validation', columns)
  held = None
  if other is not None:
    held, more = _whole(other)
    empty += more
  if not (train.count or (held and held.count)):
    raise DataError(f'{train.name}: has no row to use: give more of them')
  said = [note for part in (train, held) if part for note in part.notes]
  notes = list(dict.fromkeys(said))
  if empty:
    notes.append(f'{empty:,} with an empty text left out')
  return train, held, notes


def _whole(rows: Rows) -> tuple[Rows, int]:
  """Returns the rows whose texts are not empty, and how many are."""
  whole = [all(map(str.strip, row)) for row in zip(*rows.columns, strict=True)]
  rows = rows._replace(numbers=range(1, rows.count + 1))
  return rows.chosen(whole), whole.count(False)


def lines(text: str) -> list[str]:
  r"""Returns the lines of a text: \n ends one, and no other character does.

  str.splitlines would also split at a form feed or U+2028, of which one of two
  parallel files may have more.
  """
  found = text.removesuffix('\n').split('\n') if text else []
  return [line.removesuffix('\r') for line in found]


def check_counts(names: Sequence[str], columns: Sequence[list[str]]) -> None:
  """Raises a DataError unless all files have equally many lines."""
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
  # os.path, for pathlib raises where a name is too long or out of reach.
  chosen = os.path.exists(packed) and not os.path.exists(name)
  return pathlib.Path(packed if chosen else name)
