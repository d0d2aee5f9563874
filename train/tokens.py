"""Documents as one array of token ids, in memory or on the disk.

Long texts are cut into tokens once: the ids lie in the user's cache, named by
what they are a function of, and are mapped into memory, not read.
"""

import contextlib
import hashlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from train.documents import Document
from train.files import cache
from train.reach import code_that
from train.task import DataError
from train.vocabulary import Vocabulary

# Shorter texts are cut anew each time: a second, or less.
KEPT = 2**24  # characters


class Tokens(NamedTuple):
  """All documents, one after another, and where each begins."""

  ids_X: np.ndarray
  starts_X: np.ndarray


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
  end: int | None = None,
) -> Tokens:
  """Returns the tokens of documents; from the cache if they are long.

  Args:
    documents: what to cut.
    vocabulary: into what.
    size: characters of all documents.
    digest: of all that the documents are a function of.
    end: the token that stands behind each document; none is no token.

  Raises:
    UnknownSymbols: the vocabulary lacks some, and has no <unk>.
  """
  if size < KEPT:
    return _in_memory(documents, vocabulary, end)
  code = code_that('encode blocks', vocabulary, *documents[:1])
  names = [str(size), digest, vocabulary.digest, code]
  names += [] if end is None else ['ends']
  key = hashlib.sha256(' '.join(names).encode()).hexdigest()
  folder, kind = cache() / 'tokens' / key, vocabulary.encode('').dtype
  found = _mapped(folder, kind)
  if found is None:
    try:
      shutil.rmtree(folder, ignore_errors=True)
      _write(folder, documents, vocabulary, end)
    except OSError as e:
      raise DataError(
        f'{folder}: tokens cannot be kept there ({e.strerror}): set '
        'ABLAX_CACHE to a folder with room for them'
      ) from e
    found = _mapped(folder, kind)
  # There is nothing to map where no token is, or another process has just
  # removed what it found damaged.
  return _in_memory(documents, vocabulary, end) if found is None else found


def _cut(
  documents: Sequence[Document], vocabulary: Vocabulary, end: int | None
) -> Iterator[tuple[bool, np.ndarray]]:
  """Returns the ids of each block, and whether it begins a document."""
  for one in documents:
    first = True
    for block in one.blocks():
      yield first, vocabulary.encode(block)
      first = False
    if end is not None and one.ends and not first:
      yield False, np.array([end], vocabulary.encode('').dtype)


def _in_memory(
  documents: Sequence[Document], vocabulary: Vocabulary, end: int | None
) -> Tokens:
  parts, starts, size = [], [], 0
  for first, ids in _cut(documents, vocabulary, end):
    if first:
      starts.append(size)
    parts.append(ids)
    size += ids.size
  # A part may be without text: whoever asks how long it is refuses it.
  nothing = vocabulary.encode('')
  return Tokens(np.concatenate([nothing, *parts]), _starts(starts))


def _write(
  folder: pathlib.Path,
  documents: Sequence[Document],
  vocabulary: Vocabulary,
  end: int | None,
) -> None:
  """Writes tokens into a new folder, which appears whole or not at all."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=folder.parent, prefix='.') as name:
    made = pathlib.Path(name) / 'made'
    made.mkdir()
    total, starts, size = hashlib.sha256(), [], 0
    with (made / 'ids.bin').open('wb') as f:
      for first, ids in _cut(documents, vocabulary, end):
        if first:
          starts.append(size)
        data = ids.tobytes()
        f.write(data)
        total.update(data)
        size += ids.size
    data = np.array(starts, np.int64).tobytes()
    (made / 'starts.bin').write_bytes(data)
    total.update(data)
    (made / 'sha256').write_text(total.hexdigest())
    # Another process may have been faster; its tokens are the same.
    with contextlib.suppress(OSError):
      made.rename(folder)


def _mapped(folder: pathlib.Path, kind: np.dtype) -> Tokens | None:
  """Returns tokens that were written, or none if they are not whole."""
  path = folder / 'ids.bin'
  try:
    with path.open('rb') as f:
      total = hashlib.file_digest(f, 'sha256')
    data = (folder / 'starts.bin').read_bytes()
    total.update(data)
    if (folder / 'sha256').read_bytes() != total.hexdigest().encode():
      return None
    ids = np.memmap(path, kind, 'r')
  except (OSError, ValueError):  # what is empty cannot be mapped
    return None
  return Tokens(ids, _starts(np.frombuffer(data, np.int64)))
