"""Overlap: how much of the validation text is also in the training text."""

from collections.abc import Iterable, Iterator, Sequence

from train.core.errors import DataError
from train.data.documents import MIN_LONG_LINE, Document

MAX_COMPARED = (
  2**26
)  # only the first so many characters of each part are compared


def describe_overlap(
  name: str, train: Sequence[Document], held: Sequence[Document]
) -> str:
  """Returns a remark on how much validation text is in the training text.

  It counts the long lines and the whole documents that are there word for word;
  without any it is ''.

  Args:
    name: name of the corpus, for the error message.
    train: documents of the training part.
    held: documents of the validation part.

  Raises:
    DataError: all validation documents are in the training part.
  """
  validation = list(_lines(held))
  wanted = {line for lines in validation for line in (*lines, _key(lines))}
  known: set[str] = set()
  for lines in _lines(train):
    known |= wanted.intersection(lines)
    known |= wanted.intersection([_key(lines)])
  long = [
    line for lines in validation for line in lines if len(line) >= MIN_LONG_LINE
  ]
  seen = sum(line in known for line in long)
  copies = sum(_is_copied(lines, known) for lines in validation)
  if validation and copies == len(validation):
    raise DataError(
      f'{name}: all of its validation part is in the training part, word for '
      f'word ({copies:,} of {copies:,} documents), so its loss would measure '
      'nothing but memory: remove the duplicates, or give another text to '
      'evaluate on by --task.split=file'
    )
  found = []
  if copies:
    found.append(f'{copies:,} of its {len(validation):,} documents')
  if seen:
    share = seen / len(long)
    found.append(f'{seen:,} of its {len(long):,} long lines ({share:.2%})')
  return f'{" and ".join(found)} are trained on' if found else ''


def _is_copied(lines: Sequence[str], known: set[str]) -> bool:
  """Returns whether all lines of a document are among the known ones.

  The first line is ignored, because it may have been cut.  If all lines are
  short, and so may be equal by chance, the document is compared as a whole.
  """
  rest = lines[1:] if len(lines) > 1 else lines
  return known.issuperset(rest if _has_long(rest) else [_key(lines)])


def _has_long(lines: Iterable[str]) -> bool:
  return any(len(line) >= MIN_LONG_LINE for line in lines)


def _key(lines: Sequence[str]) -> str:
  """Returns the whole text of short lines, or else its first line alone."""
  return lines[0] if _has_long(lines[1:]) else '\n'.join(lines)


def _lines(documents: Iterable[Document]) -> Iterator[list[str]]:
  """Yields the stripped lines of each document, without the empty ones."""
  left = MAX_COMPARED
  for one in documents:
    lines: list[str] = []
    for block in one.blocks():
      lines += filter(None, map(str.strip, block[:left].split('\n')))
      left -= len(block)
      if left <= 0:
        break
    if lines:
      yield lines
    if left <= 0:
      return
