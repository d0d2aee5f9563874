"""Windows of a text: what a model of text reads, on the device or the host.

Windows begin at offsets drawn uniformly for each example of each step.  The
first 90 % of a text are for training; the last 10 %, in windows that do not
overlap, are for validation (nanoGPT's split).
"""

import abc
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.field import FieldError, field
from train import corpus
from train.corpus import Corpus
from train.documents import Document, divide, survey, texts
from train.sources import AnyTable
from train.store import train_once
from train.table import NoTable
from train.task import Data, DataError, Task, check_specials, special_ids
from train.tokenizer import Char, Tokenizer
from train.tokens import Tokens, tokens
from train.vocabulary import Special, UnknownSymbols, Vocabulary

Arrays = Mapping[str, jax.Array] | Mapping[str, np.ndarray]


class Read(NamedTuple):
  """Tokens from each offset on, and which document each belongs to.

  `documents_BT` is none where the text does not say.
  """

  tokens_BT: Any
  documents_BT: Any


@dataclasses.dataclass(frozen=True)
class Windows(Task, abc.ABC):
  """What tasks over one long text have in common."""

  gives_segments: ClassVar[bool] = True

  path: str | None = field(None, 'Text file, or a folder of them.')
  corpus: Literal['pydoc', 'shakespeare'] | None = field(
    None, 'Named text, where no path is given; none is pydoc:'
  )
  data: AnyTable = field(
    NoTable(), 'Table of documents, where no path is given:'
  )
  tokenizer: Tokenizer = field(Char(), 'What a token is:')

  @property
  def wanted(self) -> tuple[Special, ...]:
    """Returns special tokens that the task wants beside the text's own."""
    return ()

  def problems(self) -> Iterator[FieldError]:
    """Yields what is wrong between fields."""
    if problem := self.data.unfit(corpus.COLUMNS):
      yield problem
    table = not isinstance(self.data, NoTable)
    if self.corpus is not None and (self.path is not None or table):
      beside = '--task.data' if table else '--task.path'
      yield FieldError(
        'corpus',
        self.corpus,
        f'has no effect beside {beside}: drop one, or --task.corpus=none',
      )
    if self.path is not None and table:
      yield FieldError(
        'path', self.path, 'has no effect beside --task.data: drop one'
      )

  def _corpus(self) -> Corpus:
    if not isinstance(self.data, NoTable):
      return corpus.of_table(self.data)
    if self.path is not None:
      return corpus.read(self.path)
    named = corpus.shakespeare if self.corpus == 'shakespeare' else corpus.pydoc
    return named()

  def load(self, vocabulary: Vocabulary | None = None) -> Data:
    """Returns the tokens of the text, split into training and validation."""
    source = self._corpus()
    known = self.tokenizer if vocabulary is None else vocabulary
    parts = _Parts.of(source, known.learned)
    if vocabulary is None:
      vocabulary = self._vocabulary(parts)
    else:
      check_specials(vocabulary, self.wanted, source.name, self.tag)
    try:
      train, held = parts.tokens(vocabulary)
    except UnknownSymbols as e:
      raise DataError(
        f'{source.name}: {e}: train with --task.tokenizer=byte to read any text'
      ) from e
    size = train.ids_X.size + held.ids_X.size
    about = [f'{size:,} {vocabulary.unit}s', f'{vocabulary.size} symbols']
    about += _unknown(vocabulary, train, held)
    about += [source.notes] if source.notes else []
    return Data(
      arrays={
        'train': train.ids_X,
        'validation': held.ids_X,
        'train_starts': train.starts_X,
        'validation_starts': held.starts_X,
      }
      | special_ids(vocabulary),
      vocabulary=vocabulary,
      digest=parts.digest,
      description=f'{source.name}: {", ".join(about)}, '
      f'sha256 {parts.digest[:12]}',
    )

  def _vocabulary(self, parts: '_Parts') -> Vocabulary:
    """Returns the vocabulary; what is learned, of the training part alone."""
    seen = parts.train if self.tokenizer.learned else parts.every
    try:
      return train_once(
        self.tokenizer, self.wanted, parts.digest, lambda: texts(seen)
      )
    except FieldError as e:
      raise e.under('task.tokenizer.') from None

  def problem(self, data: Data, seq_len: int) -> str | None:
    """Returns why the data do not fit the context length, if they do not."""
    name = data.description.partition(': ')[0]
    for split in ('train', 'validation'):
      size = data.arrays[split].size
      if size < seq_len + 1:
        return (
          f'{name}: its {split} part has {size} '
          f'tokens, fewer than --seq_len={seq_len} and the one to predict: '
          'give a longer text or a smaller --seq_len'
        )
      if size >= 2**31:
        return f'{name}: has {size:,} tokens, and 2^31 are too many: divide it'
    return None

  def evaluation_size(self, arrays: Arrays, seq_len: int) -> int:
    """Returns how many whole windows the validation part holds."""
    return (arrays['validation'].shape[0] - 1) // seq_len


