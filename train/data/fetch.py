"""Files of named corpora: found on disk or downloaded, and always verified."""

import contextlib
import gzip
import hashlib
import os
import pathlib
import zlib
from typing import NamedTuple

from train.core.errors import DataError
from train.data.textfile import read_file
from train.files.durable import cache_folder


class RemoteFile(NamedTuple):
  """A file that can be downloaded.

  Attributes:
    name: its path within the folder ABLAX_DATA and within the cache.
    url: its public address.
    sha256: digest of the file or, if ABLAX_DATA has it with .gz added, of the
      unpacked content.
  """

  name: str
  url: str
  sha256: str


def fetch_text(remote: RemoteFile) -> str:
  """Returns the text of a file, from disk or from the network.

  It is looked for in the folder ABLAX_DATA, plain or with .gz added, then in
  the cache, and else downloaded; its checksum is verified in each case.

  Raises:
    DataError: the checksum differs, or the file cannot be downloaded.
  """
  if folder := os.environ.get('ABLAX_DATA'):
    for name in (remote.name, f'{remote.name}.gz'):
      path = pathlib.Path(folder) / name
      if path.is_file():
        if not _matches(path, remote):
          raise DataError(
            f'{path}: is not the {remote.name} that is wanted (sha256 must '
            f'start with {remote.sha256[:12]}): remove it, or unset ABLAX_DATA'
          )
        return read_file(path)
  return read_file(download(remote))


def _matches(path: pathlib.Path, remote: RemoteFile) -> bool:
  """Returns whether a file, or its unpacked content, has the checksum."""
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


def download(remote: RemoteFile) -> pathlib.Path:
  """Downloads a file to the cache if it is not there, and returns its path."""
  import pooch

  try:
    path = pooch.retrieve(
      remote.url,
      f'sha256:{remote.sha256}',
      fname=remote.name,
      path=cache_folder(),
      progressbar=True,
    )
  except Exception as e:
    raise DataError(
      f'{remote.name}: cannot be downloaded from {remote.url} '
      f'({type(e).__name__}): put the file into a folder and set ABLAX_DATA to '
      'that folder'
    ) from e
  return pathlib.Path(path)
