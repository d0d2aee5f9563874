"""Tables in two parts: training rows and validation rows, with remarks on both.

Validation rows that measure nothing are refused: those that all have one label,
and those that are all trained on.  What may mislead is remarked.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from model.core.field import FieldError
from train.core.errors import DataError
from train.data.splits.splits import FileSplit, Split
from train.data.tables import labels
from train.data.tables.base import NamedTable, Rows, Table, read_parts


class TableSplit(NamedTuple):
  """A table, split into a training part and a validation part.

  Attributes:
    train: rows to train on; None if all are for validation.
    held: rows to evaluate on.
    said: a description of each part: its size, labels and origin.
    notes: remarks on what was changed or may mislead.
  """

  train: Rows | None
  held: Rows
  said: list[str]
  notes: list[str]

  @property
  def by_name(self) -> dict[str, Rows]:
    """Returns the parts by name: `train`, if there is one, and `validation`."""
    train = {} if self.train is None else {'train': self.train}
    return {**train, 'validation': self.held}

  @property
  def digest(self) -> str:
    """Returns the sha256 of all texts and of their lengths."""
    whole = hashlib.sha256()
    for part in self.by_name.values():
      for column in part.columns:
        whole.update(f'{len(column)}\n'.encode())
        for text in column:
          data = text.encode()
          whole.update(f'{len(data)}\n'.encode() + data)
    return whole.hexdigest()


def split_table(
  split: Split, table: Table, columns: Sequence[str], texts: int
) -> TableSplit:
  """Reads a table and splits it into a training part and a validation part.

  Args:
    split: the split, if the table has no validation part of its own.
    table: the table.
    columns: names of the columns to read; a label, if any, is the last.
    texts: how many of the columns are texts.

  Raises:
    FieldError: the table lacks a value that it needs, or the split has no
      effect.
    DataError: a part is empty, or evaluating on it would measure nothing.
  """
  table = with_validation_file(split, table)
  found, held, notes = read_parts(table, columns)
  labelled = len(columns) > texts
  parts = [found] if held is None else [found, held]
  if labelled:
    parts, more = labels.normalize_labels(parts)
    labels.check_several(parts)
    notes += more
  if len(parts) > 1:
    train, held = parts
    where = f'all of {held.name}'
    _check_split(split, train.name)
  else:
    train, held, where = _split_rows(split, parts[0], labelled)
  for part, use in ((train, 'train'), (held, 'evaluate')):
    if not part.count:
      raise DataError(
        f'{part.name}: leaves no row to {use} on: give more, or '
        '--task.data.validation'
      )
  if labelled:
    labels.check_parts(train, held, drawn=len(parts) == 1)
    notes += _contradictions(parts)
    notes += labels.describe_unevaluated(train, held)
  notes += _overlap(train, held, texts)
  trained = f'{train.count:,} rows to train on{_labels(train, labelled)}'
  return TableSplit(
    train, held, [trained, _describe_held(held, labelled, where)], notes
  )


def _split_rows(
  split: Split, rows: Rows, labelled: bool
) -> tuple[Rows, Rows, str]:
  """Returns training rows, validation rows, and how those were chosen."""
  kinds = rows.columns[-1] if labelled else None
  found = split.judged(_keys(rows, 1), kinds)
  held = rows.chosen(found.rows)
  if not held.count and rows.count > 1:
    raise labels.no_pair(rows) if labelled else _single_text_error(rows)
  train = rows.chosen([not is_held for is_held in found.rows])
  return train, held, f'{found.said} (--task.split={found.split.tag})'


def validation_rows_only(
  table: Table, columns: Sequence[str], texts: int
) -> TableSplit:
  """Reads a table as a validation part alone, to evaluate a trained model.

  If the table has a validation part of its own, that is used, else all of it.

  Raises:
    FieldError: the table lacks a value that it needs.
    DataError: it is empty, or a row is invalid.
  """
  train, other, notes = read_parts(table, columns)
  held = train if other is None else other
  if not held.count:
    raise DataError(f'{held.name}: has no row to use: give more of them')
  labelled = len(columns) > texts
  if labelled:
    (held,), more = labels.normalize_labels([held])
    notes += [*more, *_contradictions([held])]
  said = _describe_held(held, labelled, f'all of {held.name}')
  return TableSplit(None, held, [said], notes)


def _describe_held(held: Rows, labelled: bool, where: str) -> str:
  return f'validation: {held.count:,} rows{_labels(held, labelled)}, {where}'


def _labels(rows: Rows, labelled: bool) -> str:
  return f' ({labels.counts(rows.columns[-1])})' if labelled else ''


def _contradictions(parts: Sequence[Rows]) -> Iterator[str]:
  keys = [key for part in parts for key in _keys(part, 1)]
  return labels.contradictions(
    keys, [label for part in parts for label in part.columns[-1]]
  )


def _single_text_error(rows: Rows) -> DataError:
  return DataError(
    f'{rows.name}: all {rows.count:,} rows have one text, and rows with '
    'equal texts are in one part: give others, or --task.split=tail'
  )


def _check_split(split: Split, name: str) -> None:
  """Raises a FieldError if the split conflicts with a validation part."""
  if not split.is_overridable:
    raise _no_effect(split, name)


def _no_effect(split: Split, name: str) -> FieldError:
  return FieldError(
    'task.split',
    split,
    f'has no effect on {name}, which has a validation part: drop one',
  )


def with_validation_file(split: Split, table: Table) -> Table:
  """Returns a table with the file of --task.split=file as its validation part.

  With another split, it is returned unchanged.

  Raises:
    FieldError: the table has a validation part already, or cannot have one, or
      the split names no file.
  """
  if not isinstance(split, FileSplit) or table.is_absent:
    return table
  if not isinstance(table, NamedTable):
    raise _no_effect(split, f'--task.data={table.tag}')
  if split.path is None:
    raise FieldError(
      'task.split.path', None, f'must be given: {table.named}, to judge'
    )
  if table.validation is not None:
    raise FieldError(
      'task.split.path',
      split.path,
      f'and --task.data.validation={table.validation} are the same: drop one',
    )
  return dataclasses.replace(table, validation=split.path)


def _keys(rows: Rows, texts: int) -> list[str]:
  """Returns for each row its first texts, with white space normalized."""
  columns = ([' '.join(t.split()) for t in c] for c in rows.columns[:texts])
  return ['\t'.join(row) for row in zip(*columns, strict=True)]


def _overlap(train: Rows, held: Rows, texts: int) -> Iterator[str]:
  """Yields remarks on validation rows that are trained on, or are duplicates.

  Rows that differ only in white space count as equal.

  Raises:
    DataError: all validation rows are trained on.
  """
  known = set(_keys(train, texts))
  seen = sum(key in known for key in _keys(held, texts))
  if seen == held.count:
    raise DataError(
      f'{held.name}: all {seen:,} rows of its validation part are in the '
      'training part, so their loss would measure nothing but memory: remove '
      'the duplicates, or give other rows by --task.data.validation'
    )
  if seen:
    yield (
      f'{seen:,} of its {held.count:,} rows ({seen / held.count:.2%}) are '
      'trained on'
    )
  if (several := len(set(_keys(held, texts)))) < held.count:
    yield f'{several:,} different texts among its {held.count:,} rows'
  if texts > 1:
    known = set(_keys(train, 1))
    others = sum(key in known for key in _keys(held, 1)) - seen
    if others:
      yield f'{others:,} rows with a source that has another target in training'
