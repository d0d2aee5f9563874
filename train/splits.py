"""Splits: which of a text or a table is trained on, and which is judged.

A text is split before it is cut into tokens, between two of its characters: the
judged text is one text, whatever the tokenizer.  Of a table of sentences rows
are whole, and those of one text are in one part.
"""

import abc
import dataclasses
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from model.field import FieldError, Variant, field
from model.limits import COUNT
from train.corpus import read
from train.documents import Document, Survey, divide, survey
from train.strata import tenth_of_each
from train.task import DataError

SHARE = 0.1  # of the text is judged, or, of documents, each with this chance
# What `auto` asks of a hash, else it takes the end of each document.
FEWEST = 3  # documents to judge
LEAST, MOST = 1 / 30, 1 / 4  # share of the text
NAMED = 2  # documents that a line names


class Surveyed(NamedTuple):
  """Documents that have text, and the size and the digest of each."""

  documents: Sequence[Document]
  sizes: Sequence[int]
  digests: Sequence[str]


class Parts(NamedTuple):
  """Documents to train on and to judge, and what is said of them.

  Attributes:
    train: to train on.
    held: to judge.
    sizes: characters of both.
    said: where those to judge are from.
    split: by which they are made; none if that was not chosen.
    other: survey of those to judge, where they are not of the text itself.
  """

  train: list[Document]
  held: list[Document]
  sizes: tuple[int, int]
  said: str
  split: 'Split | None' = None
  other: Survey | None = None


class Judged(NamedTuple):
  """Which rows of a table are judged, and how they were chosen, in words."""

  rows: Sequence[bool]
  said: str
  split: 'Split'


class Split(Variant, abc.ABC):
  """A rule by which a text, or the rows of a table, are split."""

  @abc.abstractmethod
  def parts(self, found: Surveyed) -> Parts:
    """Returns the parts of documents.

    Args:
      found: documents that have text.

    Raises:
      DataError: a part would be without text.
      FieldError: it was not given what it needs.
    """

  def judged(self, keys: Sequence[str], labels: Sequence[str] | None) -> Judged:
    """Returns which rows of a table are judged.

    Args:
      keys: of each row; rows of one key are in one part, where that is drawn.
      labels: of each row, where they have any.

    Raises:
      FieldError: it is no rule for rows.
    """
    del keys, labels
    raise FieldError(
      'task.split',
      self,
      'cuts documents, and rows are whole: try --task.split=hash, or tail',
    )


@dataclasses.dataclass(frozen=True)
class Tail(Split, tag='tail'):
  """The last tenth of the characters of all documents, or of all rows."""

  def parts(self, found: Surveyed) -> Parts:
    """Returns what is before and after nine tenths."""
    total = sum(found.sizes)
    cut = int((1 - SHARE) * total)
    train, held = divide(found.documents, found.sizes, cut)
    sizes = cut, total - cut
    return Parts(train, held, sizes, f'the end of {_names(held)}', self)

  def judged(self, keys: Sequence[str], labels: Sequence[str] | None) -> Judged:
    """Returns the last tenth of the rows, whatever they hold."""
    del labels
    cut = int((1 - SHARE) * len(keys))
    rows = [n >= cut for n in range(len(keys))]
    return Judged(rows, 'the last of all', self)


@dataclasses.dataclass(frozen=True)
class Each(Split, tag='each'):
  """The last tenth of each document."""

  def parts(self, found: Surveyed) -> Parts:
    """Returns the beginning and the end of each document."""
    train: list[Document] = []
    held: list[Document] = []
    first = 0
    for one, size in zip(found.documents, found.sizes, strict=True):
      cut = size - int(SHARE * size)
      before, after = divide([one], [size], cut)
      train += before
      held += after
      first += cut
    sizes = first, sum(found.sizes) - first
    said = f'the end of each of {len(found.documents):,} documents'
    return Parts(train, held, sizes, said, self)


