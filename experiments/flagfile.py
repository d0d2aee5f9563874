"""--flagfile=FILE: flags that a file holds, a line each, as absl has it.

Read here, for absl waits for ever for a pipe and fails on what is no text.
What a run writes begins with a checksum: its file may be edited, and whoever
replays it is told.
"""

import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from experiments.ledger import Refused

LARGEST = 2**20  # bytes
DEEPEST = 16  # files that name each other
_NAMES = ('--flagfile', '-flagfile')
_COMMENTS = ('#', '//')
_SUM = '# sha256 of the flags: '
_DATA = '# sha256 of the data: '
Note = Callable[[str], object]


def sealed(lines: Sequence[str], data: str = '') -> str:
  """Returns the text of a file of flags, with their checksum.

  Args:
    lines: the flags.
    data: digest of what they were run on, which a path does not say.
  """
  text = '\n'.join(lines) + '\n'
  about = f'{_DATA}{data}\n' if data else ''
  return f'{_SUM}{_sum(_own(text))}\n{about}{text}'


def other_data(argv: Sequence[str], data: str) -> list[str]:
  """Returns which files of flags were run on other data, if data are theirs.

  Args:
    argv: the words of a command line; one that has a flag of the task names
      its own data.
    data: digest of what is here.
  """
  if any(word.lstrip('-').startswith('task') for word in argv):
    return []
  said = []
  for name, path in itertools.pairwise([*argv, '']):
    flag, equals, own = name.partition('=')
    if flag not in _NAMES:
      continue
    path = os.path.expanduser((own if equals else path).strip())
    for line in _read(path).split('\n'):
      digest = line.removeprefix(_DATA).strip()
      if line.startswith(_DATA) and digest != data:
        said.append(
          f'--flagfile={path}: was run on other data than are here: sha256 '
          f'{digest[:12]}, not {data[:12]}'
        )
  return said


def _own(text: str) -> list[str]:
  """Returns the lines of a file that are flags."""
  lines = [line.strip() for line in text.split('\n')]
  return [line for line in lines if line and not line.startswith(_COMMENTS)]


def _sum(flags: Sequence[str]) -> str:
  return hashlib.sha256('\n'.join(flags).encode()).hexdigest()[:16]


def expand(argv: Sequence[str], note: Note = lambda line: None) -> list[str]:
  """Returns the words of a command line, those of files in their place.

  Args:
    argv: the words.
    note: is told of files that are not as a run wrote them, or hold nothing.

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
    out += _flags(path, (), note)
  return [*out, *words]


def _flags(path: str, through: Sequence[str], note: Note) -> Iterator[str]:
  """Yields the flags of a file; comments begin with # or //."""
  path = os.path.expanduser(path.strip())
  if path in through or len(through) == DEEPEST:
    raise Refused(
      f'--flagfile={path}: names itself, or lies more than {DEEPEST} files '
      f'deep ({" -> ".join([*through, path])}): take that line out'
    )
  text = _read(path)
  own = _own(text)
  sums = [
    line.removeprefix(_SUM).strip()
    for line in text.split('\n')
    if line.startswith(_SUM)
  ]
  if not own:
    note(f'--flagfile={path}: holds no flags')
  elif sums and {*sums} != {_sum(own)}:
    note(
      f'--flagfile={path}: its flags are not those that were written '
      '(edited, or damaged)'
    )
  for line in own:
    name, equals, value = line.partition('=')
    if name in _NAMES and equals:
      yield from _flags(value, (*through, path), note)
    else:
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
