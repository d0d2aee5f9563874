"""Windows of a text: what a model of text reads, on a device or the host.

Windows begin at offsets drawn uniformly for each example of each step.  Those
of the validation part follow each other, and predict each of its tokens once:
the last one ends with the last token, and of those that it shares with the
window before none counts.  Its first token has nothing before it, and is not
predicted where the next token is.
"""

import abc
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.field import FieldError, field
from train import corpus
from train.corpus import Corpus
from train.divided import Divided, divided_by, whole
from train.documents import BLOCK, texts
from train.overlap import overlap
from train.readable import Ids, Readable
from train.sources import AnyTable
from train.splits import AnySplit, Auto
from train.store import train_once
from train.table import NoTable, Table
from train.table_parts import with_file
from train.task import (
  TOKEN_BYTES,
  Arrays,
  Data,
  DataError,
  check_specials,
  special_ids,
)
from train.tokenizer import Char, Tokenizer
from train.tokens import Tokens
from train.vocabulary import Special, UnknownSymbols, Vocabulary

NEAR = 2**31  # numbers below it are int32's


class Window(NamedTuple):
  """Tokens from each offset on, and the number of each one's document.

  `segments_BT` count from 1 in each row; none where the text does not say.
  `known_B` are how many of the first targets other windows have: 0 but in the
  last window of the validation part; none where all count.
  """

  tokens_BT: Any
  segments_BT: Any
  known_B: Any = None

  def weights_BT(self, ahead: int) -> jax.Array:
    """Returns 1 for each target that counts, else 0.

    Args:
      ahead: tokens of a window beside those that the model reads.
    """
    count, length = self.tokens_BT.shape
    length -= ahead
    if self.known_B is None:
      # A constant of numpy's would be fused otherwise, and change last bits.
      return jnp.ones((count, length), jnp.float32)
    new_BT = jnp.arange(length) >= self.known_B[:, None]
    return new_BT.astype(jnp.float32)


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
  split: AnySplit = field(Auto(), 'What is judged, not trained on:')

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

  def _corpus(self, data: Table) -> Corpus:
    if not isinstance(data, NoTable):
      return corpus.of_table(data)
    if self.path is not None:
      return corpus.read(self.path)
    named = corpus.shakespeare if self.corpus == 'shakespeare' else corpus.pydoc
    return named()

  def load(self, vocabulary: Vocabulary | None = None) -> Data:
    """Returns the tokens of the text, split into training and validation."""
    source = self._corpus(with_file(self.split, self.data))
    divided = divided_by(self.split, source)
    if vocabulary is None:
      vocabulary = self._vocabulary(divided)
    shared = overlap(source.name, divided.parts.train, divided.parts.held)
    return self._data(source, divided, vocabulary, [shared] if shared else [])

  def load_all(self, vocabulary: Vocabulary) -> Data:
    """Returns the tokens of the text as validation part, and no other part."""
    source = self._corpus(self.data)
    return self._data(source, whole(source), vocabulary, [])

  def _data(
    self,
    source: Corpus,
    divided: Divided,
    vocabulary: Vocabulary,
    notes: Sequence[str],
  ) -> Data:
    """Returns the tokens of documents, and what is said of them."""
    check_specials(vocabulary, self.wanted, source.name, self.tag)
    ends = Special.EOS in self.wanted
    end = vocabulary.id_of(Special.EOS) if ends else None
    try:
      found = divided.tokens(vocabulary, end)
    except UnknownSymbols as e:
      raise DataError(
        f'{source.name}: {e}: train with --task.tokenizer=byte to read any text'
      ) from e
    size = sum(part.ids_X.size for part in found.values())
    about = [f'{size:,} {vocabulary.unit}s', f'{vocabulary.size} symbols']
    about += [f'{Special.EOS.value} behind each document'] if ends else []
    about += _unknown(vocabulary, *found.values())
    about += [*divided.notes, *([source.notes] if source.notes else [])]
    about += [divided.said, *notes]
    arrays = {name: part.ids_X for name, part in found.items()}
    starts = {f'{name}_starts': part.starts_X for name, part in found.items()}
    arrays |= starts | special_ids(vocabulary)
    if self.predicts_next and (sizes := vocabulary.token_bytes()) is not None:
      arrays[TOKEN_BYTES] = sizes
    return Data(
      arrays=arrays,
      vocabulary=vocabulary,
      digest=divided.digest,
      description=f'{source.name}: {", ".join(about)}, '
      f'sha256 {divided.digest[:12]}',
      held_characters=divided.parts.sizes[1],
    )

  def _vocabulary(self, divided: Divided) -> Vocabulary:
    """Returns the vocabulary; what is learned, of the training part alone.

    Characters are those of both parts: a running text has no <unk>, and could
    not be evaluated on one that it was not trained on.
    """
    train, held = divided.parts.train, divided.parts.held
    seen = train if self.tokenizer.learned else [*train, *held]
    try:
      return train_once(
        self.tokenizer, self.wanted, divided.key, lambda: texts(seen)
      )
    except FieldError as e:
      raise e.under('task.tokenizer.') from None

  def problem(self, data: Data, seq_len: int) -> str | None:
    """Returns why the data do not fit the context length, if they do not."""
    name = data.description.partition(': ')[0]
    # A text to evaluate on alone has no other part.
    for split in ('train', 'validation'):
      size = data.arrays[split].size if split in data.arrays else seq_len + 1
      if size < seq_len + 1:
        return (
          f'{name}: its {split} part has {size} '
          f'tokens, fewer than --seq_len={seq_len} and the one to predict: '
          'give a longer text or a smaller --seq_len'
        )
    return None

  def measures(self, data: Data) -> dict[str, float]:
    """Returns the characters and the tokens of the text that is judged."""
    return {
      'characters': float(data.held_characters),
      'tokens': float(data.arrays['validation'].size),
    }

  def evaluation_size(self, arrays: Arrays, seq_len: int) -> int:
    """Returns how many windows predict all of the validation part."""
    return -(-(arrays['validation'].shape[0] - self.ahead) // seq_len)

  def rows(
    self, arrays: Arrays, key: jax.Array, ids_B: Ids, seq_len: int
  ) -> Window:
    """Returns windows at offsets drawn for each example from (key, its id)."""
    count = arrays['train'].shape[0] - seq_len
    on_host = isinstance(arrays['train'], np.ndarray)
    drawn_B = (_drawn_on_host if on_host else _drawn)(key, ids_B, count)
    return _read(arrays, 'train', drawn_B, seq_len + self.ahead)

  def evaluation_rows(self, arrays: Arrays, ids_B: Ids, seq_len: int) -> Window:
    """Returns the windows with these numbers, the last one within the text."""
    host = isinstance(ids_B, np.ndarray)
    if host:
      ids_B = ids_B.astype(np.int64)
    length = seq_len + self.ahead
    last = arrays['validation'].shape[0] - length
    places_B = ids_B * seq_len
    starts_B = (np if host else jnp).minimum(places_B, last)
    known_B = (places_B - starts_B).astype(np.int32)
    rows = _read(arrays, 'validation', starts_B, length)
    return rows._replace(known_B=known_B)


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
