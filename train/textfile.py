"""Text files, packed or not, piece by piece; what is no text is an error."""

import codecs
import gzip
import pathlib
import stat
import zlib
from collections.abc import Iterator

from train.task import DataError

PIECE = 2**20  # bytes
# Text packs to a third or a tenth; what was made to fill a memory, to a
# thousandth.
SMALL = 2**26  # characters that any packed file may unpack to
TIMES = 100  # its size, which those of a larger one may be


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
  """Returns the text of a file, which is held as a whole.

  Raises:
    DataError: it is no file, cannot be read, is not UTF-8 text, or unpacks to
      far more than text does.
  """
  try:
    about = path.stat()
  except OSError:
    return ''.join(pieces(path))  # raises what is wrong
  if not (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):
    raise DataError(
      f'{path}: is a pipe or a device, and a table is read more than once: '
      'write it to a file'
    )
  found, size = [], 0
  most = max(SMALL, TIMES * about.st_size)
  for piece in pieces(path):
    found.append(piece)
    size += len(piece)
    if size > most and path.suffix == '.gz':
      raise DataError(
        f'{path}: unpacks to more than {most:,} characters, of '
        f'{about.st_size:,} bytes: unpack it (gunzip), if it is meant'
      )
  return ''.join(found)
