"""Sources of documents: files, folders, named corpora, tables."""

import pathlib
from typing import NamedTuple

from train.core.errors import DataError
from train.data.documents import (
  Document,
  Normalization,
  document,
  line_blocks,
  long_lines,
)
from train.data.fetch import RemoteFile, fetch_text
from train.data.tables.base import Rows, Table, read_parts
from train.data.textfile import read_pieces

SHAKESPEARE = RemoteFile(
  'tinyshakespeare.txt',
  'https://raw.githubusercontent.com/karpathy/char-rnn/master/data/'
  'tinyshakespeare/input.txt',
  '86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed',
)
COLUMNS = ('text',)  # columns of a table of documents


class Corpus(NamedTuple):
  """Documents, with validation documents if the source has its own.

  Attributes:
    name: its name in messages.
    train: the documents, in order.
    held: validation documents; None if they must be split off from `train`.
    notes: a remark on what was left out, or ''.
  """

  name: str
  train: list[Document]
  held: list[Document] | None = None
  notes: str = ''


def pydoc() -> Corpus:
  """Returns the language reference of Python, a document for each topic.

  It differs between releases of Python, so its digest is printed and no
  expected result depends on it.  Topics that are sections of longer topics are
  left out: otherwise a third of the validation text would be trained on.
  """
  from pydoc_data.topics import topics

  known: set[str] = set()
  new: list[str] = []
  for name in sorted(topics, key=lambda name: (-len(topics[name]), name)):
    lines = long_lines(topics[name])
    if 2 * len(known.intersection(lines)) <= len(set(lines)):
      new.append(name)
      known.update(lines)
  every = [document(name, topics[name]) for name in sorted(new)]
  twice = len(topics) - len(new)
  notes = f'{twice} topics that are sections of others left out'
  return Corpus('pydoc', every, notes=notes if twice else '')


def shakespeare() -> Corpus:
  """Returns tiny Shakespeare (public domain), 1,115,394 characters."""
  return Corpus(
    'shakespeare', [document('shakespeare', fetch_text(SHAKESPEARE))]
  )


def table_corpus(table: Table) -> Corpus:
  """Returns the texts of a table, a document for each row.

  If the table has no validation part, its documents are split afterwards, like
  those of any other source.
  """
  train, held, notes = read_parts(table, COLUMNS)
  note = ', '.join(notes)
  if held is None:
    return Corpus(train.name, _documents(train), notes=note)
  return Corpus(train.name, _documents(train), _documents(held), note)


def _documents(rows: Rows) -> list[Document]:
  return [
    document(f'row {number}', text)
    for number, text in zip(rows.numbers, rows.columns[0], strict=True)
  ]


def read_corpus(path_text: str, flag: str = 'task.path') -> Corpus:
  """Returns a file as one document, or the files below a folder in order.

  Args:
    path_text: path of the file or folder.
    flag: the flag that gave it, for the error message.

  Raises:
    DataError: there is no such file, or no file in the folder.  Problems with
      the content are raised when it is read.
  """
  path = pathlib.Path(path_text)
  if not path_text:  # which pathlib takes for the current folder
    raise DataError(f'--{flag}= is empty: give a text file or a folder')
  try:
    if not path.is_dir():
      if not path.exists():
        raise DataError(f'{path}: does not exist: give a text file or a folder')
      if not path.is_file():
        raise DataError(
          f'{path}: is a pipe or a device, and a text is read more than once: '
          'write it to a file'
        )
      return Corpus(path_text, [_file(path, path.name)])
    files, others = _files_below(path)
  except OSError as e:
    raise DataError(
      f'{e.filename}: cannot be read ({e.strerror}): give a text file or a '
      'folder'
    ) from e
  if not files:
    raise DataError(f'{path}: the folder holds no file: give one with text')
  left_out = f'{others:,} hidden names, links to folders and the like left out'
  notes = left_out if others else ''
  every = [_file(p, str(p.relative_to(path))) for p in files]
  return Corpus(path_text, every, notes=notes)


def _files_below(folder: pathlib.Path) -> tuple[list[pathlib.Path], int]:
  """Returns the files below a folder, and the number of entries left out.

  Left out are hidden files and folders, links to folders (which may be cyclic),
  broken links, and whatever is not a file.
  """
  files, others = [], 0
  folders = [folder]  # a stack, as recursion could become too deep
  while folders:
    for path in folders.pop().iterdir():
      if path.name.startswith('.') or (path.is_dir() and path.is_symlink()):
        others += 1
      elif path.is_dir():
        folders.append(path)
      elif path.is_file():
        files.append(path)
      else:
        others += 1
  return sorted(files), others


def _file(path: pathlib.Path, name: str) -> Document:
  mended = Normalization()
  return Document(name, lambda: line_blocks(read_pieces(path, mended)), mended)
