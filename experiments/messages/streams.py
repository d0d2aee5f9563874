"""Standard streams that survive errors: a run continues, a listing reports.

When a pager is closed, the reader of a pipe ends, a terminal closes or the disk
is full, further output is dropped.  Characters that a stream cannot encode are
replaced by others.
"""

import codecs
import contextlib
import errno
import io
import os
import select
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from experiments.messages.escapes import escape_name

# Replacements of our characters, for streams that cannot encode them.
_PLAIN = {
  '±': '+/-',
  '–': '-',
  '—': '-',
  '…': '...',
  '→': '->',
  '←': '<-',
  '×': 'x',
  '·': '.',
  '−': '-',
  '≤': '<=',
  '≥': '>=',
}
_READABLE = 'ablax_readable'  # name of the codec error handler


def _readable(error: UnicodeError) -> tuple[str, int]:
  """Returns the replacement of characters that cannot be encoded."""
  if not isinstance(error, UnicodeEncodeError):
    raise error
  missing = error.object[error.start : error.end]
  plain = [
    _PLAIN.get(c) or c.encode('ascii', 'backslashreplace').decode()
    for c in missing
  ]
  return ''.join(plain), error.end


codecs.register_error(_READABLE, _readable)


class _Enduring(io.FileIO):
  """A file that remembers the first error of writing, and does not raise it."""

  def __init__(self, descriptor: int):
    super().__init__(descriptor, 'w', closefd=False)
    self.error: OSError | None = None

  def write(self, data: Any, /) -> int:
    """Writes as much as it can, and returns as if it had written all."""
    try:
      while (count := super().write(data)) is None:  # the pipe is full
        select.select([], [self.fileno()], [])
    except OSError as e:
      self.error = self.error or e
      return memoryview(data).nbytes
    return count


class OutputStatus:
  """The state of the output of a command."""

  def __init__(self, out: _Enduring | None):
    self._out = out

  def exit_code(self) -> int:
    """Returns the exit code of a command that only prints.

    A reader that stops reading, such as `| head`, is no error.
    """
    sys.stdout.flush()
    error = self._out and self._out.error
    if not error or error.errno in (errno.EPIPE, errno.EBADF):
      return 0
    print_error(f'stdout cannot be written ({error.strerror}): give it another')
    return 1


@contextlib.contextmanager
def lasting_streams() -> Iterator[OutputStatus]:
  """Makes standard streams ignore errors, such as a reader that has ended."""
  before = sys.stdout, sys.stderr
  _occupy()
  made = [_lasting(stream) for stream in before]
  sys.stdout, sys.stderr = (stream for stream, _ in made)
  try:
    yield OutputStatus(made[0][1])
  finally:
    for stream, enduring in made:
      stream.flush()
      if enduring is not None and enduring.error is not None:
        # Output that libraries still buffer would fail at exit.
        with open(os.devnull, 'wb') as nowhere:
          os.dup2(nowhere.fileno(), enduring.fileno())
    sys.stdout, sys.stderr = before


def _occupy() -> None:
  """Opens closed descriptors among 0, 1 and 2, so that no file gets them."""
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _lasting(stream: TextIO | None) -> tuple[TextIO, _Enduring | None]:
  """Returns a lasting stream to the same file, and the file with its errors."""
  if stream is None:  # it was closed when Python began
    return open(os.devnull, 'w', encoding='utf-8'), None
  try:
    enduring = _Enduring(stream.fileno())
  except (OSError, ValueError):
    return stream, None  # a stream in memory
  with contextlib.suppress(OSError):
    stream.flush()
  made = io.TextIOWrapper(
    io.BufferedWriter(enduring),
    stream.encoding,
    _READABLE,
    line_buffering=stream.isatty() or stream is sys.stderr,
  )
  return made, enduring


def say(text: str) -> None:
  """Prints a line."""
  print(escape_name(text), flush=True)


def print_error(text: str) -> None:
  """Prints an error as a line on stderr."""
  print(f'launch.py: {escape_name(text)}', file=sys.stderr, flush=True)


def warn(text: str) -> None:
  """Prints a line on stderr, apart from the output."""
  print(escape_name(text), file=sys.stderr, flush=True)
