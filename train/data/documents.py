"""Documents: texts that are read in blocks, as they may exceed the memory."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

BLOCK = 2**20  # characters; a block then goes on to the end of its line
MIN_LONG_LINE = 32  # characters: shorter lines may be equal by chance
MAX_BLOCK = 2**24  # characters of a block in which no line ends


@dataclasses.dataclass
class Normalization:
  """Counts of what was normalized when a file was last read.

  Attributes:
    line_ends: CR LF line ends that were read as LF.
    marks: byte order marks that were removed from the beginning.
  """

  line_ends: int = 0
  marks: int = 0


class Document(NamedTuple):
  """A text that is read again at each call of `blocks`.

  Attributes:
    name: its name in messages.
    blocks: reads the text in blocks, each of which ends at the end of a line.
    normalization: what reading normalized; None if the text is not from a file.
    ends: whether it ends where its text ends; False if it was cut before that.
  """

  name: str
  blocks: Callable[[], Iterator[str]]
  normalization: Normalization | None = None
  ends: bool = True


class DocumentSizes(NamedTuple):
  """Sizes and digests of documents, from one pass over them.

  Attributes:
    sizes: characters of each document.
    digest: sha256 of all documents together and, if there are several, of
      their sizes.
    digests: sha256 of each document.
    normalization: what reading them normalized.
  """

  sizes: tuple[int, ...]
  digest: str
  digests: tuple[str, ...]
  normalization: Normalization


def document(name: str, text: str) -> Document:
  """Returns a text in memory as a document."""
  return Document(name, lambda: line_blocks([text]))


def line_blocks(pieces: Iterable[str]) -> Iterator[str]:
  """Yields a text in blocks that do not depend on the pieces it came in.

  A block has at least BLOCK characters and ends with a line break, or has
  LONGEST characters; the last block is the rest.  So a tokenizer gives the same
  tokens, wherever the text was read from.
  """
  # `rest` has no line break from BLOCK on and before `seen`.
  rest, seen = '', 0
  for piece in pieces:
    rest += piece
    while (end := _block_size(rest, seen)) > 0:
      yield rest[:end]
      rest, seen = rest[end:], 0
    seen = len(rest)
  if rest:
    yield rest


def _block_size(text: str, seen: int) -> int:
  """Returns the size of the first block of a text; 0 if it is incomplete.

  Args:
    text: the text, from the beginning of the block on.
    seen: characters that were searched before without a line end after BLOCK.
  """
  end = text.find('\n', max(BLOCK - 1, seen), MAX_BLOCK) + 1
  return end or (MAX_BLOCK if len(text) >= MAX_BLOCK else 0)


def measure_documents(documents: Sequence[Document]) -> DocumentSizes:
  """Reads documents once to find their sizes and digests."""
  digest, sizes, digests, mended = hashlib.sha256(), [], [], Normalization()
  for one in documents:
    size, own = 0, hashlib.sha256()
    for block in one.blocks():
      data = block.encode()
      digest.update(data)
      own.update(data)
      size += len(block)
    sizes.append(size)
    digests.append(own.hexdigest())
    if one.normalization is not None:
      mended.line_ends += one.normalization.line_ends
      mended.marks += one.normalization.marks
  # Segments, and cached tokens, depend on where documents end.
  if len(whole := [size for size in sizes if size]) > 1:
    digest.update(repr(whole).encode())
  return DocumentSizes(tuple(sizes), digest.hexdigest(), tuple(digests), mended)


def split_at(
  documents: Sequence[Document], sizes: Sequence[int], at: int
) -> tuple[list[Document], list[Document]]:
  """Splits documents at a character position, counted over all of them.

  The document that contains the position is split in two.

  Args:
    documents: the documents, in order.
    sizes: characters of each.
    at: the position.

  Returns:
    The documents before the position, and those after it.
  """
  before: list[Document] = []
  after: list[Document] = []
  for one, size in zip(documents, sizes, strict=True):
    if at >= size:
      before.append(one)
    elif at <= 0:
      after.append(one)
    else:
      before.append(Document(one.name, _read_range(one, 0, at), ends=False))
      after.append(
        Document(one.name, _read_range(one, at, size), ends=one.ends)
      )
    at -= size
  return before, after


def _read_range(
  one: Document, start: int, stop: int
) -> Callable[[], Iterator[str]]:
  """Returns a function that reads the characters from `start` to `stop`."""

  def pieces() -> Iterator[str]:
    place = 0
    for block in one.blocks():
      piece = block[max(0, start - place) : max(0, stop - place)]
      if piece:
        yield piece
      place += len(block)

  return lambda: line_blocks(pieces())


def long_lines(text: str) -> list[str]:
  """Returns the stripped lines of a text that have at least LONG characters."""
  return [
    x for x in map(str.strip, text.split('\n')) if len(x) >= MIN_LONG_LINE
  ]


def iterate_blocks(documents: Iterable[Document]) -> Iterator[str]:
  """Yields the blocks of all documents."""
  for one in documents:
    yield from one.blocks()
