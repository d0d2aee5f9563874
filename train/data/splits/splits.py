"""Splits: which part of a text or table is for training, and which validation.

A text is split between two characters, before it is cut into tokens: so the
validation text does not depend on the tokenizer.  A table is split between
rows, and rows with the same text are in the same part.
"""

import abc
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

from model.core.field import FieldError, Variant, field
from model.core.limits import COUNT
from train.core.errors import DataError
from train.data.documents import (
  Document,
  DocumentSizes,
  measure_documents,
  split_at,
)
from train.data.splits.corpus import read_corpus
from train.data.splits.strata import tenth_of_each

VALIDATION_SHARE = (
  0.1  # validation share of a text; or the chance of each document
)
# `auto` uses `hash` if at least so many validation documents, with a share of
# the text in these bounds, result; otherwise it uses `each`.
FEWEST = 3
LEAST, MOST = 1 / 30, 1 / 4
NAMED = 2  # at most so many documents are named in a message


class DocumentSet(NamedTuple):
  """Documents that are not empty, with the size and the digest of each."""

  documents: Sequence[Document]
  sizes: Sequence[int]
  digests: Sequence[str]


class DocumentSplit(NamedTuple):
  """The documents of the training part and of the validation part.

  Attributes:
    train: documents to train on.
    held: documents to evaluate on.
    sizes: characters of the training part, and of the validation part.
    said: where the validation documents are from, as a phrase.
    split: the split that made the parts; None if the corpus came in parts.
    other: survey of the validation documents, if they are from another text.
  """

  train: list[Document]
  held: list[Document]
  sizes: tuple[int, int]
  said: str
  split: 'Split | None' = None
  other: DocumentSizes | None = None


class RowSplit(NamedTuple):
  """The validation rows of a table, as a mask, and how they were chosen."""

  rows: Sequence[bool]
  said: str
  split: 'Split'


class Split(Variant, abc.ABC):
  """A rule that splits a text, or the rows of a table, into two parts.

  Attributes:
    is_overridable: whether it is ignored if the data have a validation part of
      their own; otherwise giving both is an error.
  """

  is_overridable: ClassVar[bool] = False

  @abc.abstractmethod
  def parts(self, found: DocumentSet) -> DocumentSplit:
    """Splits documents into a training part and a validation part.

    Args:
      found: documents that are not empty.

    Raises:
      DataError: a part would have no text.
      FieldError: the split lacks a value that it needs.
    """

  def judged(
    self, keys: Sequence[str], labels: Sequence[str] | None
  ) -> RowSplit:
    """Chooses the validation rows of a table.

    Args:
      keys: text of each row; if rows are drawn, equal ones are in one part.
      labels: label of each row, if there are labels.

    Raises:
      FieldError: the split is only for documents.
    """
    del keys, labels
    raise FieldError(
      'task.split',
      self,
      'cuts documents, and rows are whole: try --task.split=hash, or tail',
    )


@dataclasses.dataclass(frozen=True)
class TailSplit(Split, tag='tail'):
  """The last tenth of the characters of all documents, or of all rows."""

  def parts(self, found: DocumentSet) -> DocumentSplit:
    """Splits after nine tenths of the characters."""
    total = sum(found.sizes)
    cut = int((1 - VALIDATION_SHARE) * total)
    train, held = split_at(found.documents, found.sizes, cut)
    sizes = cut, total - cut
    return DocumentSplit(
      train, held, sizes, f'the end of {_name_some(held)}', self
    )

  def judged(
    self, keys: Sequence[str], labels: Sequence[str] | None
  ) -> RowSplit:
    """Chooses the last tenth of the rows."""
    del labels
    cut = int((1 - VALIDATION_SHARE) * len(keys))
    rows = [n >= cut for n in range(len(keys))]
    return RowSplit(rows, 'the last of all', self)


@dataclasses.dataclass(frozen=True)
class EachSplit(Split, tag='each'):
  """The last tenth of each document."""

  def parts(self, found: DocumentSet) -> DocumentSplit:
    """Splits each document after nine tenths of its characters."""
    train: list[Document] = []
    held: list[Document] = []
    first = 0
    for one, size in zip(found.documents, found.sizes, strict=True):
      cut = size - int(VALIDATION_SHARE * size)
      before, after = split_at([one], [size], cut)
      train += before
      held += after
      first += cut
    sizes = first, sum(found.sizes) - first
    said = f'the end of each of {len(found.documents):,} documents'
    return DocumentSplit(train, held, sizes, said, self)