@dataclasses.dataclass(frozen=True)
class Hash(Split, tag='hash'):
  """Whole documents, each with a chance of a tenth, by a hash; or rows.

  Neither its name nor the other documents have a say: one that is added moves
  no other, and two that are equal are in one part.  Rows of a table likewise,
  in any order; with labels, of each label the tenth whose hashes are lowest,
  and at least one text of two: a row that is added moves at most one other.
  """

  seed: int = field(0, 'Another draw.', min=0, max=COUNT)

  def parts(self, found: Surveyed) -> Parts:
    """Returns the documents whose hash is high, and those where it is low."""
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

  def drawn(self, found: Surveyed) -> Parts:
    """Returns the parts, of which one may be without text."""
    train: list[Document] = []
    held: list[Document] = []
    sizes = [0, 0]
    for one, size, digest in zip(*found, strict=True):
      judged = self._judged(digest)
      (held if judged else train).append(one)
      sizes[judged] += size
    said = f'from {_names(held)} of {len(found.documents):,} documents'
    return Parts(train, held, (sizes[0], sizes[1]), said, self)

  def judged(self, keys: Sequence[str], labels: Sequence[str] | None) -> Judged:
    """Returns the rows whose hash is low, of each label its share."""
    hashes = {
      key: self._hash(hashlib.sha256(key.encode()).hexdigest())
      for key in set(keys)
    }
    order = sorted(hashes, key=lambda key: (hashes[key], key))
    if labels is None:
      low = sum(hashed < SHARE * 2**64 for hashed in hashes.values())
      held = set(order[: min(max(1, low), len(order) - 1)])
      said = 'by a hash of each'
    else:
      held = tenth_of_each(order, keys, labels)
      said = 'a tenth of each label by a hash of the text'
    return Judged([key in held for key in keys], said, self)

  def _judged(self, digest: str) -> bool:
    """Returns whether a document with this digest is judged."""
    return self._hash(digest) < SHARE * 2**64

  def _hash(self, digest: str) -> int:
    """Returns a number below 2^64, drawn for a text with this digest."""
    drawn = hashlib.sha256(f'{self.seed} {digest}'.encode()).digest()
    return int.from_bytes(drawn[:8], 'big')


@dataclasses.dataclass(frozen=True)
class File(Split, tag='file'):
  """Another text, all of it; all of the first is trained on.

  Of a table another table of its form, as --task.data.validation has it.
  """

  path: str | None = field(None, 'Text file, or a folder of them.')

  def parts(self, found: Surveyed) -> Parts:
    """Returns the documents, and those of the other text."""
    if self.path is None:
      raise FieldError(
        'task.split.path', None, 'must be given: a text file or a folder'
      )
    held = read(self.path, 'task.split.path').train
    other = survey(held)
    sizes = sum(found.sizes), sum(other.sizes)
    if not sizes[1]:
      raise DataError(f'{self.path}: is empty: give a file with text')
    return Parts(
      list(found.documents), held, sizes, f'all of {self.path}', self, other
    )


@dataclasses.dataclass(frozen=True)
class Auto(Split, tag='auto'):
  """Tail of one document; of several hash, or each where unfair; of rows hash.

  It is fair where at least three documents fall into the validation part, with
  1/30 to 1/4 of the text.  Which one it is is said.
  """

  def parts(self, found: Surveyed) -> Parts:
    """Returns the parts of the split that suits the documents."""
    if len(found.documents) == 1:
      return Tail().parts(found)
    parts = Hash().drawn(found)
    share = parts.sizes[1] / sum(parts.sizes)
    if len(parts.held) >= FEWEST and LEAST <= share <= MOST:
      return parts
    return Each().parts(found)

  def judged(self, keys: Sequence[str], labels: Sequence[str] | None) -> Judged:
    """Returns what hash does."""
    return Hash().judged(keys, labels)


AnySplit = Auto | Tail | Each | Hash | File


def _names(documents: Sequence[Document]) -> str:
  """Returns the names of the first documents, and how many more there are."""
  names = [one.name for one in documents]
  more = len(names) - NAMED
  if more <= 0:
    return ' and '.join(names)
  return f'{", ".join(names[:NAMED])} and {more:,} more'
