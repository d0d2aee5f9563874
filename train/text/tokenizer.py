"""Tokenizers: how a text is cut into symbols, and how these are learned.

A tokenizer is a choice with its flags; `train` makes a vocabulary, which
encodes and decodes.  Training is deterministic.
"""

import collections
import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from model.core.field import FieldError, Variant, field
from model.core.limits import COUNT, SYMBOLS
from train.core.errors import DataError
from train.text.subwords import INSIDE, BpeVocabulary, WordPieceVocabulary
from train.text.vocabulary import (
  ByteVocabulary,
  CharVocabulary,
  Special,
  Vocabulary,
  in_id_order,
)
from train.text.words import WordVocabulary

if TYPE_CHECKING:
  from tokenizers import Tokenizer as Cutter

MAX_WORD = 8192  # limit of characters of a word, as merging is quadratic in it

# Called for each pass over the texts, which may exceed the memory.
Texts = Callable[[], Iterable[str]]


@dataclasses.dataclass(frozen=True)
class CharTokenizer(Variant, tag='char'):
  """Characters of the training part; of running text, of both parts.

  They are in the order of code points.  With running text there is no <unk>.
  """

  learned: ClassVar[bool] = CharVocabulary.learned

  def train(self, texts: Texts, specials: Sequence[Special] = ()) -> Vocabulary:
    """Returns the vocabulary of all characters of the texts."""
    found = set(itertools.chain.from_iterable(map(set, texts())))
    return CharVocabulary(
      ''.join(sorted(found)), specials=in_id_order(specials)
    )


@dataclasses.dataclass(frozen=True)
class ByteTokenizer(Variant, tag='byte'):
  """Bytes of UTF-8: 256 symbols, which encode any text."""

  learned: ClassVar[bool] = ByteVocabulary.learned

  def train(self, texts: Texts, specials: Sequence[Special] = ()) -> Vocabulary:
    """Returns the vocabulary of all bytes, which needs no <unk>."""
    del texts
    return ByteVocabulary(specials=_without_unknown(specials))


@dataclasses.dataclass(frozen=True)
class WordTokenizer(Variant, tag='word'):
  """Words between white space, most frequent first; for tokenized text."""

  learned: ClassVar[bool] = WordVocabulary.learned

  vocab_size: int = field(
    65536, 'Largest vocabulary, with special tokens.', min=8, max=SYMBOLS
  )
  min_count: int = field(
    1, 'Rarer words or pairs are left out.', min=1, max=COUNT
  )
  lowercase: bool = field(False, 'Convert to lower case before cutting.')

  def train(self, texts: Texts, specials: Sequence[Special] = ()) -> Vocabulary:
    """Returns the vocabulary of the most frequent words, ties by name."""
    counts: collections.Counter[str] = collections.Counter()
    for text in texts():
      counts.update(WordVocabulary.split(text, self.lowercase))
    known = in_id_order([Special.UNK, *specials])
    often = [w for w, count in counts.items() if count >= self.min_count]
    often.sort(key=lambda word: (-counts[word], word))
    words = tuple(often[: self.vocab_size - len(known)])
    return WordVocabulary(words, self.lowercase, specials=known)


@dataclasses.dataclass(frozen=True)
class BpeTokenizer(Variant, tag='bpe'):
  """Pairs of bytes, merged most frequent first (Sennrich et al. 2016).

  Departures: pairs of bytes, not characters, and within words as GPT-2 cuts
  them (Radford et al. 2019, section 2.2), so any text is encoded losslessly.
  """

  learned: ClassVar[bool] = BpeVocabulary.learned

  vocab_size: int = field(
    8192, 'Largest vocabulary, with special tokens.', min=264, max=SYMBOLS
  )
  min_count: int = field(
    2, 'Rarer words or pairs are left out.', min=1, max=COUNT
  )

  def train(self, texts: Texts, specials: Sequence[Special] = ()) -> Vocabulary:
    """Returns the vocabulary of all bytes and the merged pairs."""
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
    pieces, merges = _pieces_and_merges(cutter)
    return BpeVocabulary(pieces, merges, specials=known)


@dataclasses.dataclass(frozen=True)
class WordPieceTokenizer(Variant, tag='wordpiece'):
  """Parts of words, longest first (Schuster & Nakajima 2012; Devlin 2019).

  Departure: the library learns pieces by merging the most frequent pair, not
  the one with the largest gain in likelihood.  Lower case drops accents too.
  """

  learned: ClassVar[bool] = WordPieceVocabulary.learned

  vocab_size: int = field(
    8192, 'Largest vocabulary, with special tokens.', min=8, max=SYMBOLS
  )
  min_count: int = field(
    2, 'Rarer words or pairs are left out.', min=1, max=COUNT
  )
  lowercase: bool = field(True, 'Convert to lower case before cutting.')

  def train(self, texts: Texts, specials: Sequence[Special] = ()) -> Vocabulary:
    """Returns the vocabulary of all characters and the merged pieces."""
    from tokenizers import Tokenizer, models, trainers

    known = in_id_order([Special.UNK, *specials])
    cutter = Tokenizer(models.WordPiece(unk_token=Special.UNK.value))
    # Words must be cut as they are when the vocabulary encodes.
    empty = WordPieceVocabulary((), self.lowercase, specials=known).cutter
    cutter.normalizer = empty.normalizer
    cutter.pre_tokenizer = empty.pre_tokenizer
    _check_words(self.tag, texts, cutter)
    letters = _characters(texts, empty)
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
      # Listed in order: otherwise the library numbers characters at random,
      # breaks ties accordingly (huggingface/tokenizers#1794), and runs differ.
      special_tokens=[*letters, *(INSIDE + c for c in letters)],
      show_progress=False,
    )
    cutter.train_from_iterator(texts(), trainer)
    pieces, _ = _pieces_and_merges(cutter)
    return WordPieceVocabulary(pieces, self.lowercase, specials=known)


AnyTokenizer = (
  CharTokenizer
  | ByteTokenizer
  | WordTokenizer
  | BpeTokenizer
  | WordPieceTokenizer
)


def _without_unknown(specials: Sequence[Special]) -> tuple[Special, ...]:
  return in_id_order([s for s in specials if s is not Special.UNK])


def _check_words(tag: str, texts: Texts, cutter: 'Cutter') -> None:
  """Raises a DataError for a word so long that merging would take minutes."""
  for text in texts():
    # Only long runs can contain a long word; cutting all text would be slower.
    for run in re.finditer(
      rf'\S{{{MAX_WORD + 1},}}|\s{{{MAX_WORD + 1},}}', text
    ):
      words = cutter.pre_tokenizer.pre_tokenize_str(run[0])
      longest = max(len(word) for word, _ in words)
      if longest > MAX_WORD:
        raise DataError(
          f'--task.tokenizer={tag}: the text has a word of {longest:,} letters '
          f'({run[0][:20]!r} ...), and to merge its pairs takes the square of '
          f'that, at most {MAX_WORD:,}: break it, or try --task.tokenizer=char'
        )


def _characters(texts: Texts, cutter: 'Cutter') -> list[str]:
  """Returns the characters of all words of the texts, sorted."""
  found: set[str] = set()
  for text in texts():
    found |= set(cutter.normalizer.normalize_str(text))
  return sorted(c for c in found if not c.isspace())


def _pieces_and_merges(
  cutter: 'Cutter',
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
  """Returns the pieces in the order of ids, and the merges in theirs."""
  model = json.loads(cutter.to_str())['model']
  pieces = tuple(sorted(model['vocab'], key=model['vocab'].__getitem__))
  return pieces, tuple((a, b) for a, b in model.get('merges', []))
