"""Tasks that read windows of a long text, on the device or on the host.

Training windows begin at uniformly random offsets, drawn for each example of
each step.  Validation windows follow one another, and each token is predicted
once: the last window ends with the last token, and targets that it shares with
the window before have weight 0.  If next tokens are predicted, the first token
of the text is no target, since nothing comes before it.
"""

import abc
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.core.field import FieldError, field
from train.core.errors import DataError
from train.data.documents import BLOCK, iterate_blocks
from train.data.splits import corpus
from train.data.splits.corpus import Corpus
from train.data.splits.divided import CorpusSplit, split_corpus, validation_only
from train.data.splits.overlap import describe_overlap
from train.data.splits.splits import AnySplit, AutoSplit
from train.data.splits.table_parts import with_validation_file
from train.data.splits.tokens import Tokens
from train.data.tables.base import NoTable, Table
from train.data.tables.sources import AnyTable
from train.tasks.base import (
  TOKEN_BYTES,
  Arrays,
  Data,
  check_specials,
  special_ids,
)
from train.tasks.long_arrays import Ids, LongArrayTask
from train.text.store import train_once
from train.text.tokenizer import AnyTokenizer, CharTokenizer
from train.text.vocabulary import Special, UnknownSymbols, Vocabulary

NEAR = 2**31  # offsets below this fit int32


