"""Tokenizers: how a text becomes symbols, and how their list is learned.

A tokenizer is a choice with its flags; `train` makes a vocabulary, which is
what encodes and decodes.  All of them give equal vocabularies for equal texts.
"""

import collections
import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from model.field import FieldError, Variant, field
from model.limits import COUNT, SYMBOLS
from train.subwords import INSIDE, BytePairs, WordPieces
from train.task import DataError
from train.vocabulary import (
  Bytes,
  Characters,
  Special,
  Vocabulary,
  ordered,
)
from train.words import Words

if TYPE_CHECKING:
  from tokenizers import Tokenizer as Cutter

LONGEST = 8192  # letters of a word whose pairs are merged

# Called once for each pass over a text, which may be too long to hold.
Texts = Callable[[], Iterable[str]]


@dataclasses.dataclass(frozen=True)
class Char(Variant, tag='char'):
  """Characters of the training part; of running text, those of all of it.

  In the order of code points.  A running text has no <unk>.
  """

  learned: ClassVar[bool] = Characters.learned

  def train(self, texts: Texts, specials: Sequence[Special] = ()) -> Vocabulary:
    """Returns the vocabulary of all characters of the texts."""
    found = set(itertools.chain.from_iterable(map(set, texts())))
    return Characters(''.join(sorted(found)), specials=ordered(specials))


@dataclasses.dataclass(frozen=True)
class Byte(Variant, tag='byte'):
  """Bytes of UTF-8: 256 symbols, any text."""

  learned: ClassVar[bool] = Bytes.learned

  def train(self, texts: Texts, specials: Sequence[Special] = ()) -> Vocabulary:
    """Returns the vocabulary of all bytes; it has no need of <unk>."""
    del texts
    return Bytes(specials=_without_unknown(specials))


@dataclasses.dataclass(frozen=True)
class Word(Variant, tag='word'):
  """What white space separates, most frequent first; text cut beforehand."""

  learned: ClassVar[bool] = Words.learned

  vocab_size: int = field(
    65536, 'Most symbols, special tokens included.', min=8, max=SYMBOLS
  )
  min_count: int = field(
    1, 'Rarer words or pairs are left out.', min=1, max=COUNT
  )
  lowercase: bool = field(False, 'Lower the case before cutting.')

  def train(self, texts: Texts, specials: Sequence[Special] = ()) -> Vocabulary:
    """Returns the vocabulary of the most frequent words, ties by name."""
    counts: collections.Counter[str] = collections.Counter()
    for text in texts():
      counts.update(Words.split(text, self.lowercase))
    known = ordered([Special.UNK, *specials])
    often = [w for w, count in counts.items() if count >= self.min_count]
    often.sort(key=lambda word: (-counts[word], word))
    words = tuple(often[: self.vocab_size - len(known)])
    return Words(words, self.lowercase, specials=known)


