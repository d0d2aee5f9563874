"""Files of named corpora: looked for, else downloaded, then verified."""

import contextlib
import gzip
import hashlib
import os
import pathlib
import zlib
from typing import NamedTuple

from train.files import cache
from train.task import DataError
from train.textfile import read_file


class Remote(NamedTuple):
  """A file at a public address.

  Attributes:
    name: its path below the folder ABLAX_DATA and below the cache.
    url: where it is downloaded from.
    sha256: of the file or, where the folder holds it packed, of its content.
  """

  name: str
  url: str
  sha256: str


def fetch(remote: Remote) -> str:
  """Returns the text of a file, wherever it was found.

  It is looked for in the folder ABLAX_DATA, as it is or with .gz, then in the
  user's cache, then downloaded; its checksum is verified in each case.

  Raises:
    DataError: it is another file, or cannot be downloaded.
  """
  if folder := os.environ.get('ABLAX_DATA'):
    for name in (remote.name, f'{remote.name}.gz'):
      path = pathlib.Path(folder) / name
      if path.is_file():
        if not _is(path, remote):
          raise DataError(
            f'{path}: is not the {remote.name} that is wanted (sha256 must '
            f'start with {remote.sha256[:12]}): remove it, or unset ABLAX_DATA'
          )
        return read_file(path)
  return read_file(download(remote))


def _is(path: pathlib.Path, remote: Remote) -> bool:
  """Returns whether a file, or what is packed in it, has the checksum."""
  try:
    with path.open('rb') as f:
      found = [hashlib.file_digest(f, 'sha256').hexdigest()]
  except OSError as e:
    raise DataError(
      f'{path}: cannot be read ({e.strerror}): mend it, or unset ABLAX_DATA'
    ) from e
  if path.suffix == '.gz':
    with (
      contextlib.suppress(EOFError, OSError, zlib.error),
      gzip.open(path) as packed,
    ):
      found.append(hashlib.file_digest(packed, 'sha256').hexdigest())
  return remote.sha256 in found


def download(remote: Remote) -> pathlib.Path:
  """Returns the path of a file in the cache, fetched if absent."""
  import pooch

  try:
    path = pooch.retrieve(
      remote.url,
      f'sha256:{remote.sha256}',
      fname=remote.name,
      path=cache(),
      progressbar=True,
    )
  except Exception as e:
    raise DataError(
      f'{remote.name}: cannot be downloaded from {remote.url} '
      f'({type(e).__name__}): put the file into a folder and set ABLAX_DATA to '
      'that folder'
    ) from e
  return pathlib.Path(path)