class TextWindows(NamedTuple):
  """Windows of a text.

  Attributes:
    tokens_BT: the tokens of each window.
    segments_BT: number of the document of each token, from 1 in each window;
      None if starts of documents are unknown.
    repeated_B: how many of the first targets belong to the window before, which
      is above 0 only in the last validation window; None for training.
  """

  tokens_BT: Any
  segments_BT: Any
  repeated_B: Any = None

  def weights_BT(self, ahead: int) -> jax.Array:
    """Returns the weight of each target: 1 if it counts, else 0.

    Args:
      ahead: tokens of a window in addition to those that the model reads.
    """
    count, length = self.tokens_BT.shape
    length -= ahead
    if self.repeated_B is None:
      # A numpy constant would be fused differently, which changes last bits.
      return jnp.ones((count, length), jnp.float32)
    new_BT = jnp.arange(length) >= self.repeated_B[:, None]
    return new_BT.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class WindowTask(LongArrayTask, abc.ABC):
  """A task over windows of one long text.

  Attributes:
    ahead: tokens of a window in addition to those that the model reads.
  """

  ahead: ClassVar[int] = 0
  gives_segments: ClassVar[bool] = True
  long: ClassVar[frozenset[str]] = frozenset(
    ('train', 'validation', 'train_starts', 'validation_starts')
  )

  path: str | None = field(None, 'Text file, or a folder of them.')
  corpus: Literal['pydoc', 'shakespeare'] | None = field(
    None, 'Named text, if no path is given; `none` is pydoc:'
  )
  data: AnyTable = field(NoTable(), 'Table of documents, if no path is given:')
  tokenizer: AnyTokenizer = field(CharTokenizer(), 'What a token is:')
  split: AnySplit = field(AutoSplit(), 'How the validation part is chosen:')

  @property
  def wanted(self) -> tuple[Special, ...]:
    """Returns the special tokens that the task needs."""
    return ()

  def problems(self) -> Iterator[FieldError]:
    """Yields an error for each rule between fields that is broken."""
    if problem := self.data.unfit(corpus.COLUMNS):
      yield problem
    table = not self.data.is_absent
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
    if not data.is_absent:
      return corpus.table_corpus(data)
    if self.path is not None:
      return corpus.read_corpus(self.path)
    named = corpus.shakespeare if self.corpus == 'shakespeare' else corpus.pydoc
    return named()

  def load(self, vocabulary: Vocabulary | None = None) -> Data:
    """Reads, splits and tokenizes the text."""
    source = self._corpus(with_validation_file(self.split, self.data))
    divided = split_corpus(self.split, source)
    if vocabulary is None:
      vocabulary = self._vocabulary(divided)
    shared = describe_overlap(
      source.name, divided.parts.train, divided.parts.held
    )
    return self._data(source, divided, vocabulary, [shared] if shared else [])

  def load_all(self, vocabulary: Vocabulary) -> Data:
    """Reads and tokenizes the text as a validation part alone."""
    source = self._corpus(self.data)
    return self._data(source, validation_only(source), vocabulary, [])

  def _data(
    self,
    source: Corpus,
    divided: CorpusSplit,
    vocabulary: Vocabulary,
    notes: Sequence[str],
  ) -> Data:
    """Tokenizes the documents and describes them."""
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
    about += _describe_unknown(vocabulary, *found.values())
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
      validation_characters=divided.parts.sizes[1],
    )

  def _vocabulary(self, divided: CorpusSplit) -> Vocabulary:
    """Returns the vocabulary, learned from the training part alone.

    Only characters and bytes, which are not learned, come from both parts: as
    there is no <unk>, a text with other characters could not be evaluated.
    """
    train, held = divided.parts.train, divided.parts.held
    seen = train if self.tokenizer.learned else [*train, *held]
    try:
      return train_once(
        self.tokenizer, self.wanted, divided.key, lambda: iterate_blocks(seen)
      )
    except FieldError as e:
      raise e.under('task.tokenizer.') from None

  def problem(self, data: Data, seq_len: int) -> str | None:
    """Returns why the data do not suit a context length, or None if they do."""
    name = data.description.partition(': ')[0]
    # Data from `load_all` have no training part.
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
    """Returns the characters and the tokens of the validation text."""
    return {
      'characters': float(data.validation_characters),
      'tokens': float(data.arrays['validation'].size),
    }

  def evaluation_size(self, arrays: Arrays, seq_len: int) -> int:
    """Returns the number of windows that cover the validation part."""
    return -(-(arrays['validation'].shape[0] - self.ahead) // seq_len)

  def rows(
    self, arrays: Arrays, key: jax.Array, ids_B: Ids, seq_len: int
  ) -> TextWindows:
    """Returns windows whose offsets are drawn from (key, example number)."""
    count = arrays['train'].shape[0] - seq_len
    on_host = isinstance(arrays['train'], np.ndarray)
    drawn_B = (_draw_offsets_on_host if on_host else _draw_offsets)(
      key, ids_B, count
    )
    return _read_windows(arrays, 'train', drawn_B, seq_len + self.ahead)

  def evaluation_rows(
    self, arrays: Arrays, ids_B: Ids, seq_len: int
  ) -> TextWindows:
    """Returns the validation windows with these numbers.

    The last window is moved back to end with the text.
    """
    host = isinstance(ids_B, np.ndarray)
    if host:
      ids_B = ids_B.astype(np.int64)
    length = seq_len + self.ahead
    last = arrays['validation'].shape[0] - length
    places_B = ids_B * seq_len
    starts_B = (np if host else jnp).minimum(places_B, last)
    known_B = (places_B - starts_B).astype(np.int32)
    rows = _read_windows(arrays, 'validation', starts_B, length)
    return rows._replace(repeated_B=known_B)


def _describe_unknown(vocabulary: Vocabulary, *parts: Tokens) -> list[str]:
  """Returns a remark on the share of <unk> in the text, in a list, or []."""
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


def _draw_offsets(key: jax.Array, ids_B: jax.Array, count: int) -> jax.Array:
  """Draws a number below `count` for each example, from (key, its number)."""

  def draw(example: jax.Array) -> jax.Array:
    own = jax.random.fold_in(key, example)
    return jax.random.randint(own, (), 0, count)

  return jax.vmap(draw)(ids_B)


_draw_offsets_jit = jax.jit(_draw_offsets, static_argnums=2)


def _draw_offsets_on_host(
  key: jax.Array, ids_B: np.ndarray, count: int
) -> np.ndarray:
  """Draws the same numbers on the host.

  From 2^31 on, which exceeds the int32 of devices, they are drawn from 64 bits.
  """
  if count < NEAR:
    return np.asarray(_draw_offsets_jit(key, ids_B, count))
  bits_2B = np.asarray(_draw_bits(key, ids_B)).astype(np.uint64).T
  return ((bits_2B[0] << 32 | bits_2B[1]) % count).astype(np.int64)


@jax.jit
def _draw_bits(key: jax.Array, ids_B: jax.Array) -> jax.Array:
  """Draws two words of 32 bits for each example, from (key, its number)."""
  draw = functools.partial(jax.random.bits, shape=(2,))
  return jax.vmap(lambda example: draw(jax.random.fold_in(key, example)))(ids_B)


def _read_windows(
  arrays: Arrays, part: str, offsets_B: Ids, length: int
) -> TextWindows:
  """Reads the windows at these offsets; numpy arrays give numpy arrays."""
  text_X = arrays[part]
  starts_X = arrays.get(f'{part}_starts')
  host = isinstance(text_X, np.ndarray)
  index_BT = offsets_B[:, None] + (np if host else jnp).arange(length)
  search = np.searchsorted if host else jnp.searchsorted
  segments_BT = None
  if starts_X is not None:
    documents_BT = search(starts_X, index_BT, side='right')
    segments_BT = (documents_BT - documents_BT[:, :1] + 1).astype(np.int32)
  return TextWindows(text_X[index_BT], segments_BT)
