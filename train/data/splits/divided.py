"""A corpus after its split: the documents of both parts, and their tokens."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from model.core.field import FieldError
from train.core.errors import DataError
from train.data.documents import DocumentSizes, measure_documents
from train.data.splits.corpus import Corpus
from train.data.splits.splits import (
  DocumentSet,
  DocumentSplit,
  FileSplit,
  Split,
)
from train.data.splits.tokens import Tokens, tokenize
from train.text.vocabulary import Vocabulary


class CorpusSplit(NamedTuple):
  """A corpus, split into a training part and a validation part.

  Attributes:
    parts: the documents of both parts.
    digest: sha256 of all documents.
    notes: remarks on what was left out or normalized.
    alone: whether all is validation, without a training part.
  """

  parts: DocumentSplit
  digest: str
  notes: list[str]
  alone: bool = False

  @property
  def key(self) -> str:
    """Returns a text that determines the training part, as a cache key."""
    return f'{self.digest} {self.parts.split}'

  @property
  def said(self) -> str:
    """Returns a description of the validation part."""
    split = self.parts.split
    how = '' if split is None else f' (--task.split={split.tag})'
    size = self.parts.sizes[1]
    return f'validation: {size:,} characters, {self.parts.said}{how}'

  def tokens(
    self, vocabulary: Vocabulary, end: int | None = None
  ) -> dict[str, Tokens]:
    """Returns the tokens of each part, `train` (if any) and `validation`.

    Args:
      vocabulary: encodes the texts.
      end: id of the token to add after each document; None adds no token.

    Raises:
      UnknownSymbols: a text has symbols that are not in the vocabulary, which
        has no <unk>.
    """
    train, held = self.parts.train, self.parts.held
    first, second = self.parts.sizes
    parts = {'validation': (held, second)}
    if not self.alone:
      parts = {'train': (train, first), **parts}
    return {
      name: tokenize(part, vocabulary, size, f'{name} {self.key}', end)
      for name, (part, size) in parts.items()
    }


def split_corpus(split: Split, source: Corpus) -> CorpusSplit:
  """Splits a corpus into a training part and a validation part.

  Raises:
    DataError: the corpus, or one of the parts, has no text.
    FieldError: the split lacks a value that it needs, or has no effect.
  """
  found = measure_documents(source.train)
  _check_text(source.name, found)
  if source.held is None:
    each = (source.train, found.sizes, found.digests)
    full = [one for one in zip(*each, strict=True) if one[1]]
    parts = split.parts(DocumentSet(*zip(*full, strict=True)))
  elif split.is_overridable:
    other = measure_documents(source.held)
    sizes = sum(found.sizes), sum(other.sizes)
    named = isinstance(split, FileSplit)
    origin = f'all of {split.path}' if named else 'rows of their own'
    parts = DocumentSplit(source.train, source.held, sizes, origin, other=other)
  else:
    raise FieldError(
      'task.split',
      split,
      f'has no effect on {source.name}, which has a validation part: drop one',
    )
  surveys = [found] if parts.other is None else [found, parts.other]
  digest = ' '.join(one.digest for one in surveys)
  if len(surveys) > 1:
    digest = hashlib.sha256(digest.encode()).hexdigest()
  return CorpusSplit(parts, digest, _notes(surveys))


def validation_only(source: Corpus) -> CorpusSplit:
  """Returns a corpus as a validation part alone, to evaluate a trained model.

  If the corpus has a validation part of its own, that is used, else all of it.

  Raises:
    DataError: there is no text.
  """
  documents = source.train if source.held is None else source.held
  found = measure_documents(documents)
  _check_text(source.name, found)
  parts = DocumentSplit([], documents, (0, sum(found.sizes)), 'all of it')
  return CorpusSplit(parts, found.digest, _notes([found]), alone=True)


def _check_text(name: str, found: DocumentSizes) -> None:
  if not any(found.sizes):
    raise DataError(f'{name}: is empty: give a file with text')


def _notes(surveys: Sequence[DocumentSizes]) -> list[str]:
  """Returns remarks on what was left out of documents or normalized."""
  empty = sum(found.sizes.count(0) for found in surveys)
  ends = sum(found.normalization.line_ends for found in surveys)
  marks = sum(found.normalization.marks for found in surveys)
  counts = {
    f'{empty:,} empty files': empty,
    f'{ends:,} line ends CR LF read as LF': ends,
    f'{marks:,} byte order marks left out': marks,
  }
  return [note for note, count in counts.items() if count]
