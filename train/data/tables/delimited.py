"""CSV and TSV: tables with commas or tabs between cells."""

import abc
import contextlib
import csv
import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import ClassVar

from model.core.field import FieldError, field
from train.core.errors import DataError
from train.data.tables.base import NamedTable, Rows, split_lines
from train.data.tables.header import CellLine, column_index, find_columns
from train.data.textfile import read_file

MAX_FIELD_SIZE = (
  2**31 - 1
)  # limit of characters of a cell: longer than any text
SHOWN = 30  # a message shows at most so many characters of a line


@dataclasses.dataclass(frozen=True)
class Delimited(NamedTable, abc.ABC):
  """What CSV and TSV share.

  Attributes:
    between: the delimiter of columns, in words.
    other: the delimiter of the other format, and the tag of that format.
  """

  between: ClassVar[str]
  other: ClassVar[tuple[str, str]]

  header: bool | None = field(
    None, 'Whether the first line names the columns; `none` detects it.'
  )
  keys: str | None = field(
    None,
    'Comma list of the names of the columns in the first line; `none` takes '
    'the names that the task has for them.',
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields an error for each rule between fields that is broken."""
    if self.keys is not None and self.header is False:
      yield FieldError(
        'keys',
        self.keys,
        'are names in a first line: drop it, or --task.data.header=false',
      )

  @abc.abstractmethod
  def cells(self, name: str, text: str) -> tuple[list[CellLine], list[str]]:
    """Splits the text of a file into rows and cells.

    Args:
      name: name of the file, for messages.
      text: the text of the file.

    Returns:
      The rows, where a blank one has no cells, and remarks on how they were
      read.

    Raises:
      DataError: the text does not have this format.
    """

  def rows(self, name: str, columns: Sequence[str]) -> Rows:
    """Returns the rows of the file."""
    found, notes = self.cells(name, read_file(pathlib.Path(name)))
    places = self._header_places(name, columns, found)
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

  def _header_places(
    self, name: str, columns: Sequence[str], found: Sequence[CellLine]
  ) -> list[int] | None:
    """Returns the place of each column in the header, or None without one."""
    if self.header is False or not (found and found[0].cells):
      return None
    if not (self.header or self.keys):
      return find_columns(columns, found)
    wanted = columns if self.keys is None else self.keys.split(',')
    if len(wanted) != len(columns):
      raise DataError(
        f'--task.data.keys={self.keys}: must name a column for each of '
        f'{", ".join(columns)}'
      )
    names = [cell.strip() for cell in found[0].cells]
    return [column_index(name, column, names) for column in wanted]


@dataclasses.dataclass(frozen=True)
class CsvTable(Delimited, tag='csv'):
  """Columns separated by commas, ordered as in the task or by a header.

  As in RFC 4180 and spreadsheets: a field may be in quotes, and then contain
  doubled quotes and line breaks.  Spaces before a field are removed.
  """

  named: ClassVar[str] = 'FILE of rows, with commas between columns'
  between: ClassVar[str] = 'a comma'
  other: ClassVar[tuple[str, str]] = '\t', 'tsv'

  def cells(self, name: str, text: str) -> tuple[list[CellLine], list[str]]:
    """Splits the text of a file; remarks on fields with line breaks."""
    found = list(_parse_csv(name, text, ','))
    broken = sum('\n' in cell for line in found for cell in line.cells)
    return found, [f'{broken:,} fields with line breaks'] if broken else []


@dataclasses.dataclass(frozen=True)
class Tsv(Delimited, tag='tsv'):
  """Columns separated by tabs, ordered as in the task or by a header."""

  named: ClassVar[str] = 'FILE of rows, with tabs between columns'
  between: ClassVar[str] = 'a tab'
  other: ClassVar[tuple[str, str]] = ',', 'csv'

  quotes: bool | None = field(
    None, 'Whether quotes are read as in `csv`; `none` detects it.'
  )

  def cells(self, name: str, text: str) -> tuple[list[CellLine], list[str]]:
    """Splits the text of a file; remarks on how quotes were read."""
    if self.quotes:
      return list(_parse_csv(name, text, '\t')), []
    plain = [
      CellLine(number, line.split('\t') if line else [])
      for number, line in enumerate(split_lines(text), 1)
    ]
    marked = any(c.startswith('"') for line in plain for c in line.cells)
    if self.quotes is False or not marked:
      return plain, []
    try:
      found = list(_parse_csv(name, text, '\t'))
    except DataError:
      found = []
    # Otherwise the quotes are text, and open in one row and close in another.
    whole = not any({*'\t\n'} <= {*c} for line in found for c in line.cells)
    if whole and len({len(line.cells) for line in found if line.cells}) == 1:
      return found, [
        'quotes around fields left out (--task.data.quotes=false keeps them)'
      ]
    return plain, [
      'quotes at the beginning of fields are text (--task.data.quotes=true '
      'reads them as in csv)'
    ]


def _parse_csv(name: str, text: str, delimiter: str) -> Iterator[CellLine]:
  """Yields the rows of a text, parsed by Python's csv module.

  Raises:
    DataError: a quote is never closed, or text follows a closing quote.
  """
  reader = csv.reader(
    (f'{line}\n' for line in text.removesuffix('\n').split('\n')),
    delimiter=delimiter,
    strict=True,
    skipinitialspace=delimiter == ',',
  )
  with _unlimited_field_size():
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
      yield CellLine(number, cells if any(map(str.strip, cells)) else [])


@contextlib.contextmanager
def _unlimited_field_size() -> Iterator[None]:
  """Allows fields longer than the default limit of 131,072 characters."""
  before = csv.field_size_limit(MAX_FIELD_SIZE)
  try:
    yield
  finally:
    csv.field_size_limit(before)
