"""Classification: the label of a text.

Of a row that holds the text 'a dog' and the label en the model is given

  inputs   <cls> a dog
  target   en
"""

import collections
import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from model.family import Classifier, Decoder
from train.figure import VAL_ACCURACY
from train.padding import begun, padded, real
from train.sentences import Sentences
from train.table import Rows
from train.task import Arrays, Batch, Data, DataError
from train.vocabulary import Special, Vocabulary


@dataclasses.dataclass(frozen=True)
class Classification(Sentences, tag='classification'):
  """Tell the label of a text (Devlin et al. 2019, section 4.1)."""

  families: ClassVar[tuple[type[Decoder], ...]] = (Classifier,)
  predicts_tokens: ClassVar[bool] = False
  shown: ClassVar[tuple[str, ...]] = (VAL_ACCURACY.name,)
  columns: ClassVar[tuple[str, ...]] = ('text', 'label')
  specials: ClassVar[tuple[Special, ...]] = (
    Special.PAD,
    Special.UNK,
    Special.CLS,
  )

  def _vocabulary(self, train: Rows, digest: str) -> Vocabulary:
    """Returns the vocabulary, with the labels of the training part."""
    found = super()._vocabulary(train, digest)
    return dataclasses.replace(
      found, labels=tuple(sorted(set(train.columns[1])))
    )

  def _others(
    self, part: str, rows: Rows, vocabulary: Vocabulary, order: np.ndarray
  ) -> dict[str, np.ndarray]:
    """Returns the number of each label."""
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

  def _labels(self, held: Rows, vocabulary: Vocabulary) -> list[str]:
    """Returns how many there are, and what always guessing one gives."""
    (_, most), *_ = collections.Counter(held.columns[1]).most_common(1)
    return [
      f'{len(vocabulary.labels):,} labels, the most frequent of the latter on '
      f'{most / held.count:.2%} of them'
    ]

  def problem(self, data: Data, seq_len: int) -> str | None:
    """Returns why the data do not fit: too few rows or labels do."""
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
          'saying it is right: make it larger'
        )
    return None

  def read(
    self, arrays: Arrays, part: str, rows_B: jax.Array, length: int
  ) -> Batch:
    """Returns texts behind <cls>, and one target each."""
    text_BT, sizes_B = padded(
      arrays, f'{part}_text', rows_B, length, arrays['<pad>']
    )
    target_B1 = arrays[f'{part}_label'][rows_B][:, None]
    return Batch(
      inputs_BT=begun(text_BT, arrays['<cls>']),
      targets_BT=target_B1,
      weights_BT=jnp.ones(target_B1.shape, jnp.float32),
      ids_B=rows_B,
      segments_BT=real(sizes_B + 1, length),
    )