@dataclasses.dataclass(frozen=True)
class Bpe(Variant, tag='bpe'):
  """Pairs of bytes, merged most frequent first (Sennrich et al. 2016).

  Departures: of bytes, not characters, and of words cut as by GPT-2 (Radford
  et al. 2019, section 2.2), so that any text can be written and read back.
  """

  learned: ClassVar[bool] = BytePairs.learned

  vocab_size: int = field(
    8192, 'Most symbols, special tokens included.', min=264, max=SYMBOLS
  )
  min_count: int = field(
    2, 'Rarer words or pairs are left out.', min=1, max=COUNT
  )

  def train(self, texts: Texts, specials: Sequence[Special] = ()) -> Vocabulary:
    """Returns the vocabulary of all bytes and of the merged pairs."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    known = _without_unknown(specials)
    cutter = Tokenizer(models.BPE())
    cutter.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    _check_words(self.tag, texts, cutter)
    trainer = trainers.BpeTrainer(
      vocab_size=self.vocab_size - len(known),
      min_frequency=self.min_count,
      initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
      show_progress=False,
    )
    cutter.train_from_iterator(texts(), trainer)
    pieces, merges = _learned(cutter)
    return BytePairs(pieces, merges, specials=known)


@dataclasses.dataclass(frozen=True)
class WordPiece(Variant, tag='wordpiece'):
  """Parts of words, longest first (Schuster & Nakajima 2012; Devlin 2019).

  Learned by merging the most frequent pair, as the library does, not by the
  gain in likelihood; in lower case, accents are dropped too.
  """

  learned: ClassVar[bool] = WordPieces.learned

  vocab_size: int = field(
    8192, 'Most symbols, special tokens included.', min=8, max=SYMBOLS
  )
  min_count: int = field(
    2, 'Rarer words or pairs are left out.', min=1, max=COUNT
  )
  lowercase: bool = field(True, 'Lower the case before cutting.')

  def train(self, texts: Texts, specials: Sequence[Special] = ()) -> Vocabulary:
    """Returns the vocabulary of all characters and of the merged pieces."""
    from tokenizers import Tokenizer, models, trainers

    known = ordered([Special.UNK, *specials])
    cutter = Tokenizer(models.WordPiece(unk_token=Special.UNK.value))
    # The same cuts as when the pieces are used.
    empty = WordPieces((), self.lowercase, specials=known).cutter
    cutter.normalizer = empty.normalizer
    cutter.pre_tokenizer = empty.pre_tokenizer
    _check_words(self.tag, texts, cutter)
    letters = _letters(texts, empty)
    least = 2 * len(letters) + len(known)
    if least > self.vocab_size:
      raise FieldError(
        'vocab_size',
        self.vocab_size,
        f'must be at least {least}: the text has {len(letters)} characters, '
        'each of which begins a word or goes on with one',
      )
    trainer = trainers.WordPieceTrainer(
      vocab_size=self.vocab_size - len(known),
      min_frequency=self.min_count,
      # Named in order: numbered as they come, ties would be broken at random
      # (huggingface/tokenizers#1794), and two runs would differ.
      special_tokens=[*letters, *(INSIDE + c for c in letters)],
      show_progress=False,
    )
    cutter.train_from_iterator(texts(), trainer)
    pieces, _ = _learned(cutter)
    return WordPieces(pieces, self.lowercase, specials=known)


Tokenizer = Char | Byte | Word | Bpe | WordPiece


def _without_unknown(specials: Sequence[Special]) -> tuple[Special, ...]:
  return ordered([s for s in specials if s is not Special.UNK])


def _check_words(tag: str, texts: Texts, cutter: 'Cutter') -> None:
  """Raises a DataError for a word that merging would take minutes over."""
  for text in texts():
    # Only these can hold one: to cut all of a text twice would cost more.
    for run in re.finditer(rf'\S{{{LONGEST + 1},}}|\s{{{LONGEST + 1},}}', text):
      words = cutter.pre_tokenizer.pre_tokenize_str(run[0])
      longest = max(len(word) for word, _ in words)
      if longest > LONGEST:
        raise DataError(
          f'--task.tokenizer={tag}: the text has a word of {longest:,} letters '
          f'({run[0][:20]!r} ...), and to merge its pairs takes the square of '
          f'that, at most {LONGEST:,}: break it, or try --task.tokenizer=char'
        )


def _letters(texts: Texts, cutter: 'Cutter') -> list[str]:
  """Returns the characters of which the words of all texts are made."""
  found: set[str] = set()
  for text in texts():
    found |= set(cutter.normalizer.normalize_str(text))
  return sorted(c for c in found if not c.isspace())


def _learned(
  cutter: 'Cutter',
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
  """Returns the pieces by number, and the merges in order, if there are."""
  model = json.loads(cutter.to_str())['model']
  pieces = tuple(sorted(model['vocab'], key=model['vocab'].__getitem__))
  return pieces, tuple((a, b) for a, b in model.get('merges', []))
