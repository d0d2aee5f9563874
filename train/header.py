"""The first line of a table: names of its columns, or a row.

Names that are taken for a row would be a class of their own.  Where no flag
says what the line is, it is found out.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from train.task import DataError

NAME = re.compile(r'[^\W\d]\w{0,29}')  # what may be the name of a column
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
# What columns of a task are called in files.
USUAL = {
  'text': _TEXTS.split(),
  'label': _LABELS.split(),
  'source': ['source', 'src', 'input', *_LANGUAGES.split()],
  'target': ['target', 'tgt', 'trg', 'output', *_LANGUAGES.split()],
}


class Line(NamedTuple):
  """A row of a file: the line where it begins, and its cells."""

  number: int
  cells: Sequence[str]


def place(name: str, column: str, header: Sequence[str]) -> int:
  """Returns where a first line has a name, which must be there once.

  Raises:
    DataError: it is not.
  """
  if (count := list(header).count(column)) != 1:
    raise DataError(
      f'{name}: has {count or "no"} column{"s" * (count > 1)} {column}: its '
      f'first line names {", ".join(header)}: name those to read by '
      '--task.data.keys'
    )
  return list(header).index(column)


def named(columns: Sequence[str], found: Sequence[Line]) -> list[int] | None:
  """Returns where columns are, if the first of all lines has their names."""
  first = [cell.strip() for cell in found[0].cells]
  places = _known(columns, first)
  if places is None:
    return list(range(len(columns))) if _stands_out(columns, found) else None
  if columns[-1] == 'label':
    label = places[-1]
    for _, cells in found:
      other = [cell.strip() for cell in cells]
      alike = len(other) == len(first) and other[label] == first[label]
      if alike and other != first:
        return None  # a label like others
  return places


def _known(columns: Sequence[str], cells: Sequence[str]) -> list[int] | None:
  """Returns where columns are, if a line has a usual name for each of them."""
  folded = [cell.casefold() for cell in cells]
  places: list[int] = []
  for n, column in enumerate(columns):
    usual = [k for k, cell in enumerate(folded) if cell in USUAL[column]]
    exact = [k for k in usual if folded[k] == column]
    # Languages are names of the source and of the target: the first, the next.
    if len(cells) == len(columns) and not exact:
      usual = [k for k in usual if k == n] or usual
    if len(chosen := exact or usual) != 1:
      return None
    places += chosen
  return places if len(set(places)) == len(places) else None


def _stands_out(columns: Sequence[str], found: Sequence[Line]) -> bool:
  """Returns whether the first line is unlike a row with a label.

  No other has its label, and all cells may be names, where texts of others are
  more than a word or their labels are numbers.
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
