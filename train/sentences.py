"""Tables of short texts: what tasks over translations and labels share."""

import abc
import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from model.field import FieldError, field
from model.limits import Limit
from train.buckets import Shape, rows, turn
from train.sources import AnyTable
from train.splits import AnySplit, Auto
from train.store import train_once
from train.table import NoTable, Rows
from train.table_parts import Divided, all_rows, divided_rows
from train.task import (
  Arrays,
  Batch,
  Data,
  DataError,
  Draw,
  Task,
  check_specials,
  examples,
  special_ids,
)
from train.tokenizer import Tokenizer, Word
from train.vocabulary import Special, Vocabulary


@dataclasses.dataclass(frozen=True)
class Sentences(Task, abc.ABC):
  """What tasks over rows of short texts have in common.

  Attributes:
    columns: what a row of the table holds, texts first.
    texts: how many of them are texts, which become tokens.
    extra: tokens that a row has beside those of its longest text.
    specials: special tokens of the vocabulary.
  """

  columns: ClassVar[tuple[str, ...]]
  texts: ClassVar[int] = 1
  extra: ClassVar[int] = 1
  specials: ClassVar[tuple[Special, ...]]
  gives_segments: ClassVar[bool] = False
  gives_padding: ClassVar[bool] = True
  neutral: ClassVar[frozenset[str]] = frozenset(('buckets',))

  data: AnyTable = field(NoTable(), 'Table to read:')
  tokenizer: Tokenizer = field(Word(), 'What a token is:')
  split: AnySplit = field(Auto(), 'What is judged, not trained on:')
  buckets: int = field(
    4,
    'Lengths of batches: --seq_len, a half, a third ... of it.',
    min=1,
    max=Limit(256, 'each is compiled on its own'),
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields what is wrong between fields."""
    if problem := self.data.unfit(self.columns):
      yield problem

  def load(self, vocabulary: Vocabulary | None = None) -> Data:
    """Returns the rows, cut into tokens; those to train on by their length."""
    if isinstance(self.data, NoTable):
      raise FieldError(
        'task.data',
        self.data,
        f'--task={self.tag} reads a table: choose one, such as tsv',
      )
    divided = divided_rows(self.split, self.data, self.columns, self.texts)
    return self._data(divided, vocabulary)

  def load_all(self, vocabulary: Vocabulary) -> Data:
    """Returns all rows as validation part; of a table in two parts, its own."""
    divided = all_rows(self.data, self.columns, self.texts)
    return self._data(divided, vocabulary)

  def _data(self, divided: Divided, known: Vocabulary | None) -> Data:
    """Returns the rows, cut into tokens, and what is said of them."""
    train, held = divided.train, divided.held
    digest = divided.digest
    if known is None:
      assert train is not None  # all is judged by trained models alone
      known = self._vocabulary(train, digest)
    name = (train or held).name
    check_specials(known, self.specials, name, self.tag)
    arrays = special_ids(known)
    for part, found in divided.by_name.items():
      arrays |= self._part(part, found, known)
    about = [
      *divided.said,
      f'{known.size:,} symbols',
      *_unknown(known, arrays),
      *_without_token(arrays),
      *self._labels(held, known),
      *divided.notes,
    ]
    return Data(
      arrays,
      known,
      digest,
      f'{name}: {", ".join(about)}, sha256 {digest[:12]}',
      held.columns,
    )

  def _vocabulary(self, train: Rows, digest: str) -> Vocabulary:
    """Returns the vocabulary of the training part; the rest may be <unk>."""
    texts = train.columns[: self.texts]
    try:
      return train_once(
        self.tokenizer,
        self.specials,
        f'{self.texts} {digest}',
        lambda: itertools.chain.from_iterable(texts),
      )
    except FieldError as e:
      raise e.under('task.tokenizer.') from None

  def _part(
    self, part: str, rows: Rows, vocabulary: Vocabulary
  ) -> dict[str, np.ndarray]:
    """Returns the arrays of a part: tokens, where rows begin, lengths."""
    ids = [vocabulary.encode_all(texts) for texts in rows.columns[: self.texts]]
    for name, column in zip(self.columns, ids, strict=False):
      if not sum(map(len, column)):
        raise DataError(
          f'{rows.name}: --task.tokenizer finds no token in any {name} of its '
          f'{part} part: give other texts, or --task.tokenizer=byte'
        )
    longest = np.array(
      [max(map(len, row)) + self.extra for row in zip(*ids, strict=True)]
    )
    order = np.arange(rows.count)
    if part == 'train':
      order = np.argsort(longest, kind='stable')
    arrays: dict[str, np.ndarray] = {
      f'{part}_lengths': longest[order].astype(np.int32)
    }
    for name, column in zip(self.columns, ids, strict=False):
      sizes = [len(column[n]) for n in order]
      flat = [column[n] for n in order]
      arrays[f'{part}_{name}'] = np.concatenate([np.zeros(0, np.uint8), *flat])
      arrays[f'{part}_{name}_starts'] = np.concatenate(
        [[0], np.cumsum(sizes)]
      ).astype(np.int32)
    return arrays | self._others(part, rows, vocabulary, order)

  def _others(
    self, part: str, rows: Rows, vocabulary: Vocabulary, order: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Returns the arrays of columns that are no texts."""
    del part, rows, vocabulary, order
    return {}

  def _labels(self, held: Rows, vocabulary: Vocabulary) -> list[str]:
    """Returns what is said of labels, where there are any."""
    del held, vocabulary
    return []

  def problem(self, data: Data, seq_len: int) -> str | None:
    """Returns why the data do not fit the context length, if they do not."""
    for part, lengths_X in _lengths(data).items():
      if not (lengths_X <= seq_len).any():
        name = data.description.partition(': ')[0]
        return (
          f'{name}: no row of its {part} part fits --seq_len={seq_len}: make '
          'it larger'
        )
    if self.buckets > seq_len:
      return (
        f'--task.buckets={self.buckets}: must be at most --seq_len={seq_len}, '
        f'or the shortest rows have no token: try --task.buckets={seq_len}'
      )
    return None

  def counted(self, arrays: Arrays, ids_X: np.ndarray, seq_len: int) -> bool:
    """Returns whether any of these rows to evaluate on is short enough."""
    return bool((arrays['validation_lengths'][ids_X] <= seq_len).any())

  def judged_part(self, arrays: Arrays, ids_X: np.ndarray, seq_len: int) -> str:
    """Returns which of these rows are short enough to count."""
    fits_X = arrays['validation_lengths'][ids_X] <= seq_len
    which = hashlib.sha256(ids_X[fits_X].tobytes()).hexdigest()
    return f'{fits_X.sum():,} rows ({which[:8]})'

  def notes(self, data: Data, seq_len: int) -> str:
    """Returns how many rows are too long, if any are."""
    found = _lengths(data)
    counts = {part: int((x > seq_len).sum()) for part, x in found.items()}
    if not any(counts.values()):
      return ''
    uses = {'train': 'to train on', 'validation': 'to evaluate on'}
    said = [f'{counts[part]:,} rows {uses[part]}' for part in counts]
    return (
      f'left out of the loss, for they are longer than --seq_len={seq_len}: '
      f'{", ".join(said)}'
    )

  @property
  def num_buckets(self) -> int:
    """Returns how many shapes batches have."""
    return self.buckets

  def shapes(self, batch_size: int, seq_len: int) -> tuple[Shape, ...]:
    """Returns the shape of the batches of each bucket, the longest first."""
    return tuple(
      Shape(batch_size * n, seq_len // n) for n in range(1, self.buckets + 1)
    )

  def bucket(self, arrays: Arrays, draw: Draw) -> jax.Array:
    """Returns the bucket of a step's batch."""
    shapes = self.shapes(draw.batch_size, draw.seq_len)
    return turn(arrays['train_lengths'], draw.key, draw.step, shapes).bucket

  def batch(self, arrays: Arrays, draw: Draw, bucket: int = 0) -> Batch:
    """Returns the batch of a step whose bucket this is.

    The last batch of a bucket in an epoch has rows that do not count.
    """
    shapes = self.shapes(draw.batch_size, draw.seq_len)
    shape, lengths_X = shapes[bucket], arrays['train_lengths']
    place = turn(lengths_X, draw.key, draw.step, shapes)
    rows_B, real_B = rows(lengths_X, draw.key, place, shapes, bucket)
    most = max(s.rows for s in shapes)
    ids_B = examples(draw.step, most)[: shape.rows]
    found = self.read(arrays, 'train', rows_B, shape.length)
    return found._replace(
      weights_BT=found.weights_BT * real_B[:, None], ids_B=ids_B
    )

  def evaluation_size(self, arrays: Any, seq_len: int) -> int:
    """Returns how many rows there are to evaluate on."""
    return arrays['validation_lengths'].shape[0]

  def evaluation_batch(
    self, arrays: Arrays, ids_B: jax.Array, seq_len: int
  ) -> Batch:
    """Returns the rows with these numbers; what is too long does not count."""
    found = self.read(arrays, 'validation', ids_B, seq_len)
    fits_B = arrays['validation_lengths'][ids_B] <= seq_len
    return found._replace(weights_BT=found.weights_BT * fits_B[:, None])

  @abc.abstractmethod
  def read(
    self, arrays: Arrays, part: str, rows_B: jax.Array, length: int
  ) -> Batch:
    """Returns some rows, cut or filled up to a length; ids are the rows."""


def _lengths(data: Data) -> dict[str, np.ndarray]:
  """Returns the lengths of rows, of each part that there is."""
  return {
    part: data.arrays[f'{part}_lengths']
    for part in ('train', 'validation')
    if f'{part}_lengths' in data.arrays
  }


def _unknown(
  vocabulary: Vocabulary, arrays: Mapping[str, np.ndarray]
) -> list[str]:
  """Returns how much of the texts to evaluate on the vocabulary lacks."""
  if Special.UNK not in vocabulary.specials:
    return []
  unknown = vocabulary.id_of(Special.UNK)
  columns = [
    ids_X
    for name, ids_X in arrays.items()
    if name.startswith('validation_') and f'{name}_starts' in arrays
  ]
  share = sum(int((x == unknown).sum()) for x in columns) / max(
    1, sum(x.size for x in columns)
  )
  return [f'{share:.2%} of the latter unknown'] if share else []


def _without_token(arrays: Mapping[str, np.ndarray]) -> list[str]:
  """Returns how many texts the vocabulary makes nothing of, if any."""
  starts = [x for name, x in arrays.items() if name.endswith('_starts')]
  count = sum(int((np.diff(x) == 0).sum()) for x in starts)
  return [f'{count:,} texts without a token'] if count else []
