"""Where text comes from: files, folders, and named corpora with a checksum."""

import hashlib
import os
import pathlib

from train.files import cache
from train.task import DataError

SHAKESPEARE_URL = (
  'https://raw.githubusercontent.com/karpathy/char-rnn/master/data/'
  'tinyshakespeare/input.txt'
)
SHAKESPEARE_SHA256 = (
  '86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed'
)


def pydoc() -> str:
  """Returns the language reference that ships with Python.

  It changes from one release of Python to the next; its digest is printed, and
  no expected value hangs on it.
  """
  from pydoc_data.topics import topics

  return ''.join(topics[name] for name in sorted(topics))


def shakespeare() -> str:
  """Returns tiny Shakespeare (public domain), 1,115,394 characters.

  The file is looked for in the folder ABLAX_DATA, then in the user's cache,
  then downloaded; its checksum is verified wherever it came from.
  """
  name = 'tinyshakespeare.txt'
  if folder := os.environ.get('ABLAX_DATA'):
    path = pathlib.Path(folder) / name
    if path.is_file():
      data = path.read_bytes()
      if hashlib.sha256(data).hexdigest() != SHAKESPEARE_SHA256:
        raise DataError(
          f'{path}: is not tiny Shakespeare (sha256 must start with '
          f'{SHAKESPEARE_SHA256[:12]}): remove it, or unset ABLAX_DATA'
        )
      return data.decode()
  return download(SHAKESPEARE_URL, SHAKESPEARE_SHA256, name).read_text('utf-8')


def download(url: str, sha256: str, name: str) -> pathlib.Path:
  """Returns the path of a file in the user's cache, fetched if absent."""
  import pooch

  try:
    path = pooch.retrieve(
      url, f'sha256:{sha256}', fname=name, path=cache(), progressbar=True
    )
  except Exception as e:
    raise DataError(
      f'{name}: cannot be downloaded from {url} ({type(e).__name__}): put the '
      'file into a folder and set ABLAX_DATA to that folder'
    ) from e
  return pathlib.Path(path)


def read(path_text: str) -> str:
  """Returns the text of a file, or of all files below a folder in order.

  Raises:
    DataError: nothing there, nothing in it, or not UTF-8 text.
  """
  path = pathlib.Path(path_text)
  try:
    return _read(path)
  except OSError as e:
    raise DataError(
      f'{path}: cannot be read ({e.strerror}): give a text file or a folder'
    ) from e


def _read(path: pathlib.Path) -> str:
  if path.is_dir():
    files = sorted(
      p
      for p in path.rglob('*')
      if p.is_file()
      and not any(part[0] == '.' for part in p.relative_to(path).parts)
    )
    if not files:
      raise DataError(f'{path}: the folder holds no file: give one with text')
    text = ''.join(_read_file(p) for p in files)
  elif path.exists():
    text = _read_file(path)
  else:
    raise DataError(f'{path}: does not exist: give a text file or a folder')
  if not text:
    raise DataError(f'{path}: is empty: give a file with text')
  return text


def _read_file(path: pathlib.Path) -> str:
  data = path.read_bytes()
  if b'\0' in data:
    raise DataError(f'{path}: is binary (it has a zero byte): give UTF-8 text')
  try:
    return data.decode('utf-8-sig')
  except UnicodeDecodeError as e:
    raise DataError(
      f'{path}: is not UTF-8 text (byte {e.start}): convert it to UTF-8'
    ) from e
