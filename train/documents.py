"""Documents: texts that may be too long to hold, read block by block."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

BLOCK = 2**20  # characters, and then up to the end of the line


class Document(NamedTuple):
  """A text, read anew at each call of `blocks`; a block ends with a line."""

  name: str
  blocks: Callable[[], Iterator[str]]


class Survey(NamedTuple):
  """What one pass over documents tells.

  Attributes:
    sizes: characters of each document.
    digest: sha256 of all of them, one after another; of several, and where
      each ends.
  """

  sizes: tuple[int, ...]
  digest: str


def document(name: str, text: str) -> Document:
  """Returns a text that is held as a document."""
  return Document(name, lambda: whole_lines([text]))


def whole_lines(pieces: Iterable[str]) -> Iterator[str]:
  """Returns a text in blocks that do not depend on how it came in pieces.

  A block is at least BLOCK characters and ends with a line break; the last one
  is what is left.  So a tokenizer sees the same, wherever a text was read from.
  """
  rest, seen = '', 0  # in rest, no line break at or after BLOCK before `seen`
  for piece in pieces:
    rest += piece
    while (end := rest.find('\n', max(BLOCK - 1, seen)) + 1) > 0:
      yield rest[:end]
      rest, seen = rest[end:], 0
    seen = len(rest)
  if rest:
    yield rest


def survey(documents: Sequence[Document]) -> Survey:
  """Returns sizes and digest of documents."""
  digest, sizes = hashlib.sha256(), []
  for one in documents:
    size = 0
    for block in one.blocks():
      digest.update(block.encode())
      size += len(block)
    sizes.append(size)
  # Segments, and the tokens that are kept, depend on it.
  if len(whole := [size for size in sizes if size]) > 1:
    digest.update(repr(whole).encode())
  return Survey(tuple(sizes), digest.hexdigest())


def divide(
  documents: Sequence[Document], sizes: Sequence[int], at: int
) -> tuple[list[Document], list[Document]]:
  """Returns the documents before and after a character of all of them.

  That in which it lies is divided in two.
  """
  before: list[Document] = []
  after: list[Document] = []
  for one, size in zip(documents, sizes, strict=True):
    if at >= size:
      before.append(one)
    elif at <= 0:
      after.append(one)
    else:
      before.append(Document(one.name, _part(one, 0, at)))
      after.append(Document(one.name, _part(one, at, size)))
    at -= size
  return before, after


def _part(one: Document, start: int, stop: int) -> Callable[[], Iterator[str]]:
  """Returns what reads the characters from `start` to `stop`."""

  def pieces() -> Iterator[str]:
    place = 0
    for block in one.blocks():
      piece = block[max(0, start - place) : max(0, stop - place)]
      if piece:
        yield piece
      place += len(block)

  return lambda: whole_lines(pieces())


def texts(documents: Iterable[Document]) -> Iterator[str]:
  """Returns the blocks of all documents."""
  for one in documents:
    yield from one.blocks()
