"""Where documents come from: files, folders, named corpora, tables."""

import pathlib
from typing import NamedTuple

from train.documents import (
  Document,
  Mended,
  document,
  long_lines,
  whole_lines,
)
from train.fetch import Remote, fetch
from train.table import Rows, Table, read_parts
from train.task import DataError
from train.textfile import pieces

SHAKESPEARE = Remote(
  'tinyshakespeare.txt',
  'https://raw.githubusercontent.com/karpathy/char-rnn/master/data/'
  'tinyshakespeare/input.txt',
  '86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed',
)
COLUMNS = ('text',)  # of a table of documents


class Corpus(NamedTuple):
  """Documents to train on, and those to evaluate on.

  Attributes:
    name: for messages.
    train: documents, in order.
    held: none where they are a part of the others.
    notes: what was left out, if anything.
  """

  name: str
  train: list[Document]
  held: list[Document] | None = None
  notes: str = ''


def pydoc() -> Corpus:
  """Returns the language reference that ships with Python, a topic each.

  It changes from one release of Python to the next; its digest is printed, and
  no expected value hangs on it.  Topics that are sections of longer ones are
  left out: a third of what is judged would be trained on.
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
  return Corpus('shakespeare', [document('shakespeare', fetch(SHAKESPEARE))])


def of_table(table: Table) -> Corpus:
  """Returns the texts of a table, a document each.

  Where it has no rows of its own to evaluate on, all are documents to train on:
  how a text is split is the same, wherever it comes from.
  """
  train, held, notes = read_parts(table, COLUMNS)
  said = ', '.join(notes)
  if held is None:
    return Corpus(train.name, _documents(train), notes=said)
  return Corpus(train.name, _documents(train), _documents(held), said)


def _documents(rows: Rows) -> list[Document]:
  return [
    document(f'row {number}', text)
    for number, text in zip(rows.numbers, rows.columns[0], strict=True)
  ]


def read(path_text: str, flag: str = 'task.path') -> Corpus:
  """Returns a file as a document, or all files below a folder in order.

  Args:
    path_text: where it is.
    flag: by which it was given.

  Raises:
    DataError: nothing is there.  What is in it is found when it is read.
  """
  path = pathlib.Path(path_text)
  if not path_text:  # pathlib takes it for the current folder
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
    files, others = _below(path)
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


def _below(folder: pathlib.Path) -> tuple[list[pathlib.Path], int]:
  """Returns the files below a folder, and how many names are none to read.

  These are hidden files and folders, links to folders, which may lead in a
  circle or nowhere, and what is no file.
  """
  files, others = [], 0
  folders = [folder]  # yet to be read: folders may be deeper than calls
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
  mended = Mended()
  return Document(name, lambda: whole_lines(pieces(path, mended)), mended)
