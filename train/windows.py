"""Windows of a text: what a model of text reads, on a device or the host.

Windows begin at offsets drawn uniformly for each example of each step.  The
first 90 % of a text are for training; the last 10 %, in windows that do not
overlap, are for validation (nanoGPT's split).
"""

import abc
import dataclasses
import functools
import hashlib
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.field import FieldError, field
from train import corpus
from train.corpus import Corpus
from train.documents import BLOCK, Document, divide, survey, texts
from train.readable import Ids, Readable
from train.sources import AnyTable
from train.store import train_once
from train.table import NoTable
from train.task import Arrays, Data, DataError, check_specials, special_ids
from train.tokenizer import Char, Tokenizer
from train.tokens import Tokens, tokens
from train.vocabulary import Special, UnknownSymbols, Vocabulary

NEAR = 2**31  # numbers below it are int32's


class Window(NamedTuple):
  """Tokens from each offset on, and the number of each one's document.

  `segments_BT` count from 1 in each row; none where the text does not say.
  """

  tokens_BT: Any
  segments_BT: Any


@dataclasses.dataclass(frozen=True)
class Windows(Readable, abc.ABC):
  """What tasks over one long text have in common.

  Attributes:
    ahead: tokens that a window has beside those that the model reads.
  """

  ahead: ClassVar[int] = 0
  gives_segments: ClassVar[bool] = True
  long: ClassVar[frozenset[str]] = frozenset(
    ('train', 'validation', 'train_starts', 'validation_starts')
  )

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
    about += [f'{parts.empty:,} empty files'] if parts.empty else []
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
    """Returns the vocabulary; what is learned, of the training part alone.

    Characters are those of both parts: a running text has no <unk>, and could
    not be evaluated on one that it was not trained on.
    """
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
    return None

  def evaluation_size(self, arrays: Arrays, seq_len: int) -> int:
    """Returns how many whole windows the validation part holds."""
    return (arrays['validation'].shape[0] - 1) // seq_len

  def rows(
    self, arrays: Arrays, key: jax.Array, ids_B: Ids, seq_len: int
  ) -> Window:
    """Returns windows at offsets drawn for each example from (key, its id)."""
    count = arrays['train'].shape[0] - seq_len
    on_host = isinstance(arrays['train'], np.ndarray)
    drawn_B = (_drawn_on_host if on_host else _drawn)(key, ids_B, count)
    return _read(arrays, 'train', drawn_B, seq_len + self.ahead)

  def evaluation_rows(self, arrays: Arrays, ids_B: Ids, seq_len: int) -> Window:
    """Returns the windows with these numbers."""
    if isinstance(ids_B, np.ndarray):
      ids_B = ids_B.astype(np.int64)
    return _read(arrays, 'validation', ids_B * seq_len, seq_len + self.ahead)


@dataclasses.dataclass(frozen=True)
class _Parts:
  """Documents of the two parts; `held` is none until tokens are counted.

  `empty` counts those without text.
  """

  train: list[Document]
  held: list[Document] | None
  sizes: tuple[int, int]  # characters
  digest: str
  empty: int

  @staticmethod
  def of(source: Corpus, learned: bool) -> '_Parts':
    """Returns the parts of a corpus.

    Where a vocabulary is learned, the text is divided before it is cut into
    tokens: the validation part has no say in how.
    """
    found = survey(source.train)
    total, digest = sum(found.sizes), found.digest
    empty = found.sizes.count(0)
    if not total:
      raise DataError(f'{source.name}: is empty: give a file with text')
    if source.held is not None:
      other = survey(source.held)
      both = hashlib.sha256(f'{digest} {other.digest}'.encode()).hexdigest()
      sizes = total, sum(other.sizes)
      return _Parts(source.train, source.held, sizes, both, empty)
    if not learned:
      return _Parts(source.train, None, (total, 0), digest, empty)
    cut = int(0.9 * total)
    train, held = divide(source.train, found.sizes, cut)
    return _Parts(train, held, (cut, total - cut), digest, empty)

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
  found = sum(
    int((part.ids_X[n : n + BLOCK] == unknown).sum())
    for part in parts
    for n in range(0, part.ids_X.size, BLOCK)
  )
  size = sum(part.ids_X.size for part in parts)
  return [f'{found / max(1, size):.2%} unknown']


def _drawn(key: jax.Array, ids_B: jax.Array, count: int) -> jax.Array:
  """Returns a number below `count` for each example, from (key, its id)."""

  def drawn(example: jax.Array) -> jax.Array:
    own = jax.random.fold_in(key, example)
    return jax.random.randint(own, (), 0, count)

  return jax.vmap(drawn)(ids_B)


_jitted = jax.jit(_drawn, static_argnums=2)


def _drawn_on_host(key: jax.Array, ids_B: np.ndarray, count: int) -> np.ndarray:
  """Returns the same numbers; from 2^31 on, where a device has none, others."""
  if count < NEAR:
    return np.asarray(_jitted(key, ids_B, count))
  bits_2B = np.asarray(_bits(key, ids_B)).astype(np.uint64).T
  return ((bits_2B[0] << 32 | bits_2B[1]) % count).astype(np.int64)


@jax.jit
def _bits(key: jax.Array, ids_B: jax.Array) -> jax.Array:
  """Returns twice 32 bits for each example, from (key, its id)."""
  draw = functools.partial(jax.random.bits, shape=(2,))
  return jax.vmap(lambda example: draw(jax.random.fold_in(key, example)))(ids_B)


def _read(arrays: Arrays, part: str, offsets_B: Ids, length: int) -> Window:
  """Returns the windows that begin at offsets; of numpy arrays, numpy's."""
  text_X = arrays[part]
  starts_X = arrays.get(f'{part}_starts')
  host = isinstance(text_X, np.ndarray)
  index_BT = offsets_B[:, None] + (np if host else jnp).arange(length)
  search = np.searchsorted if host else jnp.searchsorted
  segments_BT = None
  if starts_X is not None:
    documents_BT = search(starts_X, index_BT, side='right')
    segments_BT = (documents_BT - documents_BT[:, :1] + 1).astype(np.int32)
  return Window(text_X[index_BT], segments_BT)
