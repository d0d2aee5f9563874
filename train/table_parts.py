"""Tables in two parts: rows to train on, rows to judge, and what is said.

What cannot judge is refused: rows of one label, of which always saying it is
right, and rows that are all trained on.  What may mislead is said.
"""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from model.field import FieldError
from train import labels
from train.splits import Auto, File, Split
from train.table import Named, NoTable, Rows, Table, read_parts
from train.task import DataError


class Divided(NamedTuple):
  """Rows to train on, rows to judge, and what is said of them.

  Attributes:
    train: to train on; none where all is judged.
    held: to judge.
    said: how many both are, of which labels, and where these are from.
    notes: what was changed or may mislead.
  """

  train: Rows | None
  held: Rows
  said: list[str]
  notes: list[str]

  @property
  def by_name(self) -> dict[str, Rows]:
    """Returns the parts that there are, by name."""
    train = {} if self.train is None else {'train': self.train}
    return {**train, 'validation': self.held}

  @property
  def digest(self) -> str:
    """Returns the sha256 of all texts and where they begin."""
    whole = hashlib.sha256()
    for part in self.by_name.values():
      for column in part.columns:
        whole.update(f'{len(column)}\n'.encode())
        for text in column:
          data = text.encode()
          whole.update(f'{len(data)}\n'.encode() + data)
    return whole.hexdigest()


def divided_rows(
  split: Split, table: Table, columns: Sequence[str], texts: int
) -> Divided:
  """Returns the rows of a table in two parts.

  Args:
    split: by which they are made, where the table has not two.
    table: where rows come from.
    columns: what the task reads, a label last if there is one.
    texts: how many of these are texts.

  Raises:
    FieldError: it was not given what to read, or the split has no effect.
    DataError: a part is empty, or can judge nothing.
  """
  table = with_file(split, table)
  found, held, notes = read_parts(table, columns)
  labelled = len(columns) > texts
  parts = [found] if held is None else [found, held]
  if labelled:
    parts, more = labels.cleaned(parts)
    labels.check_several(parts)
    notes += more
  if len(parts) > 1:
    train, held = parts
    where = f'all of {held.name}'
    _check_split(split, train.name)
  else:
    train, held, where = _drawn(split, parts[0], labelled)
  for part, use in ((train, 'train'), (held, 'evaluate')):
    if not part.count:
      raise DataError(
        f'{part.name}: leaves no row to {use} on: give more, or '
        '--task.data.validation'
      )
  if labelled:
    labels.check_parts(train, held, drawn=len(parts) == 1)
    notes += _contradictions(parts)
    notes += labels.not_judged(train, held)
  notes += _overlap(train, held, texts)
  trained = f'{train.count:,} rows to train on{_labels(train, labelled)}'
  return Divided(train, held, [trained, _judged(held, labelled, where)], notes)


def _drawn(split: Split, rows: Rows, labelled: bool) -> tuple[Rows, Rows, str]:
  """Returns rows to train on, rows to judge, and how these were chosen."""
  kinds = rows.columns[-1] if labelled else None
  found = split.judged(_keys(rows, 1), kinds)
  held = rows.chosen(found.rows)
  if not held.count and rows.count > 1:
    raise labels.no_pair(rows) if labelled else _one_text(rows)
  train = rows.chosen([not judged for judged in found.rows])
  return train, held, f'{found.said} (--task.split={found.split.tag})'


def all_rows(table: Table, columns: Sequence[str], texts: int) -> Divided:
  """Returns a table of which all rows are judged; of two parts, the second.

  Raises:
    FieldError: it was not given what to read.
    DataError: it is empty, or a row is not what it must be.
  """
  train, other, notes = read_parts(table, columns)
  held = train if other is None else other
  if not held.count:
    raise DataError(f'{held.name}: has no row to use: give more of them')
  labelled = len(columns) > texts
  if labelled:
    (held,), more = labels.cleaned([held])
    notes += [*more, *_contradictions([held])]
  said = _judged(held, labelled, f'all of {held.name}')
  return Divided(None, held, [said], notes)


def _judged(held: Rows, labelled: bool, where: str) -> str:
  return f'validation: {held.count:,} rows{_labels(held, labelled)}, {where}'


def _labels(rows: Rows, labelled: bool) -> str:
  return f' ({labels.counts(rows.columns[-1])})' if labelled else ''


def _contradictions(parts: Sequence[Rows]) -> Iterator[str]:
  keys = [key for part in parts for key in _keys(part, 1)]
  return labels.contradictions(
    keys, [label for part in parts for label in part.columns[-1]]
  )


def _one_text(rows: Rows) -> DataError:
  return DataError(
    f'{rows.name}: all {rows.count:,} rows have one text, and rows of one are '
    'in one part: give others, or --task.split=tail'
  )


def _check_split(split: Split, name: str) -> None:
  """Raises a FieldError for a split beside rows to judge of their own."""
  if not isinstance(split, Auto | File):
    raise _no_effect(split, name)


def _no_effect(split: Split, name: str) -> FieldError:
  return FieldError(
    'task.split',
    split,
    f'has no effect on {name}, which has a validation part: drop one',
  )


def with_file(split: Split, table: Table) -> Table:
  """Returns the table with the rows to judge that the split names, if any.

  Raises:
    FieldError: the table has such rows, or none are named.
  """
  if not isinstance(split, File) or isinstance(table, NoTable):
    return table
  if not isinstance(table, Named):
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
  """Returns the first texts of each row, as far as white space is one."""
  columns = ([' '.join(t.split()) for t in c] for c in rows.columns[:texts])
  return ['\t'.join(row) for row in zip(*columns, strict=True)]


def _overlap(train: Rows, held: Rows, texts: int) -> Iterator[str]:
  """Yields how many rows to judge are trained on, or there twice.

  White space does not tell them apart.

  Raises:
    DataError: all of them are.
  """
  known = set(_keys(train, texts))
  seen = sum(key in known for key in _keys(held, texts))
  if seen == held.count:
    raise DataError(
      f'{held.name}: all {seen:,} rows of its validation part stand in the '
      'training part: nothing is judged but memory: leave out what is there '
      'twice, or give other rows by --task.data.validation'
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
      yield f'{others:,} rows of a source that is trained on otherwise'
