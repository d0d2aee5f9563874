"""Overlap: what of a text to judge was trained on, word for word."""

from collections.abc import Iterable, Iterator, Sequence

from train.documents import LONG, Document
from train.task import DataError

MOST = 2**26  # characters of each part that are compared: the first


def overlap(
  name: str, train: Sequence[Document], held: Sequence[Document]
) -> str:
  """Returns how much of the validation part is in the other, word for word.

  Long lines, and documents of which all is.  Nothing where there are none.

  Raises:
    DataError: all of it is there, so that nothing is judged but memory.
  """
  judged = list(_lines(held))
  wanted = {line for lines in judged for line in (*lines, _whole(lines))}
  known: set[str] = set()
  for lines in _lines(train):
    known |= wanted.intersection(lines)
    known |= wanted.intersection([_whole(lines)])
  long = [line for lines in judged for line in lines if len(line) >= LONG]
  seen = sum(line in known for line in long)
  copies = sum(_within(lines, known) for lines in judged)
  if judged and copies == len(judged):
    raise DataError(
      f'{name}: all of its validation part stands in the training part, word '
      f'for word ({copies:,} of {copies:,} documents): nothing is '
      'judged but memory: leave out what is there twice, or give another text '
      'to judge by --task.split=file'
    )
  found = []
  if copies:
    found.append(f'{copies:,} of its {len(judged):,} documents')
  if seen:
    share = seen / len(long)
    found.append(f'{seen:,} of its {len(long):,} long lines ({share:.2%})')
  return f'{" and ".join(found)} are trained on' if found else ''


def _within(lines: Sequence[str], known: set[str]) -> bool:
  """Returns whether a document is in a text that has the known lines.

  Its first line may have been cut, so it is not what makes a document new.
  Short lines prove nothing, unless they are all of the document.
  """
  rest = lines[1:] if len(lines) > 1 else lines
  return known.issuperset(rest if _long(rest) else [_whole(lines)])


def _long(lines: Iterable[str]) -> bool:
  return any(len(line) >= LONG for line in lines)


def _whole(lines: Sequence[str]) -> str:
  """Returns a text of short lines as one; of another, its first line."""
  return lines[0] if _long(lines[1:]) else '\n'.join(lines)


def _lines(documents: Iterable[Document]) -> Iterator[list[str]]:
  """Returns the lines of each document with text, without indentation."""
  left = MOST
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
