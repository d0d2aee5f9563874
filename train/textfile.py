"""Text files, packed or not, piece by piece; what is no text is an error.

A line ends with a line feed: the carriage return that other systems write
before it is left out, and so is a byte order mark.  A carriage return elsewhere
is a character like others: what shows progress is one line, and parallel files
stay parallel.
"""

import codecs
import gzip
import pathlib
import zlib
from collections.abc import Iterator
from typing import IO

from train.documents import Mended
from train.task import DataError

PIECE = 2**20  # bytes
# A packed text that becomes more than RATIO times longer, and longer than
# ROOM, is no text that someone wrote: gzip makes those 3 to 30 times shorter.
RATIO = 100
ROOM = 2**26  # bytes


def pieces(path: pathlib.Path, mended: Mended | None = None) -> Iterator[str]:
  """Returns the text of a file in pieces; a name ending in .gz is unpacked.

  Args:
    path: of the file.
    mended: is told what was changed, when all has been read.

  Raises:
    DataError: it cannot be read, is not UTF-8 text, or unpacks without end.
  """
  line_ends, held = 0, ''  # a carriage return, of which the next piece tells
  for text in _decoded(path):
    text = held + text
    held = '\r' if text.endswith('\r') else ''
    text = text.removesuffix(held)
    line_ends += text.count('\r\n')
    yield text.replace('\r\n', '\n')
  if held:
    yield held
  if mended is not None:
    mended.line_ends, mended.marks = line_ends, int(_marked(path))


def _marked(path: pathlib.Path) -> bool:
  """Returns whether a file begins with a byte order mark."""
  with _opened(path) as f:
    return f.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8


def _opened(path: pathlib.Path) -> IO[bytes]:
  """Returns an open file; nothing that may wait for ever, or has no end."""
  if path.exists() and not (path.is_file() or path.is_dir()):
    raise DataError(
      f'{path}: is a pipe or a device, and a text is read more than once: '
      'write it to a file'
    )
  return gzip.open(path) if path.suffix == '.gz' else path.open('rb')  # pyright: ignore[reportReturnType]  # both give bytes


def _decoded(path: pathlib.Path) -> Iterator[str]:
  """Returns the text of a file in pieces, as it stands there."""
  decoder = codecs.getincrementaldecoder('utf-8-sig')()
  base = size = 0  # bytes before those that are decoded, and those read
  line = 1  # of the first byte that is decoded
  try:
    with _opened(path) as f:
      most = max(ROOM, RATIO * path.stat().st_size)
      while data := f.read(PIECE):
        if size > most:
          raise DataError(
            f'{path}: unpacks to more than {RATIO} times its size: unpack it '
            'yourself if that is meant, for a plain file may have any length'
          )
        if b'\0' in data:
          raise DataError(
            f'{path}: is binary (it has a zero byte): give UTF-8 text'
          )
        base = size - len(decoder.getstate()[0])
        size += len(data)
        yield decoder.decode(data)
        line += data.count(b'\n')
      base = size - len(decoder.getstate()[0])
      yield decoder.decode(b'', final=True)
  except UnicodeDecodeError as e:
    line += e.object[: e.start].count(b'\n')
    raise DataError(
      f'{path}: is not UTF-8 text (byte {base + e.start} is '
      f'0x{e.object[e.start]:02x}, in line {line}): convert it to UTF-8'
    ) from e
  except FileNotFoundError as e:
    raise DataError(f'{path}: does not exist: give a text file') from e
  except (EOFError, gzip.BadGzipFile, zlib.error) as e:
    raise DataError(
      f'{path}: is not a whole gzip file ({type(e).__name__}): get it again'
    ) from e
  except OSError as e:
    raise DataError(
      f'{path}: cannot be read ({e.strerror}): give a text file'
    ) from e


def read_file(path: pathlib.Path) -> str:
  """Returns the text of a file, which is held as a whole.

  Raises:
    DataError: it is no file, cannot be read, is not UTF-8 text, or unpacks to
      far more than text does.
  """
  return ''.join(pieces(path))
