"""Standard streams that may break: a run goes on, and a listing says so.

A pager that is left, a pipe whose reader ends, a terminal that closes, a full
disk: what is then written is dropped.  Characters that a stream cannot encode
are written in others.
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

from experiments.shown import shown

# What stands for characters of ours where a stream lacks them.
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
_READABLE = 'ablax_readable'  # the name of what replaces characters


def _readable(error: UnicodeError) -> tuple[str, int]:
  """Returns what stands for characters that cannot be encoded."""
  if not isinstance(error, UnicodeEncodeError):
    raise error
  lacking = error.object[error.start : error.end]
  plain = [
    _PLAIN.get(c) or c.encode('ascii', 'backslashreplace').decode()
    for c in lacking
  ]
  return ''.join(plain), error.end


codecs.register_error(_READABLE, _readable)


class _Enduring(io.FileIO):
  """A file descriptor whose errors are remembered, not raised."""

  def __init__(self, descriptor: int):
    super().__init__(descriptor, 'w', closefd=False)
    self.error: OSError | None = None

  def write(self, data: Any, /) -> int:
    """Writes what can be written; says that all was."""
    try:
      while (count := super().write(data)) is None:  # its reader is slow
        select.select([], [self.fileno()], [])
    except OSError as e:
      self.error = self.error or e
      return memoryview(data).nbytes
    return count


class Output:
  """What became of the output of a command."""

  def __init__(self, out: _Enduring | None):
    self._out = out

  def told(self) -> int:
    """Returns the exit code of a command that did nothing but write.

    A reader that wants no more is none of its business: `| head` gives 0.
    """
    sys.stdout.flush()
    error = self._out and self._out.error
    if not error or error.errno in (errno.EPIPE, errno.EBADF):
      return 0
    complain(f'stdout cannot be written ({error.strerror}): give it another')
    return 1


@contextlib.contextmanager
def lasting() -> Iterator[Output]:
  """Has the standard streams outlive whoever reads them."""
  before = sys.stdout, sys.stderr
  _occupy()
  made = [_lasting(stream) for stream in before]
  sys.stdout, sys.stderr = (stream for stream, _ in made)
  try:
    yield Output(made[0][1])
  finally:
    for stream, enduring in made:
      stream.flush()
      if enduring is not None and enduring.error is not None:
        # What libraries hold for it would fail at the very end.
        with open(os.devnull, 'wb') as nowhere:
          os.dup2(nowhere.fileno(), enduring.fileno())
    sys.stdout, sys.stderr = before


def _occupy() -> None:
  """Opens what is closed of 0, 1, 2: no file of a run may take its place."""
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)


def _lasting(stream: TextIO | None) -> tuple[TextIO, _Enduring | None]:
  """Returns a stream to the same file, and what knows of its errors."""
  if stream is None:  # it was closed when Python began
    return open(os.devnull, 'w', encoding='utf-8'), None
  try:
    enduring = _Enduring(stream.fileno())
  except (OSError, ValueError):
    return stream, None  # it is in memory
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
  print(shown(text), flush=True)


def complain(text: str) -> None:
  """Prints what is wrong, a line on stderr."""
  print(f'launch.py: {shown(text)}', file=sys.stderr, flush=True)


def warn(text: str) -> None:
  """Prints a line on stderr that is no part of the output."""
  print(shown(text), file=sys.stderr, flush=True)
