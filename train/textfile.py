"""Text files, packed or not, piece by piece; what is no text is an error."""

import codecs
import gzip
import pathlib
import zlib
from collections.abc import Iterator

from train.task import DataError

PIECE = 2**20  # bytes


def pieces(path: pathlib.Path) -> Iterator[str]:
  """Returns the text of a file in pieces; a name ending in .gz is unpacked.

  Raises:
    DataError: it cannot be read, or is not UTF-8 text.
  """
  decoder = codecs.getincrementaldecoder('utf-8-sig')()
  base = size = 0  # bytes before those that are decoded, and those read
  line = 1  # of the first byte that is decoded
  try:
    with gzip.open(path) if path.suffix == '.gz' else path.open('rb') as f:
      while data := f.read(PIECE):
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
  """Returns the text of a file."""
  return ''.join(pieces(path))
