"""Tables in lines, with commas or tabs between cells: CSV and TSV."""

import abc
import contextlib
import csv
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import ClassVar

from model.field import FieldError, field
from train.header import Line, named, place
from train.table import Named, Rows, lines
from train.task import DataError
from train.textfile import read_file

LONGEST = 2**31 - 1  # characters of a field: as long as any text
SHOWN = 30  # characters of a line that a message shows


@dataclasses.dataclass(frozen=True)
class Delimited(Named, abc.ABC):
  """What tables in lines of cells share.

  Attributes:
    between: what stands between two columns, in words.
    other: what stands there in the other form of tables, and its name.
  """

  between: ClassVar[str]
  other: ClassVar[tuple[str, str]]

  header: bool | None = field(
    None, 'The first line names the columns; none finds out, and says so.'
  )
  keys: str | None = field(
    None, 'Comma list of names in the first line; none is as the task.'
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields what is wrong between fields."""
    if self.keys is not None and self.header is False:
      yield FieldError(
        'keys',
        self.keys,
        'are names in a first line: drop it, or --task.data.header=false',
      )

  @abc.abstractmethod
  def cells(self, name: str, text: str) -> tuple[list[Line], list[str]]:
    """Returns the lines of a file with their cells, and what is said of them.

    A line without any text has no cells.

    Args:
      name: of the file.
      text: all of it.

    Raises:
      DataError: it is not what it must be.
    """

  def rows(self, name: str, columns: Sequence[str]) -> Rows:
    """Returns the rows of the file."""
    found, notes = self.cells(name, read_file(pathlib.Path(name)))
    places = self._named(name, columns, found)
    width = len(columns)
    body = found
    if places is None:
      places = list(range(width))
    else:
      width, first = len(found[0].cells), found[0].cells
      body = [line for line in found if line.cells != first]
      if again := len(found) - len(body) - 1:
        notes.append(f'{again:,} lines like the first, of names, left out')
      if self.header is None and self.keys is None:
        shown = ', '.join(first)[:SHOWN]
        notes.append(
          f'its first line ({shown}) taken for names of columns, not for a row '
          '(--task.data.header=false takes it for one)'
        )
    for line in body:
      if line.cells and len(line.cells) != width:
        mark, form = self.other
        alone = len(line.cells) == 1 and mark in line.cells[0]
        raise DataError(
          f'{name}: line {line.number} has {len(line.cells)} columns, not '
          f'{width} ({", ".join(columns)}): {line.cells[0][:SHOWN]!r}: put '
          f'{self.between} between columns'
          f'{f", or try --task.data={form}" if alone else ""}'
        )
    return Rows(
      name,
      tuple([x.cells[n] if x.cells else '' for x in body] for n in places),
      notes=tuple(notes),
    )

  def _named(
    self, name: str, columns: Sequence[str], found: Sequence[Line]
  ) -> list[int] | None:
    """Returns where a first line of names has each column, if it is one."""
    if self.header is False or not (found and found[0].cells):
      return None
    if not (self.header or self.keys):
      return named(columns, found)
    wanted = columns if self.keys is None else self.keys.split(',')
    if len(wanted) != len(columns):
      raise DataError(
        f'--task.data.keys={self.keys}: must name a column for each of '
        f'{", ".join(columns)}'
      )
    names = [cell.strip() for cell in found[0].cells]
    return [place(name, column, names) for column in wanted]


@dataclasses.dataclass(frozen=True)
class Csv(Delimited, tag='csv'):
  """Columns between commas, in the order of the task or as a header has them.

  As RFC 4180 and spreadsheets write it: quotes around a field, doubled in one,
  line breaks within.  Spaces before a field are left out.
  """

  named: ClassVar[str] = 'FILE of rows, with commas between columns'
  between: ClassVar[str] = 'a comma'
  other: ClassVar[tuple[str, str]] = '\t', 'tsv'

  def cells(self, name: str, text: str) -> tuple[list[Line], list[str]]:
    """Returns the lines of a file, and how many fields have several."""
    found = list(_parsed(name, text, ','))
    broken = sum('\n' in cell for line in found for cell in line.cells)
    return found, [f'{broken:,} fields with line breaks'] if broken else []


@dataclasses.dataclass(frozen=True)
class Tsv(Delimited, tag='tsv'):
  """Columns between tabs, in the order of the task or as a header has them."""

  named: ClassVar[str] = 'FILE of rows, with tabs between columns'
  between: ClassVar[str] = 'a tab'
  other: ClassVar[tuple[str, str]] = ',', 'csv'

  quotes: bool | None = field(
    None, 'Fields in quotes are read as in csv; none finds out, and says so.'
  )

  def cells(self, name: str, text: str) -> tuple[list[Line], list[str]]:
    """Returns the lines of a file, and what was made of its quotes."""
    if self.quotes:
      return list(_parsed(name, text, '\t')), []
    plain = [
      Line(number, line.split('\t') if line else [])
      for number, line in enumerate(lines(text), 1)
    ]
    marked = any(c.startswith('"') for line in plain for c in line.cells)
    if self.quotes is False or not marked:
      return plain, []
    try:
      found = list(_parsed(name, text, '\t'))
    except DataError:
      found = []
    # Else text with a quote that opens in one row and closes in another.
    whole = not any({*'\t\n'} <= {*c} for line in found for c in line.cells)
    if whole and len({len(line.cells) for line in found if line.cells}) == 1:
      return found, [
        'quotes around fields left out (--task.data.quotes=false keeps them)'
      ]
    return plain, [
      'quotes at the beginning of fields are text (--task.data.quotes=true '
      'reads them as in csv)'
    ]


def _parsed(name: str, text: str, delimiter: str) -> Iterator[Line]:
  """Returns the rows of a text as Python's reader of csv finds them.

  Raises:
    DataError: a quote is never closed, or goes on behind its end.
  """
  reader = csv.reader(
    (f'{line}\n' for line in text.removesuffix('\n').split('\n')),
    delimiter=delimiter,
    strict=True,
    skipinitialspace=delimiter == ',',
  )
  with _any_length():
    while True:
      number = reader.line_num + 1
      try:
        cells = next(reader, None)
      except csv.Error as e:
        last = reader.line_num
        lasts = f' to {last}' if last > number else ''
        raise DataError(
          f'{name}: line {number}{lasts} cannot be read as csv ({e}): close '
          'the quotes of each field, and double those within'
        ) from e
      if cells is None:
        return
      yield Line(number, cells if any(map(str.strip, cells)) else [])


@contextlib.contextmanager
def _any_length() -> Iterator[None]:
  """Lets fields be longer than 131,072 characters."""
  before = csv.field_size_limit(LONGEST)
  try:
    yield
  finally:
    csv.field_size_limit(before)
