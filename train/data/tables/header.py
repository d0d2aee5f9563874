"""Detects whether the first line of a table names its columns or is a row.

If names were taken for a row, they would add a class of their own.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from train.core.errors import DataError

NAME = re.compile(r'[^\W\d]\w{0,29}')  # a possible name of a column
_TEXTS = (
  'text texts sentence sentences review document content body comment tweet '
  'message title headline question query utterance input abstract'
)
_LABELS = (
  'label labels class category target sentiment gold tag intent topic rating '
  'stars language lang emotion polarity genre y'
)
_LANGUAGES = (
  'cs de en es fr it ja nl pl pt ro ru tr uk zh czech german english spanish '
  'french'
)
# Usual names in files for the columns of a task.
USUAL = {
  'text': _TEXTS.split(),
  'label': _LABELS.split(),
  'source': ['source', 'src', 'input', *_LANGUAGES.split()],
  'target': ['target', 'tgt', 'trg', 'output', *_LANGUAGES.split()],
}


class CellLine(NamedTuple):
  """A row of a file: number of the line where it begins, and its cells."""

  number: int
  cells: Sequence[str]


def column_index(name: str, column: str, header: Sequence[str]) -> int:
  """Returns the index of a column in a header.

  Args:
    name: name of the file, for the error message.
    column: the name to find.
    header: the names in the first line.

  Raises:
    DataError: the header does not have the name exactly once.
  """
  if (count := list(header).count(column)) != 1:
    raise DataError(
      f'{name}: has {count or "no"} column{"s" * (count > 1)} {column}: its '
      f'first line names {", ".join(header)}: name those to read by '
      '--task.data.keys'
    )
  return list(header).index(column)


def find_columns(
  columns: Sequence[str], found: Sequence[CellLine]
) -> list[int] | None:
  """Returns the index of each column, or None if the first line is a row.

  Args:
    columns: names that the task has for its columns.
    found: all lines of the file.
  """
  first = [cell.strip() for cell in found[0].cells]
  places = _find_usual(columns, first)
  if places is None:
    return (
      list(range(len(columns))) if _looks_like_header(columns, found) else None
    )
  if columns[-1] == 'label':
    label = places[-1]
    for _, cells in found:
      other = [cell.strip() for cell in cells]
      alike = len(other) == len(first) and other[label] == first[label]
      if alike and other != first:
        return None  # other rows have the same label: the first is a row too
  return places


def _find_usual(
  columns: Sequence[str], cells: Sequence[str]
) -> list[int] | None:
  """Returns the index of each column, if a line has usual names for all."""
  folded = [cell.casefold() for cell in cells]
  places: list[int] = []
  for n, column in enumerate(columns):
    usual = [k for k, cell in enumerate(folded) if cell in USUAL[column]]
    exact = [k for k in usual if folded[k] == column]
    # A language may name the source or the target: its position decides.
    if len(cells) == len(columns) and not exact:
      usual = [k for k in usual if k == n] or usual
    if len(chosen := exact or usual) != 1:
      return None
    places += chosen
  return places if len(set(places)) == len(places) else None


def _looks_like_header(
  columns: Sequence[str], found: Sequence[CellLine]
) -> bool:
  """Returns whether the first line of a labelled table cannot be a row.

  That is so if no other line has its label, its cells are possible names, and
  either all other labels are numbers or all other texts are more than a word.
  """
  rows = [line.cells for line in found if len(line.cells) == len(columns)]
  if (
    tuple(columns[1:]) != ('label',)
    or len(rows) < 4
    or rows[0] != found[0].cells
  ):
    return False
  first, *others = ([cell.strip() for cell in cells] for cells in rows)
  labels = Counter(cells[1] for cells in others)
  if first[1] in labels or not all(map(NAME.fullmatch, first)):
    return False
  words = any(NAME.fullmatch(cells[0]) for cells in others)
  numbers = all(label.lstrip('-').isdecimal() for label in labels)
  return numbers or (not words and min(labels.values()) > 1)
