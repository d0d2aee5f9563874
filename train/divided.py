"""A corpus that is split: its documents, digests, and their tokens."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from model.field import FieldError
from train.corpus import Corpus
from train.documents import Survey, survey
from train.splits import Auto, File, Parts, Split, Surveyed
from train.task import DataError
from train.tokens import Tokens, tokens
from train.vocabulary import Vocabulary


class Divided(NamedTuple):
  """What is trained on, and what is judged.

  Attributes:
    parts: documents.
    digest: of all of them.
    notes: what was left out, or changed.
    alone: all is judged, and there is no training part.
  """

  parts: Parts
  digest: str
  notes: list[str]
  alone: bool = False

  @property
  def key(self) -> str:
    """Returns what the training part is a function of."""
    return f'{self.digest} {self.parts.split}'

  @property
  def said(self) -> str:
    """Returns what is judged, for a reader."""
    split = self.parts.split
    how = '' if split is None else f' (--task.split={split.tag})'
    size = self.parts.sizes[1]
    return f'validation: {size:,} characters, {self.parts.said}{how}'

  def tokens(
    self, vocabulary: Vocabulary, end: int | None = None
  ) -> dict[str, Tokens]:
    """Returns the tokens of each part that there is, by its name.

    Args:
      vocabulary: what tokens stand for.
      end: the token that stands behind each document; none is no token.

    Raises:
      UnknownSymbols: the vocabulary lacks some, and has no <unk>.
    """
    train, held = self.parts.train, self.parts.held
    first, second = self.parts.sizes
    parts = {'validation': (held, second)}
    if not self.alone:
      parts = {'train': (train, first), **parts}
    return {
      name: tokens(part, vocabulary, size, f'{name} {self.key}', end)
      for name, (part, size) in parts.items()
    }


def divided_by(split: Split, source: Corpus) -> Divided:
  """Returns a corpus in two parts.

  Raises:
    DataError: there is no text, or a part would be without.
    FieldError: the split was not given what it needs, or has no effect.
  """
  found = survey(source.train)
  _check_text(source.name, found)
  if source.held is None:
    each = (source.train, found.sizes, found.digests)
    full = [one for one in zip(*each, strict=True) if one[1]]
    parts = split.parts(Surveyed(*zip(*full, strict=True)))
  elif isinstance(split, Auto | File):
    other = survey(source.held)
    sizes = sum(found.sizes), sum(other.sizes)
    named = isinstance(split, File)
    said = f'all of {split.path}' if named else 'rows of their own'
    parts = Parts(source.train, source.held, sizes, said, other=other)
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
  return Divided(parts, digest, _notes(surveys))


def whole(source: Corpus) -> Divided:
  """Returns a corpus of which all is judged; of one in two parts, the second.

  Raises:
    DataError: there is no text.
  """
  documents = source.train if source.held is None else source.held
  found = survey(documents)
  _check_text(source.name, found)
  parts = Parts([], documents, (0, sum(found.sizes)), 'all of it')
  return Divided(parts, found.digest, _notes([found]), alone=True)


def _check_text(name: str, found: Survey) -> None:
  if not any(found.sizes):
    raise DataError(f'{name}: is empty: give a file with text')


def _notes(surveys: Sequence[Survey]) -> list[str]:
  """Returns what of all documents was left out, or changed."""
  empty = sum(found.sizes.count(0) for found in surveys)
  ends = sum(found.mended.line_ends for found in surveys)
  marks = sum(found.mended.marks for found in surveys)
  said = {
    f'{empty:,} empty files': empty,
    f'{ends:,} line ends CR LF read as LF': ends,
    f'{marks:,} byte order marks left out': marks,
  }
  return [note for note, count in said.items() if count]
