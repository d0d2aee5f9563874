"""The figures of a bench: as tables for a terminal, and as one JSON file."""

import dataclasses
import datetime
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from rich import box, console, table, text

from experiments.messages.escapes import escape_name
from experiments.messages.formats import MISSING
from experiments.messages.streams import warn
from train.files.durable import write_json

WIDTH = 80
FORMAT = 1


def whole(value: float) -> str:
  """Returns a number without decimals, with commas."""
  return f'{value:,.0f}'


def digits(value: float) -> str:
  """Returns a number with three significant digits, or all before the dot."""
  if abs(value) >= 100:
    return whole(value)
  return f'{value:.1f}' if abs(value) >= 10 else f'{value:.2f}'


def times(value: float) -> str:
  """Returns a ratio."""
  return f'{value:.2f}x'


def percent(value: float) -> str:
  """Returns a share as a percentage."""
  return f'{100 * value:.1f} %'


def size(value: float) -> str:
  """Returns a number of bytes in MB or GB."""
  return f'{value / 1e9:.1f} GB' if value >= 1e9 else f'{value / 1e6:,.1f} MB'


class Column(NamedTuple):
  """A column: its key in JSON, its head, and how a number is shown."""

  key: str
  head: str
  show: Callable[[Any], str] = str


# Columns of several parts.
WHAT = Column('what', 'what')
BEST_MS = Column('best_ms', 'best ms', digits)
MEDIAN_MS = Column('median_ms', 'median ms', digits)
BEST_SECONDS = Column('best_seconds', 'best s', digits)
MEDIAN_SECONDS = Column('median_seconds', 'median s', digits)
TOKENS = Column('tokens_per_second', 'tokens /s', whole)
MEMORY = Column('peak_bytes', 'memory', size)
COMPILE = Column('compile_seconds', 'compile s', digits)
SLOWER = Column('slower', 'time of the first', times)


@dataclasses.dataclass
class Section:
  """What one part measured.

  Attributes:
    part: name of the part.
    title: what it measures.
    columns: that the terminal shows; rows may have further keys.
    rows: the figures, by key; `of` names the group of a row.
    notes: what was left out, and why.
  """

  part: str
  title: str
  columns: Sequence[Column]
  rows: list[Mapping[str, Any]] = dataclasses.field(default_factory=list)
  notes: list[str] = dataclasses.field(default_factory=list)

  def rendered(self) -> console.Group:
    """Returns the section as tables of its groups, under its title."""
    widths = [
      max(len(line) for line in [*column.head.split(), *shown])
      for column, shown in zip(self.columns, self._cells(), strict=True)
    ]
    gaps = len(widths) - 1
    widths[0] = max(8, WIDTH - gaps - sum(widths[1:]))
    parts: list[console.RenderableType] = [text.Text(self.title, 'bold'), '']
    for group in dict.fromkeys(row.get('of') for row in self.rows):
      if group is not None:
        parts.append(text.Text(escape_name(group), 'italic'))
      made = table.Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
      for number, column in enumerate(self.columns):
        made.add_column(
          column.head,
          justify='right' if number else 'left',
          width=widths[number],
          overflow='fold',
        )
      for row in self.rows:
        if row.get('of') == group:
          made.add_row(*(text.Text(_cell(own, row)) for own in self.columns))
      parts += [made, '']
    parts += [text.Text(escape_name(note), 'yellow') for note in self.notes]
    return console.Group(*parts)

  def _cells(self) -> list[list[str]]:
    """Returns the shown cells of each column."""
    return [[_cell(own, row) for row in self.rows] for own in self.columns]


def _cell(column: Column, row: Mapping[str, Any]) -> str:
  value = row.get(column.key)
  return MISSING if value is None else escape_name(column.show(value))


class Report:
  """The sections so far; each figure is in the file as soon as it is known."""

  def __init__(self, path: pathlib.Path | None, command: Sequence[str]):
    self._path = path
    self._about: dict[str, Any] = {
      'format': FORMAT,
      'command': ' '.join(command),
      'date': datetime.date.today().isoformat(),
    }
    self._sections: list[Section] = []

  def about(self, facts: Mapping[str, Any]) -> None:
    """Keeps what is known of the machine."""
    self._about |= facts
    self._save()

  def begin(self, part: str, title: str, columns: Sequence[Column]) -> Section:
    """Returns a new section."""
    section = Section(part, title, columns)
    self._sections.append(section)
    return section

  def add(self, section: Section, row: Mapping[str, Any]) -> None:
    """Adds a row to a section."""
    section.rows.append(row)
    self._save()

  def note(self, section: Section, line: str) -> None:
    """Adds a note to a section, and prints it at once."""
    section.notes.append(line)
    warn(f'{section.part}: {line}')
    self._save()

  def show(self, section: Section) -> None:
    """Prints a section."""
    console.Console(width=WIDTH, highlight=False).print(section.rendered())

  def _save(self) -> None:
    if self._path is None:
      return
    parts = {
      own.part: {'title': own.title, 'rows': own.rows, 'notes': own.notes}
      for own in self._sections
    }
    write_json(self._path, {**self._about, 'parts': parts})
