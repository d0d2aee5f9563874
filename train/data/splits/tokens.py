"""Documents as one array of token ids, in memory or mapped from disk.

Long texts are tokenized only once: their ids are stored in the cache, under a
digest of all that they depend on, and memory-mapped.
"""

import contextlib
import hashlib
import pathlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from train.code.reach import method_digest
from train.core.errors import DataError
from train.data.documents import Document
from train.files.durable import cache_folder
from train.text.vocabulary import Vocabulary

# Characters from which on tokens are cached; shorter texts take a second.
MIN_CACHED_SIZE = 2**24


class Tokens(NamedTuple):
  """Token ids of all documents, one after another, and where each begins."""

  ids_X: np.ndarray
  starts_X: np.ndarray


def _narrow(values: Sequence[int] | np.ndarray) -> np.ndarray:
  """Returns ascending integers as int32 if they fit, else as int64."""
  found = np.array(values, np.int64)
  small = not found.size or found[-1] < 2**31
  return found.astype(np.int32) if small else found


def tokenize(
  documents: Sequence[Document],
  vocabulary: Vocabulary,
  size: int,
  digest: str,
  end: int | None = None,
) -> Tokens:
  """Returns the tokens of documents; long ones are cached.

  Args:
    documents: the documents.
    vocabulary: encodes their text.
    size: characters of all documents together.
    digest: a text that determines the documents, for the key of the cache.
    end: id of the token to add after each document; None adds no token.

  Raises:
    DataError: the cache cannot be written.
    UnknownSymbols: a text has symbols that are not in the vocabulary, which has
      no <unk>.
  """
  if size < MIN_CACHED_SIZE:
    return _in_memory(documents, vocabulary, end)
  code = method_digest('encode blocks', vocabulary, *documents[:1])
  names = [str(size), digest, vocabulary.digest, code]
  names += [] if end is None else ['ends']
  key = hashlib.sha256(' '.join(names).encode()).hexdigest()
  folder, kind = cache_folder() / 'tokens' / key, vocabulary.encode('').dtype
  found = _open_mapped(folder, kind)
  if found is None:
    try:
      shutil.rmtree(folder, ignore_errors=True)
      _write(folder, documents, vocabulary, end)
    except OSError as e:
      raise DataError(
        f'{folder}: tokens cannot be kept there ({e.strerror}): set '
        'ABLAX_CACHE to a folder with room for them'
      ) from e
    found = _open_mapped(folder, kind)
  # It cannot be mapped if there are no tokens, or if another process has just
  # removed it as damaged.
  return _in_memory(documents, vocabulary, end) if found is None else found


def _encode(
  documents: Sequence[Document], vocabulary: Vocabulary, end: int | None
) -> Iterator[tuple[bool, np.ndarray]]:
  """Yields for each block whether it begins a document, and its token ids."""
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
  for first, ids in _encode(documents, vocabulary, end):
    if first:
      starts.append(size)
    parts.append(ids)
    size += ids.size
  # A part may have no text: it is refused later, where its length is checked.
  empty = vocabulary.encode('')
  return Tokens(np.concatenate([empty, *parts]), _narrow(starts))


def _write(
  folder: pathlib.Path,
  documents: Sequence[Document],
  vocabulary: Vocabulary,
  end: int | None,
) -> None:
  """Writes tokens into a new folder, which appears atomically."""
  folder.parent.mkdir(parents=True, exist_ok=True)
  with tempfile.TemporaryDirectory(dir=folder.parent, prefix='.') as name:
    made = pathlib.Path(name) / 'made'
    made.mkdir()
    total, starts, size = hashlib.sha256(), [], 0
    with (made / 'ids.bin').open('wb') as f:
      for first, ids in _encode(documents, vocabulary, end):
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
    # If another process was faster, its tokens are the same.
    with contextlib.suppress(OSError):
      made.rename(folder)


def _open_mapped(folder: pathlib.Path, kind: np.dtype) -> Tokens | None:
  """Returns cached tokens, or None if they are absent or damaged."""
  path = folder / 'ids.bin'
  try:
    with path.open('rb') as f:
      total = hashlib.file_digest(f, 'sha256')
    data = (folder / 'starts.bin').read_bytes()
    total.update(data)
    if (folder / 'sha256').read_bytes() != total.hexdigest().encode():
      return None
    ids = np.memmap(path, kind, 'r')
  except (OSError, ValueError):  # ValueError: an empty file cannot be mapped
    return None
  return Tokens(ids, _narrow(np.frombuffer(data, np.int64)))
