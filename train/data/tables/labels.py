"""Labels of rows: normalization, descriptions, and checks for useless ones."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from train.core.errors import DataError
from train.data.tables.base import Rows

FEW = 4  # a message names at most so many labels
SHOWN = 24  # and so many characters of each


def normalize_labels(parts: Sequence[Rows]) -> tuple[list[Rows], list[str]]:
  """Normalizes white space in labels, so that it does not tell them apart.

  Args:
    parts: rows with a label in their last column.

  Returns:
    The rows with normalized labels, and remarks.
  """
  found = []
  for part in parts:
    labels = [' '.join(label.split()) for label in part.columns[-1]]
    found.append(part._replace(columns=(*part.columns[:-1], labels)))
  before, after = (
    {label for part in every for label in part.columns[-1]}
    for every in (parts, found)
  )
  notes = []
  if other := sorted(before - after):
    notes.append(
      f'white space of labels cut ({_name_some(other)}): '
      f'{len(after):,} are left of {len(before):,}'
    )
  return found, [*notes, *_lookalikes(after)]


def _lookalikes(labels: Iterable[str]) -> Iterator[str]:
  """Yields remarks on labels that differ only in case or Unicode form."""
  found: defaultdict[str, list[str]] = defaultdict(list)
  for label in sorted(labels):
    plain = unicodedata.normalize('NFKC', label).casefold()
    seen = [c for c in plain if unicodedata.category(c) != 'Cf']
    found[''.join(seen)].append(label)
  for several in found.values():
    if len(several) > 1:
      yield f'labels that differ in case or form alone: {_name_some(several)}'


def check_several(parts: Sequence[Rows]) -> None:
  """Raises a DataError if all rows have the same label."""
  labels = {label for part in parts for label in part.columns[-1]}
  if len(labels) == 1:
    raise DataError(
      f'{parts[0].name}: all rows have the label {labels.pop()[:SHOWN]!r}: '
      'there is nothing to learn: give rows with another label'
    )


def check_parts(train: Rows, held: Rows, drawn: bool) -> None:
  """Raises a DataError if all rows of one part have the same label.

  Args:
    train: rows to train on.
    held: rows to evaluate on.
    drawn: whether both were split off from one table.
  """
  fix = 'give rows with another label'
  if drawn:
    fix += ', in at least two texts, and let --task.split=hash draw of each'
  for part, use in ((train, 'train'), (held, 'evaluate')):
    labels = set(part.columns[-1])
    if len(labels) == 1:
      raise DataError(
        f'{part.name}: all rows to {use} on have the label '
        f'{labels.pop()[:SHOWN]!r}, so always saying it would be right: {fix}'
      )


def no_pair(rows: Rows) -> DataError:
  """Returns the error for rows where no label has two different texts."""
  labels = rows.columns[-1]
  return DataError(
    f'{rows.name}: no label has two different texts ({len(set(labels)):,} '
    f'labels of {len(labels):,} rows), so none can be evaluated: give more '
    'rows, with the text first and the label last'
  )


def counts(labels: Sequence[str]) -> str:
  """Describes how many rows each label has, or the range if there are many."""
  found = Counter(labels)
  if len(found) <= FEW:
    each = ((label, found[label]) for label in sorted(found))
    return ', '.join(f'{label[:SHOWN]} {count:,}' for label, count in each)
  least, most = min(found.values()), max(found.values())
  return f'{len(found):,} labels of {least:,} to {most:,} rows'


def contradictions(keys: Sequence[str], labels: Sequence[str]) -> Iterator[str]:
  """Yields a remark on texts that have several labels, if there are any.

  Args:
    keys: text of each row, normalized.
    labels: label of each row.
  """
  found: defaultdict[str, set[str]] = defaultdict(set)
  for key, label in zip(keys, labels, strict=True):
    found[key].add(label)
  if count := sum(len(several) > 1 for several in found.values()):
    yield f'{count:,} texts have several labels'


def describe_unevaluated(train: Rows, held: Rows) -> Iterator[str]:
  """Yields a remark on labels that no validation row has, if there are any."""
  if rest := sorted({*train.columns[-1]} - {*held.columns[-1]}):
    yield f'{len(rest):,} labels trained on, not judged: {_name_some(rest)}'


def _name_some(labels: Sequence[str]) -> str:
  shown = ', '.join(repr(label[:SHOWN]) for label in labels[:FEW])
  more = len(labels) - FEW
  return f'{shown} and {more:,} more' if more > 0 else shown