@dataclasses.dataclass(frozen=True)
class _Parts:
  """Documents of the two parts; `held` is none until tokens are counted."""

  train: list[Document]
  held: list[Document] | None
  sizes: tuple[int, int]  # characters
  digest: str

  @staticmethod
  def of(source: Corpus, learned: bool) -> '_Parts':
    """Returns the parts of a corpus.

    Where a vocabulary is learned, the text is divided before it is cut into
    tokens: the validation part has no say in how.
    """
    found = survey(source.train)
    total, digest = sum(found.sizes), found.digest
    if not total:
      raise DataError(f'{source.name}: is empty: give a file with text')
    if source.held is not None:
      other = survey(source.held)
      both = hashlib.sha256(f'{digest} {other.digest}'.encode()).hexdigest()
      return _Parts(source.train, source.held, (total, sum(other.sizes)), both)
    if not learned:
      return _Parts(source.train, None, (total, 0), digest)
    cut = int(0.9 * total)
    train, held = divide(source.train, found.sizes, cut)
    return _Parts(train, held, (cut, total - cut), digest)

  @property
  def every(self) -> list[Document]:
    """Returns the documents of both parts."""
    return [*self.train, *(self.held or [])]

  def tokens(self, vocabulary: Vocabulary) -> tuple[Tokens, Tokens]:
    """Returns the tokens of both parts."""
    train = tokens(
      self.train, vocabulary, self.sizes[0], f'train {self.digest}'
    )
    if self.held is None:
      return train.divided(int(0.9 * train.ids_X.size))
    return train, tokens(
      self.held, vocabulary, self.sizes[1], f'held {self.digest}'
    )


def _unknown(vocabulary: Vocabulary, *parts: Tokens) -> list[str]:
  """Returns how much of the text the vocabulary lacks, if it has <unk>."""
  if Special.UNK not in vocabulary.specials:
    return []
  unknown = vocabulary.id_of(Special.UNK)
  found = sum(int((part.ids_X == unknown).sum()) for part in parts)
  return [f'{found / sum(part.ids_X.size for part in parts):.2%} unknown']


def offsets(
  arrays: Arrays, key: jax.Array, ids_B: jax.Array, seq_len: int
) -> jax.Array:
  """Returns where the window of each training example begins."""

  def offset(example: jax.Array) -> jax.Array:
    own = jax.random.fold_in(key, example)
    return jax.random.randint(own, (), 0, arrays['train'].shape[0] - seq_len)

  return jax.vmap(offset)(ids_B)


def read(arrays: Arrays, part: str, offsets_B: jax.Array, length: int) -> Read:
  """Returns the windows that begin at offsets; of numpy arrays, numpy's.

  Of an array that is mapped into memory, only the windows are read.
  """
  text_X = arrays[part]
  starts_X = arrays.get(f'{part}_starts')
  if isinstance(text_X, np.ndarray):
    index_BT = np.asarray(offsets_B)[:, None] + np.arange(length)
    tokens_BT = np.asarray(text_X[index_BT])
    search = np.searchsorted
  else:
    index_BT = offsets_B[:, None] + jnp.arange(length)
    tokens_BT = text_X[index_BT]
    search = jnp.searchsorted
  documents_BT = (
    None if starts_X is None else search(starts_X, index_BT, side='right')
  )
  return Read(tokens_BT.astype(np.int32), documents_BT)


def segments(documents_BT: Any) -> Any:
  """Returns the number of each token's document in its window, from 1 on."""
  if documents_BT is None:
    return None
  return (documents_BT - documents_BT[:, :1] + 1).astype(np.int32)