@dataclasses.dataclass(frozen=True)
class HashSplit(Split, tag='hash'):
  """Whole documents or rows, a tenth of them, drawn by a hash of their text.

  A document is drawn by its text alone, not by its name or the others: adding
  one moves no other, and equal ones are in one part.  Rows of a table are drawn
  likewise, whatever their order.  With labels, the tenth of each label with the
  lowest hashes is drawn, at least one text if the label has two: adding a row
  moves at most one other.
  """

  seed: int = field(0, 'Seed of the draw.', min=0, max=COUNT)

  def parts(self, found: DocumentSet) -> DocumentSplit:
    """Puts documents with a low hash into the validation part."""
    parts = self.drawn(found)
    count = len(found.documents)
    for size, part in zip(parts.sizes, ('train', 'validation'), strict=True):
      if not size:
        raise FieldError(
          'task.split',
          self,
          f'of {count:,} documents none falls into the {part} part: try '
          'another --task.split.seed, or --task.split=each',
        )
    return parts

  def drawn(self, found: DocumentSet) -> DocumentSplit:
    """Splits documents as `parts` does, but accepts a part without text."""
    train: list[Document] = []
    held: list[Document] = []
    sizes = [0, 0]
    for one, size, digest in zip(*found, strict=True):
      is_held = self._is_held_out(digest)
      (held if is_held else train).append(one)
      sizes[is_held] += size
    said = f'from {_name_some(held)} of {len(found.documents):,} documents'
    return DocumentSplit(train, held, (sizes[0], sizes[1]), said, self)

  def judged(
    self, keys: Sequence[str], labels: Sequence[str] | None
  ) -> RowSplit:
    """Chooses the rows with a low hash; with labels, a tenth of each."""
    hashes = {
      key: self._hash(hashlib.sha256(key.encode()).hexdigest())
      for key in set(keys)
    }
    order = sorted(hashes, key=lambda key: (hashes[key], key))
    if labels is None:
      low = sum(hashed < VALIDATION_SHARE * 2**64 for hashed in hashes.values())
      held = set(order[: min(max(1, low), len(order) - 1)])
      said = 'by a hash of each'
    else:
      held = tenth_of_each(order, keys, labels)
      said = 'a tenth of each label by a hash of the text'
    return RowSplit([key in held for key in keys], said, self)

  def _is_held_out(self, digest: str) -> bool:
    """Returns whether the document with this digest is for validation."""
    return self._hash(digest) < VALIDATION_SHARE * 2**64

  def _hash(self, digest: str) -> int:
    """Returns a pseudo-random number below 2^64 from the seed and a digest."""
    drawn = hashlib.sha256(f'{self.seed} {digest}'.encode()).digest()
    return int.from_bytes(drawn[:8], 'big')


@dataclasses.dataclass(frozen=True)
class FileSplit(Split, tag='file'):
  """All of another text; all of the first text is trained on.

  For a table it is another table of the same format, which is the same as to
  give --task.data.validation.
  """

  is_overridable: ClassVar[bool] = True

  path: str | None = field(None, 'Text file, or a folder of them.')

  def parts(self, found: DocumentSet) -> DocumentSplit:
    """Returns the given documents, and those of the other text."""
    if self.path is None:
      raise FieldError(
        'task.split.path', None, 'must be given: a text file or a folder'
      )
    held = read_corpus(self.path, 'task.split.path').train
    other = measure_documents(held)
    sizes = sum(found.sizes), sum(other.sizes)
    if not sizes[1]:
      raise DataError(f'{self.path}: is empty: give a file with text')
    return DocumentSplit(
      list(found.documents), held, sizes, f'all of {self.path}', self, other
    )


@dataclasses.dataclass(frozen=True)
class AutoSplit(Split, tag='auto'):
  """One document: tail; several: hash or, if that is uneven, each; rows: hash.

  `hash` is even if it gives at least three validation documents, with 1/30 to
  1/4 of the text.  The choice is printed.
  """

  is_overridable: ClassVar[bool] = True

  def parts(self, found: DocumentSet) -> DocumentSplit:
    """Splits by the rule that suits the number and sizes of the documents."""
    if len(found.documents) == 1:
      return TailSplit().parts(found)
    parts = HashSplit().drawn(found)
    share = parts.sizes[1] / sum(parts.sizes)
    if len(parts.held) >= FEWEST and LEAST <= share <= MOST:
      return parts
    return EachSplit().parts(found)

  def judged(
    self, keys: Sequence[str], labels: Sequence[str] | None
  ) -> RowSplit:
    """Chooses the same rows as `hash`."""
    return HashSplit().judged(keys, labels)


AnySplit = AutoSplit | TailSplit | EachSplit | HashSplit | FileSplit


def _name_some(documents: Sequence[Document]) -> str:
  """Returns the names of the first few documents, and the number of others."""
  names = [one.name for one in documents]
  more = len(names) - NAMED
  if more <= 0:
    return ' and '.join(names)
  return f'{", ".join(names[:NAMED])} and {more:,} more'
