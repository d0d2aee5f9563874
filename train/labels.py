"""Labels of rows: what they are read as, and what cannot be judged by them."""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

from train.table import Rows
from train.task import DataError

FEW = 4  # labels of which each is named
SHOWN = 24  # characters of a label in a sentence


def cleaned(parts: Sequence[Rows]) -> tuple[list[Rows], list[str]]:
  """Returns rows whose labels are without white space around, and notes.

  Labels that differ in white space are one.

  Args:
    parts: rows with a label in their last column.
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
      f'white space of labels cut ({_names(other)}): {len(after):,} are left '
      f'of {len(before):,}'
    )
  return found, [*notes, *_alike(after)]


def _alike(labels: Iterable[str]) -> Iterator[str]:
  """Yields which labels look the same but for case, or the form of letters."""
  found: defaultdict[str, list[str]] = defaultdict(list)
  for label in sorted(labels):
    plain = unicodedata.normalize('NFKC', label).casefold()
    seen = [c for c in plain if unicodedata.category(c) != 'Cf']
    found[''.join(seen)].append(label)
  for several in found.values():
    if len(several) > 1:
      yield f'labels that differ in case or form alone: {_names(several)}'


def check_several(parts: Sequence[Rows]) -> None:
  """Raises a DataError where all rows have one label."""
  labels = {label for part in parts for label in part.columns[-1]}
  if len(labels) == 1:
    raise DataError(
      f'{parts[0].name}: all rows have the label {labels.pop()[:SHOWN]!r}: '
      'there is nothing to learn: give rows of another'
    )


def check_parts(train: Rows, held: Rows, drawn: bool) -> None:
  """Raises a DataError where the rows of a part have one label.

  Args:
    train: rows to train on.
    held: rows to judge.
    drawn: both are of one table.
  """
  fix = 'give rows of another'
  if drawn:
    fix += ', in two texts at least, and let --task.split=hash draw of each'
  for part, use in ((train, 'train'), (held, 'evaluate')):
    labels = set(part.columns[-1])
    if len(labels) == 1:
      raise DataError(
        f'{part.name}: all rows to {use} on have the label '
        f'{labels.pop()[:SHOWN]!r}, so always saying it is right: {fix}'
      )


def no_pair(rows: Rows) -> DataError:
  """Returns the error of rows of which no label has two texts."""
  labels = rows.columns[-1]
  return DataError(
    f'{rows.name}: no label has two different texts ({len(set(labels)):,} '
    f'labels of {len(labels):,} rows), so none can be judged: give more, and '
    'texts first, then labels'
  )


def counts(labels: Sequence[str]) -> str:
  """Returns how many rows have each label, or the fewest and the most."""
  found = Counter(labels)
  if len(found) <= FEW:
    each = ((label, found[label]) for label in sorted(found))
    return ', '.join(f'{label[:SHOWN]} {count:,}' for label, count in each)
  least, most = min(found.values()), max(found.values())
  return f'{len(found):,} labels of {least:,} to {most:,} rows'


def contradictions(keys: Sequence[str], labels: Sequence[str]) -> Iterator[str]:
  """Yields how many texts have labels that differ, if any.

  Args:
    keys: by which texts of rows are known.
    labels: of these rows.
  """
  found: defaultdict[str, set[str]] = defaultdict(set)
  for key, label in zip(keys, labels, strict=True):
    found[key].add(label)
  if count := sum(len(several) > 1 for several in found.values()):
    yield f'{count:,} texts have several labels'


def not_judged(train: Rows, held: Rows) -> Iterator[str]:
  """Yields which labels are trained on alone, if any."""
  if rest := sorted({*train.columns[-1]} - {*held.columns[-1]}):
    yield f'{len(rest):,} labels trained on, not judged: {_names(rest)}'


def _names(labels: Sequence[str]) -> str:
  shown = ', '.join(repr(label[:SHOWN]) for label in labels[:FEW])
  more = len(labels) - FEW
  return f'{shown} and {more:,} more' if more > 0 else shown
