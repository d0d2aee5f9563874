"""Tasks over tables of short texts, such as translation and classification."""

import abc
import dataclasses
import hashlib
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jax
import numpy as np

from model.core.field import FieldError, field
from model.core.limits import Limit
from train.core.errors import DataError
from train.data.splits.splits import AnySplit, AutoSplit
from train.data.splits.table_parts import (
  TableSplit,
  split_table,
  validation_rows_only,
)
from train.data.tables.base import NoTable, Rows
from train.data.tables.sources import AnyTable
from train.tasks.base import (
  Arrays,
  Batch,
  Data,
  Draw,
  Task,
  check_specials,
  example_ids,
  special_ids,
)
from train.tasks.buckets import BatchShape, batch_at, batch_rows
from train.text.store import train_once
from train.text.tokenizer import AnyTokenizer, WordTokenizer
from train.text.vocabulary import Special, Vocabulary


@dataclasses.dataclass(frozen=True)
class TableTask(Task, abc.ABC):
  """A task over a table of short texts, each of which fits the context length.

  Attributes:
    columns: names of the columns of the table, texts first.
    texts: how many of the columns are texts, which become tokens.
    extra: special tokens of a row in addition to its longest text.
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
  tokenizer: AnyTokenizer = field(WordTokenizer(), 'What a token is:')
  split: AnySplit = field(AutoSplit(), 'How the validation part is chosen:')
  buckets: int = field(
    4,
    'Number of lengths of batches: --seq_len, a half, a third ... of it.',
    min=1,
    max=Limit(256, 'each is compiled on its own'),
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields an error for each rule between fields that is broken."""
    if problem := self.data.unfit(self.columns):
      yield problem

  def load(self, vocabulary: Vocabulary | None = None) -> Data:
    """Reads and tokenizes the rows, and sorts training rows by length."""
    if self.data.is_absent:
      raise FieldError(
        'task.data',
        self.data,
        f'--task={self.tag} reads a table: choose one, such as tsv',
      )
    divided = split_table(self.split, self.data, self.columns, self.texts)
    return self._data(divided, vocabulary)

  def load_all(self, vocabulary: Vocabulary) -> Data:
    """Reads validation rows alone; all rows if the table has no such part."""
    divided = validation_rows_only(self.data, self.columns, self.texts)
    return self._data(divided, vocabulary)

  def _data(self, divided: TableSplit, known: Vocabulary | None) -> Data:
    """Tokenizes the rows and describes them.

    Args:
      divided: the training rows, if any, and the validation rows.
      known: the vocabulary; None trains one.
    """
    train, held = divided.train, divided.held
    digest = divided.digest
    if known is None:
      assert train is not None  # only trained models evaluate without it
      known = self._vocabulary(train, digest)
    name = (train or held).name
    check_specials(known, self.specials, name, self.tag)
    arrays = special_ids(known)
    for part, found in divided.by_name.items():
      arrays |= self._part(part, found, known)
    about = [
      *divided.said,
      f'{known.size:,} symbols',
      *_describe_unknown(known, arrays),
      *_describe_empty(arrays),
      *self._describe_labels(held, known),
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
    """Returns the vocabulary of the training rows; the digest is for its cache.

    Words of the validation rows may be <unk> in it.
    """
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
    """Returns the arrays of a part: tokens, starts of rows, lengths of rows."""
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
    return arrays | self._other_columns(part, rows, vocabulary, order)

  def _other_columns(
    self, part: str, rows: Rows, vocabulary: Vocabulary, order: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Returns the arrays of the columns that are not texts."""
    del part, rows, vocabulary, order
    return {}

  def _describe_labels(self, held: Rows, vocabulary: Vocabulary) -> list[str]:
    """Describes the labels, if there are any."""
    del held, vocabulary
    return []

  def problem(self, data: Data, seq_len: int) -> str | None:
    """Returns why the data do not suit a context length, or None if they do."""
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

  def has_targets(
    self, arrays: Arrays, ids_X: np.ndarray, seq_len: int
  ) -> bool:
    """Returns whether any of these validation rows fits the context length."""
    return bool((arrays['validation_lengths'][ids_X] <= seq_len).any())

  def describe_evaluated(
    self, arrays: Arrays, ids_X: np.ndarray, seq_len: int
  ) -> str:
    """Identifies those of these rows that fit the context length."""
    fits_X = arrays['validation_lengths'][ids_X] <= seq_len
    which = hashlib.sha256(ids_X[fits_X].tobytes()).hexdigest()
    return f'{fits_X.sum():,} rows ({which[:8]})'

  def notes(self, data: Data, seq_len: int) -> str:
    """Returns a remark on rows that are too long, or ''."""
    found = _lengths(data)
    counts = {part: int((x > seq_len).sum()) for part, x in found.items()}
    if not any(counts.values()):
      return ''
    uses = {'train': 'to train on', 'validation': 'to evaluate on'}
    phrases = [f'{counts[part]:,} rows {uses[part]}' for part in counts]
    return (
      f'left out of the loss, for they are longer than --seq_len={seq_len}: '
      f'{", ".join(phrases)}'
    )

  @property
  def num_buckets(self) -> int:
    """Returns the number of different shapes of batches."""
    return self.buckets

  def shapes(self, batch_size: int, seq_len: int) -> tuple[BatchShape, ...]:
    """Returns the shape of the batches of each bucket, longest rows first."""
    return tuple(
      BatchShape(batch_size * n, seq_len // n)
      for n in range(1, self.buckets + 1)
    )

  def bucket(self, arrays: Arrays, draw: Draw) -> jax.Array:
    """Returns the bucket of a step's batch."""
    shapes = self.shapes(draw.batch_size, draw.seq_len)
    return batch_at(arrays['train_lengths'], draw.key, draw.step, shapes).bucket

  def batch(self, arrays: Arrays, draw: Draw, bucket: int = 0) -> Batch:
    """Returns the batch of a step, given its bucket.

    The last batch of a bucket in an epoch is filled up with rows of weight 0.
    """
    shapes = self.shapes(draw.batch_size, draw.seq_len)
    shape, lengths_X = shapes[bucket], arrays['train_lengths']
    place = batch_at(lengths_X, draw.key, draw.step, shapes)
    rows_B, real_B = batch_rows(lengths_X, draw.key, place, shapes, bucket)
    most = max(s.rows for s in shapes)
    ids_B = example_ids(draw.step, most)[: shape.rows]
    found = self.read(arrays, 'train', rows_B, shape.length)
    return found._replace(
      weights_BT=found.weights_BT * real_B[:, None], ids_B=ids_B
    )

  def evaluation_size(self, arrays: Any, seq_len: int) -> int:
    """Returns the number of validation rows."""
    return arrays['validation_lengths'].shape[0]

  def evaluation_batch(
    self, arrays: Arrays, ids_B: jax.Array, seq_len: int
  ) -> Batch:
    """Returns the rows with these numbers; if too long, with weight 0."""
    found = self.read(arrays, 'validation', ids_B, seq_len)
    fits_B = arrays['validation_lengths'][ids_B] <= seq_len
    return found._replace(weights_BT=found.weights_BT * fits_B[:, None])

  @abc.abstractmethod
  def read(
    self, arrays: Arrays, part: str, rows_B: jax.Array, length: int
  ) -> Batch:
    """Returns a batch of rows, truncated or padded to a length.

    Args:
      arrays: arrays of the data.
      part: 'train' or 'validation'.
      rows_B: numbers of the rows, which are also the ids of the examples.
      length: tokens per row.
    """


def _lengths(data: Data) -> dict[str, np.ndarray]:
  """Returns the lengths of the rows of each part, by name."""
  return {
    part: data.arrays[f'{part}_lengths']
    for part in ('train', 'validation')
    if f'{part}_lengths' in data.arrays
  }


def _describe_unknown(
  vocabulary: Vocabulary, arrays: Mapping[str, np.ndarray]
) -> list[str]:
  """Returns a remark on the share of <unk> in validation texts, in a list."""
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


def _describe_empty(arrays: Mapping[str, np.ndarray]) -> list[str]:
  """Returns a remark on texts without any token, in a list, or []."""
  starts = [x for name, x in arrays.items() if name.endswith('_starts')]
  count = sum(int((np.diff(x) == 0).sum()) for x in starts)
  return [f'{count:,} texts without a token'] if count else []
