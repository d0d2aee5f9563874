"""Documents as one array of token ids, in memory or on the disk.

Long texts are cut into tokens once: the ids lie in the user's cache, named by
what they are a function of, and are mapped into memory, not read.
"""

import contextlib
import hashlib
import json
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from train.documents import Document
from train.files import cache
from train.task import DataError
from train.vocabulary import Vocabulary

# Shorter texts are cut anew each time: a second, or less.
KEPT = 2**24  # characters


class Tokens(NamedTuple):
  """All documents, one after another, and where each begins."""

  ids_X: np.ndarray
  starts_X: np.ndarray

  def divided(self, at: int) -> tuple['Tokens', 'Tokens']:
    """Returns what is before and after a token; a document may be in both."""
    before, after = self.starts_X < at, self.starts_X > at
    return (
      Tokens(self.ids_X[:at], _starts(self.starts_X[before])),
      Tokens(self.ids_X[at:], _starts([0, *(self.starts_X[after] - at)])),
    )


def _starts(values: Sequence[int] | np.ndarray) -> np.ndarray:
  """Returns them as int32, or as int64 where that is too small."""
  found = np.array(values, np.int64)
  small = not found.size or found[-1] < 2**31
  return found.astype(np.int32) if small else found


def tokens(
  documents: Sequence[Document],
  vocabulary: Vocabulary,
  size: int,
  digest: str,
) -> Tokens:
  """Returns the tokens of documents; from the cache if they are long.

  Args:
    documents: what to cut.
    vocabulary: into what.
    size: characters of all documents.
    digest: of all that the documents are a function of.

  Raises:
    UnknownSymbols: the vocabulary lacks some, and has no <unk>.
  """
  if size < KEPT:
    return _in_memory(documents, vocabulary)
  names = [str(size), digest, vocabulary.digest]
  key = hashlib.sha256(' '.join(names).encode()).hexdigest()
  folder = cache() / 'tokens' / key
  found = _mapped(folder)
  if found is None:
    try:
      shutil.rmtree(folder, ignore_errors=True)
      _write(folder, documents, vocabulary)
    except OSError as e:
      raise DataError(
        f'{folder}: tokens cannot be kept there ({e.strerror}): set '
        'ABLAX_CACHE to a folder with room for them'
      ) from e
    found = _mapped(folder)
    assert found is not None
  return found


def _cut(
  documents: Sequence[Document], vocabulary: Vocabulary
) -> Iterator[tuple[bool, np.ndarray]]:
  """Returns the ids of each block, and whether it begins a document."""
  for one in documents:
    first = True
    for block in one.blocks():
      yield first, vocabulary.encode(block)
      first = False


def _in_memory(documents: Sequence[Document], vocabulary: Vocabulary) -> Tokens:
  parts, starts, size = [], [], 0
  for first, ids in _cut(documents, vocabulary):
    if first:
      starts.append(size)
    parts.append(ids)
    size += ids.size
  return Tokens(np.concatenate(parts), _starts(starts))


def _write(
  folder: pathlib.Path, documents: Sequence[Document], vocabulary: Vocabulary
) -> None:
  """Writes tokens into a new folder, which appears whole or not at all."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=folder.parent, prefix='.') as name:
    made = pathlib.Path(name) / 'made'
    made.mkdir()
    total, starts, size = hashlib.sha256(), [], 0
    kind = vocabulary.encode('').dtype
    with (made / 'ids.bin').open('wb') as f:
      for first, ids in _cut(documents, vocabulary):
        if first:
          starts.append(size)
        data = ids.tobytes()
        f.write(data)
        total.update(data)
        size += ids.size
    np.save(made / 'starts.npy', _starts(starts))
    about = {'dtype': kind.name, 'size': size, 'sha256': total.hexdigest()}
    (made / 'about.json').write_text(json.dumps(about))
    # Another process may have been faster; its tokens are the same.
    with contextlib.suppress(OSError):
      made.rename(folder)


def _mapped(folder: pathlib.Path) -> Tokens | None:
  """Returns tokens that were written, or none if they are not whole."""
  try:
    about = json.loads((folder / 'about.json').read_text())
    starts = np.load(folder / 'starts.npy')
    path = folder / 'ids.bin'
    with path.open('rb') as f:
      if hashlib.file_digest(f, 'sha256').hexdigest() != about['sha256']:
        return None
    ids = np.memmap(path, about['dtype'], 'r', shape=(about['size'],))
  except (OSError, ValueError, KeyError):
    return None
  return Tokens(ids, starts)
