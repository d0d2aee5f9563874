"""Flag files for --flagfile=FILE, with a flag on each line, as in absl.

They are read here, since absl hangs on pipes and fails on binary files.  A file
that a run wrote begins with a checksum, so that a warning tells if it has been
edited.
"""

import hashlib
import itertools
import os
import stat
from collections.abc import Callable, Iterator, Sequence

from experiments.messages.errors import CommandError

MAX_FILE_BYTES = 2**20  # bytes
MAX_FILE_DEPTH = 16  # most levels of files that name other files
_NAMES = ('--flagfile', '-flagfile')
_COMMENTS = ('#', '//')
_SUM = '# sha256 of the flags: '
_DATA = '# sha256 of the data: '
Note = Callable[[str], object]


def flag_file_text(lines: Sequence[str], data: str = '') -> str:
  """Returns the text of a flag file, with a checksum.

  Args:
    lines: the flags.
    data: digest of the data of the run, as a path may have other data later.
  """
  text = '\n'.join(lines) + '\n'
  about = f'{_DATA}{data}\n' if data else ''
  return f'{_SUM}{_sum(_own(text))}\n{about}{text}'


def data_warnings(argv: Sequence[str], data: str) -> list[str]:
  """Returns a warning for each flag file that was run on other data.

  Args:
    argv: the words of a command line; with flags of a task, which choose other
      data, there are no warnings.
    data: digest of the present data.
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
  """Returns the lines of a file that are not comments."""
  lines = [line.strip() for line in text.split('\n')]
  return [line for line in lines if line and not line.startswith(_COMMENTS)]


def _sum(flags: Sequence[str]) -> str:
  return hashlib.sha256('\n'.join(flags).encode()).hexdigest()[:16]


def expand_flag_files(
  argv: Sequence[str], note: Note = lambda line: None
) -> list[str]:
  """Returns the words of a command line, with flag files expanded in place.

  Args:
    argv: the words.
    note: called with a warning for each file that is edited or empty.

  Raises:
    CommandError: a file cannot be read, is not text, or names itself.
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
      raise CommandError(f'{word}: must name a file')
    out += _flags(path, (), note)
  return [*out, *words]


def _flags(path: str, through: Sequence[str], note: Note) -> Iterator[str]:
  """Yields the flags of a file, without comments, and of files it names."""
  path = os.path.expanduser(path.strip())
  if path in through or len(through) == MAX_FILE_DEPTH:
    raise CommandError(
      f'--flagfile={path}: names itself, or lies more than {MAX_FILE_DEPTH} '
      f'files deep ({" -> ".join([*through, path])}): take that line out'
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
  """Returns the text of a flag file."""
  where = f'--flagfile={path}'
  if not path:
    raise CommandError(f'{where}: is empty: name a file')
  try:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
      raise CommandError(
        f'{where}: is a folder, a pipe or a device: give a file of flags'
      )
    if found.st_size > MAX_FILE_BYTES:
      raise CommandError(
        f'{where}: has {found.st_size:,} bytes, at most {MAX_FILE_BYTES:,}: '
        'give a file of flags'
      )
    with open(path, 'rb') as f:
      data = f.read(MAX_FILE_BYTES + 1)
    text = data.decode('utf-8-sig')
  except OSError as e:
    raise CommandError(
      f'{where}: cannot be read ({e.strerror}): give a file of flags'
    ) from e
  except ValueError as e:  # a NUL in the name, or not UTF-8
    raise CommandError(
      f'{where}: is not UTF-8 text ({e}): give a file with a flag on each line'
    ) from e
  if '\0' in text:
    raise CommandError(
      f'{where}: is binary (it has a zero byte): give a file with a flag on '
      'each line'
    )
  return text
