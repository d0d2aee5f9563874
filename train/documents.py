"""Documents: texts that may be too long to hold, read block by block."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

BLOCK = 2**20  # characters, and then up to the end of the line
LONG = 32  # characters: shorter lines are equal by chance
LONGEST = 2**24  # characters of a block, where no line ends before


@dataclasses.dataclass
class Mended:
  """What the last reading of a file has changed in its text.

  Attributes:
    line_ends: carriage returns before a line break, which were left out.
    marks: byte order marks at the beginning, which were.
  """

  line_ends: int = 0
  marks: int = 0


class Document(NamedTuple):
  """A text, read anew at each call of `blocks`; a block ends with a line.

  Attributes:
    name: for messages.
    blocks: reads it.
    mended: what that has changed; none of what is no file.
    ends: its last character is the last of a text, and not where one was cut.
  """

  name: str
  blocks: Callable[[], Iterator[str]]
  mended: Mended | None = None
  ends: bool = True


class Survey(NamedTuple):
  """What one pass over documents tells.

  Attributes:
    sizes: characters of each document.
    digests: sha256 of each.
    mended: what reading them has changed.
    digest: sha256 of all of them, one after another; of several, and where
      each ends.
  """

  sizes: tuple[int, ...]
  digest: str
  digests: tuple[str, ...]
  mended: Mended


def document(name: str, text: str) -> Document:
  """Returns a text that is held as a document."""
  return Document(name, lambda: whole_lines([text]))


def whole_lines(pieces: Iterable[str]) -> Iterator[str]:
  """Returns a text in blocks that do not depend on how it came in pieces.

  A block is at least BLOCK characters and ends with a line break, or has
  LONGEST characters; the last one is what is left.  So a tokenizer sees the
  same, wherever a text was read from.
  """
  rest, seen = '', 0  # in rest, no line break at or after BLOCK before `seen`
  for piece in pieces:
    rest += piece
    while (end := _end(rest, seen)) > 0:
      yield rest[:end]
      rest, seen = rest[end:], 0
    seen = len(rest)
  if rest:
    yield rest


def _end(text: str, seen: int) -> int:
  """Returns how long the block is that a text begins with; 0 is not yet whole.

  No line ends between BLOCK and `seen`.
  """
  end = text.find('\n', max(BLOCK - 1, seen), LONGEST) + 1
  return end or (LONGEST if len(text) >= LONGEST else 0)


def survey(documents: Sequence[Document]) -> Survey:
  """Returns sizes and digests of documents."""
  digest, sizes, digests, mended = hashlib.sha256(), [], [], Mended()
  for one in documents:
    size, own = 0, hashlib.sha256()
    for block in one.blocks():
      data = block.encode()
      digest.update(data)
      own.update(data)
      size += len(block)
    sizes.append(size)
    digests.append(own.hexdigest())
    if one.mended is not None:
      mended.line_ends += one.mended.line_ends
      mended.marks += one.mended.marks
  # Segments, and the tokens that are kept, depend on it.
  if len(whole := [size for size in sizes if size]) > 1:
    digest.update(repr(whole).encode())
  return Survey(tuple(sizes), digest.hexdigest(), tuple(digests), mended)


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
      before.append(Document(one.name, _part(one, 0, at), ends=False))
      after.append(Document(one.name, _part(one, at, size), ends=one.ends))
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


def long_lines(text: str) -> list[str]:
  """Returns the lines of a text that are long, without indentation."""
  return [x for x in map(str.strip, text.split('\n')) if len(x) >= LONG]


def texts(documents: Iterable[Document]) -> Iterator[str]:
  """Returns the blocks of all documents."""
  for one in documents:
    yield from one.blocks()
