"""Classification of texts.

From a row with the text 'a dog' and the label en, the model gets

  inputs   <cls> a dog
  target   en
"""

import collections
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from model.architecture.family import Classifier, FamilyBase
from model.core.inputs import ModelInputs
from train.core.errors import DataError
from train.core.metric import VAL_ACCURACY
from train.data.tables.base import Rows
from train.tasks.base import Arrays, Batch, Data
from train.tasks.padding import pad_rows, padding_segments, shift_right
from train.tasks.sentences import TableTask
from train.text.vocabulary import Special, Vocabulary


@dataclasses.dataclass(frozen=True)
class Classification(TableTask, tag='classification'):
  """Predict the label of a text (Devlin et al. 2019, section 4.1)."""

  families: ClassVar[tuple[type[FamilyBase], ...]] = (Classifier,)
  predicts_tokens: ClassVar[bool] = False
  shown: ClassVar[tuple[str, ...]] = (VAL_ACCURACY.name,)
  columns: ClassVar[tuple[str, ...]] = ('text', 'label')
  specials: ClassVar[tuple[Special, ...]] = (
    Special.PAD,
    Special.UNK,
    Special.CLS,
  )

  def _vocabulary(self, train: Rows, digest: str) -> Vocabulary:
    """Returns the vocabulary, with the labels of the training rows."""
    found = super()._vocabulary(train, digest)
    return dataclasses.replace(
      found, labels=tuple(sorted(set(train.columns[1])))
    )

  def _other_columns(
    self, part: str, rows: Rows, vocabulary: Vocabulary, order: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Returns the class id of each row."""
    known = {label: n for n, label in enumerate(vocabulary.labels)}
    labels = rows.columns[1]
    for number, label in zip(rows.numbers, labels, strict=True):
      if label not in known:
        some = ', '.join(vocabulary.labels[:8])
        raise DataError(
          f'{rows.name}: row {number} has the label {label!r}, which no row to '
          f'train on has ({some}): mend it, or leave the row out'
        )
    ids = np.array([known[label] for label in labels], np.int32)
    return {f'{part}_label': ids[order]}

  def _describe_labels(self, held: Rows, vocabulary: Vocabulary) -> list[str]:
    """Describes the number of labels, and the accuracy of a constant guess."""
    (_, most), *_ = collections.Counter(held.columns[1]).most_common(1)
    return [
      f'{len(vocabulary.labels):,} labels, the most frequent of the latter on '
      f'{most / held.count:.2%} of them'
    ]

  def problem(self, data: Data, seq_len: int) -> str | None:
    """Returns why the data do not suit a context length, or None if they do.

    The rows of each part that fit must have more than one label.
    """
    found = super().problem(data, seq_len)
    if found or 'train_label' not in data.arrays:
      return found
    for part in ('train', 'validation'):
      fits_X = data.arrays[f'{part}_lengths'] <= seq_len
      labels = np.unique(data.arrays[f'{part}_label'][fits_X])
      if labels.size == 1:
        name = data.description.partition(': ')[0]
        return (
          f'{name}: all rows of its {part} part that fit --seq_len={seq_len} '
          f'have the label {data.vocabulary.labels[labels[0]]!r}, so always '
          'saying it would be right: make --seq_len larger'
        )
    return None

  def read(
    self, arrays: Arrays, part: str, rows_B: jax.Array, length: int
  ) -> Batch:
    """Returns texts that begin with <cls>, with one target each."""
    text_BT, sizes_B = pad_rows(
      arrays, f'{part}_text', rows_B, length, arrays['<pad>']
    )
    target_B1 = arrays[f'{part}_label'][rows_B][:, None]
    return Batch(
      inputs=ModelInputs(
        shift_right(text_BT, arrays['<cls>']),
        padding_segments(sizes_B + 1, length),
      ),
      targets_BT=target_B1,
      weights_BT=jnp.ones(target_B1.shape, jnp.float32),
      ids_B=rows_B,
    )
