"""--flagfile=FILE: flags that a file holds, a line each, as absl has it.

Read here, for absl waits for ever for a pipe and fails on what is no text.
"""

import os
import stat
from collections.abc import Iterator, Sequence

from experiments.ledger import Refused

LARGEST = 2**20  # bytes
DEEPEST = 16  # files that name each other
_NAMES = ('--flagfile', '-flagfile')


def expand(argv: Sequence[str]) -> list[str]:
  """Returns the words of a command line, those of files in their place.

  Raises:
    Refused: a file cannot be read, is no text, or names itself.
  """
  out: list[str] = []
  words = iter(argv)
  for word in words:
    name, equals, path = word.partition('=')
    if name not in _NAMES:
      out.append(word)
      if word == '--':
        break
      continue
    if not equals and (path := next(words, '')) == '':
      raise Refused(f'{word}: must name a file')
    out += _flags(path, ())
  return [*out, *words]


def _flags(path: str, through: Sequence[str]) -> Iterator[str]:
  """Yields the flags of a file; comments begin with # or //."""
  path = os.path.expanduser(path.strip())
  if path in through or len(through) == DEEPEST:
    raise Refused(
      f'--flagfile={path}: names itself, or lies more than {DEEPEST} files '
      f'deep ({" -> ".join([*through, path])}): take that line out'
    )
  for line in map(str.strip, _read(path).split('\n')):
    name, equals, value = line.partition('=')
    if name in _NAMES and equals:
      yield from _flags(value, (*through, path))
    elif line and not line.startswith(('#', '//')):
      yield line


def _read(path: str) -> str:
  """Returns the text of a file of flags."""
  where = f'--flagfile={path}'
  if not path:
    raise Refused(f'{where}: is empty: name a file')
  try:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
      raise Refused(
        f'{where}: is a folder, a pipe or a device: give a file of flags'
      )
    if found.st_size > LARGEST:
      raise Refused(
        f'{where}: has {found.st_size:,} bytes, at most {LARGEST:,}: give a '
        'file of flags'
      )
    with open(path, 'rb') as f:
      data = f.read(LARGEST + 1)
    text = data.decode('utf-8-sig')
  except OSError as e:
    raise Refused(
      f'{where}: cannot be read ({e.strerror}): give a file of flags'
    ) from e
  except ValueError as e:  # NUL in the name; no UTF-8
    raise Refused(
      f'{where}: is not UTF-8 text ({e}): give a file with a flag on each line'
    ) from e
  if '\0' in text:
    raise Refused(
      f'{where}: is binary (it has a zero byte): give a file with a flag on '
      'each line'
    )
  return text
