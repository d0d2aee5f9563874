"""Text files, plain or gzipped, read in pieces and checked to be UTF-8.

A line ends with a line feed: a carriage return before it is removed, and so is
a byte order mark.  A carriage return elsewhere is an ordinary character, so the
output of a progress bar stays one line, and parallel files stay parallel.
"""

import codecs
import gzip
import pathlib
import zlib
from collections.abc import Iterator
from typing import IO

from train.core.errors import DataError
from train.data.documents import Normalization

PIECE = 2**20  # bytes
# A gzipped file that unpacks to more than RATIO times its size, and to more
# than ROOM bytes, is refused: gzip shrinks real text by a factor of 3 to 30.
MAX_UNPACK_RATIO = 100
ROOM = 2**26


def read_pieces(
  path: pathlib.Path, mended: Normalization | None = None
) -> Iterator[str]:
  """Yields the text of a file in pieces; a file named .gz is unpacked.

  Args:
    path: the file.
    mended: receives the counts of what was normalized, after the last piece.

  Raises:
    DataError: the file cannot be read, is not UTF-8 text, or unpacks to far
      more than text does.
  """
  line_ends = 0
  pending = ''  # a carriage return, which a line feed may follow
  for text in _decode(path):
    text = pending + text
    pending = '\r' if text.endswith('\r') else ''
    text = text.removesuffix(pending)
    line_ends += text.count('\r\n')
    yield text.replace('\r\n', '\n')
  if pending:
    yield pending
  if mended is not None:
    mended.line_ends, mended.marks = line_ends, int(_has_bom(path))


def _has_bom(path: pathlib.Path) -> bool:
  """Returns whether a file begins with a byte order mark."""
  with _open(path) as f:
    return f.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8


def _open(path: pathlib.Path) -> IO[bytes]:
  """Opens a file; refuses pipes and devices, which may block or never end."""
  if path.exists() and not (path.is_file() or path.is_dir()):
    raise DataError(
      f'{path}: is a pipe or a device, and a text is read more than once: '
      'write it to a file'
    )
  return gzip.open(path) if path.suffix == '.gz' else path.open('rb')  # pyright: ignore[reportReturnType]  # both give bytes


def _decode(path: pathlib.Path) -> Iterator[str]:
  """Yields the text of a file in pieces, without changing line ends."""
  decoder = codecs.getincrementaldecoder('utf-8-sig')()
  base = size = 0  # bytes before the piece being decoded, and bytes read
  line = 1  # line number of the first byte of that piece
  try:
    with _open(path) as f:
      most = max(ROOM, MAX_UNPACK_RATIO * path.stat().st_size)
      while data := f.read(PIECE):
        if size > most:
          raise DataError(
            f'{path}: unpacks to more than {MAX_UNPACK_RATIO} times its size: '
            'unpack it '
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
  """Returns the whole text of a file.

  Raises:
    DataError: it is no file, cannot be read, is not UTF-8 text, or unpacks to
      far more than text does.
  """
  return ''.join(read_pieces(path))
