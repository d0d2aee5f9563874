"""What a task is: data on the device, and batches as pure functions.

A batch is a function of (key, step) alone, so that resuming needs no iterator
state and the order does not depend on how many devices or hosts there are.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from model.architecture import Architecture
from model.family import Decoder
from model.field import Variant
from model.parameter import Dims, Params
from train.figure import COMMON, Figure
from train.vocabulary import Special, Vocabulary


class Batch(NamedTuple):
  """Tokens, what to predict at each, how much it counts, and example ids.

  Attributes:
    inputs_BT: token ids.
    targets_BT: token ids.
    weights_BT: of each target in the loss; 0 where nothing is predicted.
    ids_B: number of each example, which no other step has.
    segments_BT: 0 = padding, 1.. = number of the document in its row; none
      where the task does not know of documents.
    source_BS: what an encoder-decoder reads first.
    source_segments_BS: of the source.
  """

  inputs_BT: jax.Array
  targets_BT: jax.Array
  weights_BT: jax.Array
  ids_B: jax.Array
  segments_BT: jax.Array | None = None
  source_BS: jax.Array | None = None
  source_segments_BS: jax.Array | None = None


class Draw(NamedTuple):
  """What the batch of a step is a function of, beside the data.

  Attributes:
    key: of the data.
    step: which.
    batch_size: examples of a step, on all devices.
    seq_len: tokens of an example.
  """

  key: jax.Array
  step: jax.Array
  batch_size: int
  seq_len: int


# Name of an array: the bytes of UTF-8 that each token id stands for.
TOKEN_BYTES = 'token_bytes'

# On the device; or, where the host reads, of numpy.
Arrays = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Data:
  """What a task reads: arrays for the device, and what they stand for.

  `held` has, of a table, the columns of the rows to evaluate on, as written:
  what is decoded from ids is what the vocabulary made of them.
  `held_characters` are those of a running text to evaluate on.
  """

  arrays: Mapping[str, np.ndarray]
  vocabulary: Vocabulary
  digest: str
  description: str
  held: tuple[Sequence[str], ...] = ()
  held_characters: int = 0


class DataError(ValueError):
  """Data that cannot be used: names the file, what is wrong and the fix."""


@dataclasses.dataclass(frozen=True)
class Task(Variant, abc.ABC):
  """An open union: each file in `train/tasks/` adds one member.

  Attributes:
    families: what can learn it, of `model.family`, the usual one first.
    predicts_next: targets are next tokens, which must not be seen.
    predicts_tokens: targets are tokens, not labels.
    gives_segments: its batches have `segments_BT`.
    gives_padding: some of these are 0.
    figures: what is measured besides what all tasks measure.
    shown: of what every trial measures, what a table shows unasked.
    by_position: its trials keep what they lose at each position, by which rows
      are compared that predict at different ones.
    neutral: names of its fields that change nothing of what is judged.
  """

  families: ClassVar[tuple[type[Decoder], ...]]
  predicts_next: ClassVar[bool] = False
  predicts_tokens: ClassVar[bool] = True
  gives_segments: ClassVar[bool] = False
  gives_padding: ClassVar[bool] = False
  figures: ClassVar[tuple[Figure, ...]] = ()
  shown: ClassVar[tuple[str, ...]] = ()
  by_position: ClassVar[bool] = False
  neutral: ClassVar[frozenset[str]] = frozenset()

  def resolved(self, separate: bool) -> 'Task':
    """Returns the task where documents do not see each other, or do."""
    del separate
    return self

  @classmethod
  def measured(cls) -> dict[str, Figure]:
    """Returns by name what its trials can be compared by."""
    return {figure.name: figure for figure in (*COMMON, *cls.figures)}

  @abc.abstractmethod
  def load(self, vocabulary: Vocabulary | None = None) -> Data:
    """Returns the data, in a given vocabulary or in one of its own."""

  def load_all(self, vocabulary: Vocabulary) -> Data:
    """Returns data to evaluate on, all of them where they are one text."""
    return self.load(vocabulary)

  @abc.abstractmethod
  def problem(self, data: Data, seq_len: int) -> str | None:
    """Returns why the data do not fit the context length, if they do not."""

  def counted(self, arrays: Arrays, ids_X: np.ndarray, seq_len: int) -> bool:
    """Returns whether anything of these validation examples is predicted."""
    del arrays, ids_X, seq_len
    return True

  def judged_part(self, arrays: Arrays, ids_X: np.ndarray, seq_len: int) -> str:
    """Returns what of the validation part these examples are, in words.

    Equal words are of equal targets, if the tokens of both are the same, or
    both count their bytes.
    """
    del arrays
    return f'{ids_X.size:,} examples of {seq_len:,} tokens'

  def notes(self, data: Data, seq_len: int) -> str:
    """Returns what of the data this context length leaves out, if anything."""
    del data, seq_len
    return ''

  @property
  def num_buckets(self) -> int:
    """Returns how many shapes batches have."""
    return 1

  def bucket(self, arrays: Arrays, draw: Draw) -> jax.Array:
    """Returns which shape the batch of a step has; jittable."""
    del arrays
    return jnp.zeros_like(draw.step)

  @abc.abstractmethod
  def batch(self, arrays: Arrays, draw: Draw, bucket: int = 0) -> Batch:
    """Returns the training batch of a step in its bucket; jittable."""

  @abc.abstractmethod
  def evaluation_size(self, arrays: Arrays, seq_len: int) -> int:
    """Returns how many validation examples there are."""

  @abc.abstractmethod
  def evaluation_batch(
    self, arrays: Arrays, ids_B: jax.Array, seq_len: int
  ) -> Batch:
    """Returns validation examples by their number; jittable."""

  def judge(
    self, arch: Architecture, dims: Dims, params: Params, data: Data
  ) -> 'Judgement':
    """Returns what is said of a trained model beside its loss."""
    del arch, dims, params, data
    return Judgement({}, [])

  def measures(self, data: Data) -> dict[str, float]:
    """Returns sizes of the text that is evaluated on, where it is one."""
    del data
    return {}


class Judgement(NamedTuple):
  """Figures of a trained model by name, and lines that it wrote, to be read."""

  figures: Mapping[str, float]
  lines: Sequence[str]


Step = TypeVar('Step', jax.Array, np.ndarray)


def examples(step: Step, batch_size: int) -> Step:
  """Returns the ids of a step's examples, which no other step has.

  Args:
    step: which; or several, along the first of two axes.
    batch_size: examples of each.
  """
  return step * batch_size + np.arange(batch_size, dtype=np.int32)


def spread(available: int, wanted: int, size: int) -> np.ndarray:
  """Returns the ids of validation examples, spread evenly, in whole batches."""
  ids = np.arange(wanted, dtype=np.int64) * available // wanted
  return np.pad(ids, (0, -wanted % size)).astype(np.int32)


def special_ids(vocabulary: Vocabulary) -> dict[str, np.ndarray]:
  """Returns the id of each special token by name, and `symbols`.

  `symbols` are the first id that is none of these, and the number of all ids.
  """
  ids = {
    s.value: np.array(n, np.int32) for n, s in enumerate(vocabulary.specials)
  }
  return ids | {'symbols': np.array([len(ids), vocabulary.size], np.int32)}


def check_specials(
  vocabulary: Vocabulary, specials: Sequence[Special], name: str, tag: str
) -> None:
  """Raises a DataError for a vocabulary that lacks what a task needs.

  Args:
    vocabulary: of a trial that was trained before.
    specials: what the task wants; <unk> is not owed, for bytes have none.
    name: of the data.
    tag: of the task.
  """
  owed = [s for s in specials if s is not Special.UNK]
  if absent := [s for s in owed if s not in vocabulary.specials]:
    raise DataError(
      f'{name}: the vocabulary lacks {absent[0].value}: it was made for '
      f'another task than {tag}'
    )
