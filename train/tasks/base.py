"""The interface of tasks: data on the device, and batches as pure functions.

A batch is a function of (key, step) alone, so that resuming needs no iterator
state, and the order does not depend on the number of devices or hosts.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from model.architecture.architecture import Architecture
from model.architecture.family import FamilyBase
from model.core.field import Variant
from model.core.inputs import ModelInputs
from model.core.parameter import Dims, Params
from train.core.errors import DataError
from train.core.metric import COMMON, OF_VECTORS, Metric
from train.optim.objective import CrossEntropy, Objective, are_vectors
from train.text.vocabulary import Special, Vocabulary


class Batch(NamedTuple):
  """A batch of examples.

  Attributes:
    inputs: what the model reads.
    targets_BT: token or class ids to predict; None if vectors are predicted.
    weights_BT: weight of each target in the loss; 0 for no prediction.
    ids_B: number of each example, unique over all training steps.
    targets_BTO: vectors to predict, or None.
  """

  inputs: ModelInputs
  targets_BT: jax.Array | None
  weights_BT: jax.Array
  ids_B: jax.Array
  targets_BTO: jax.Array | None = None

  @property
  def targets(self) -> jax.Array:
    """Returns targets_BTO if vectors are predicted, else targets_BT."""
    found = self.targets_BT if self.targets_BTO is None else self.targets_BTO
    assert found is not None
    return found


class Draw(NamedTuple):
  """What determines the batch of a step, besides the data.

  Attributes:
    key: random key of the data of a trial.
    step: the step.
    batch_size: examples per step, over all devices.
    seq_len: tokens per example.
  """

  key: jax.Array
  step: jax.Array
  batch_size: int
  seq_len: int


# Name of an array: the number of UTF-8 bytes of each token id.
TOKEN_BYTES = 'token_bytes'

# Arrays by name: on the device, or numpy's if the host reads them.
Arrays = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Data:
  """The data of a task.

  Attributes:
    arrays: arrays for the device, by name.
    vocabulary: decodes the ids in them.
    digest: sha256 of the source texts.
    description: a line for the user: source, size, split, remarks.
    held: columns of the validation rows of a table, as written there; text that
      is decoded from ids may lack what the vocabulary lacks.
    validation_characters: length of the validation part of a running text.
  """

  arrays: Mapping[str, np.ndarray]
  vocabulary: Vocabulary
  digest: str
  description: str
  held: tuple[Sequence[str], ...] = ()
  validation_characters: int = 0


@dataclasses.dataclass(frozen=True)
class Task(Variant, abc.ABC, package='train.tasks'):
  """A task: an open union, to which each file below train/tasks/ adds members.

  Attributes:
    families: the families of models (model/architecture/family.py) that can
      learn it, the default first.
    predicts_next: whether targets are next tokens, which attention must not
      see.
    predicts_tokens: whether targets are tokens, not labels or vectors.
    objective: the default objective.
    gives_segments: whether batches have `segments_BT`.
    gives_padding: whether segments may be 0, which marks padding.
    figures: metrics of the task, besides those of all tasks.
    shown: names of common metrics that a table shows by default.
    by_position: whether trials record the loss at each position, to compare
      rows that predict at different positions.
    neutral: names of fields that do not change what is evaluated.
  """

  families: ClassVar[tuple[type[FamilyBase], ...]]
  predicts_next: ClassVar[bool] = False
  predicts_tokens: ClassVar[bool] = True
  objective: ClassVar[tuple[Objective, ...]] = (CrossEntropy(),)
  gives_segments: ClassVar[bool] = False
  gives_padding: ClassVar[bool] = False
  figures: ClassVar[tuple[Metric, ...]] = ()
  shown: ClassVar[tuple[str, ...]] = ()
  by_position: ClassVar[bool] = False
  neutral: ClassVar[frozenset[str]] = frozenset()

  def resolved(self, separate: bool) -> 'Task':
    """Returns the task with the choices that depend on the mask filled in.

    Args:
      separate: whether the mask keeps tokens from attending across documents.
    """
    del separate
    return self

  @classmethod
  def measured(cls) -> dict[str, Metric]:
    """Returns the metrics of its trials, by name."""
    common = OF_VECTORS if are_vectors(cls.objective) else COMMON
    return {figure.name: figure for figure in (*common, *cls.figures)}

  @property
  def num_inputs(self) -> int:
    """Returns the width of its input vectors; 0 if inputs are tokens."""
    return 0

  @property
  def num_outputs(self) -> int:
    """Returns the width of its target vectors; 0 if targets are ids."""
    return 0

  @abc.abstractmethod
  def load(self, vocabulary: Vocabulary | None = None) -> Data:
    """Reads the data.

    Args:
      vocabulary: encodes the texts; None trains or builds a vocabulary.
    """

  def load_all(self, vocabulary: Vocabulary) -> Data:
    """Reads data to evaluate a trained model, without a training part.

    A source without a validation part of its own is evaluated as a whole.
    """
    return self.load(vocabulary)

  @abc.abstractmethod
  def problem(self, data: Data, seq_len: int) -> str | None:
    """Returns why the data do not suit a context length, or None if they do."""

  def has_targets(
    self, arrays: Arrays, ids_X: np.ndarray, seq_len: int
  ) -> bool:
    """Returns whether these validation examples have any target that counts."""
    del arrays, ids_X, seq_len
    return True

  def describe_evaluated(
    self, arrays: Arrays, ids_X: np.ndarray, seq_len: int
  ) -> str:
    """Describes which part of the validation data these examples cover.

    Two trials with the same description are evaluated on the same targets,
    provided that they have the same tokens, or that both measure in bytes.
    """
    del arrays
    return f'{ids_X.size:,} examples of {seq_len:,} tokens'

  def notes(self, data: Data, seq_len: int) -> str:
    """Returns a remark on data that a context length leaves out, or ''."""
    del data, seq_len
    return ''

  @property
  def num_buckets(self) -> int:
    """Returns the number of different shapes of batches."""
    return 1

  def bucket(self, arrays: Arrays, draw: Draw) -> jax.Array:
    """Returns the index of the shape of a step's batch; jittable."""
    del arrays
    return jnp.zeros_like(draw.step)

  @abc.abstractmethod
  def batch(self, arrays: Arrays, draw: Draw, bucket: int = 0) -> Batch:
    """Returns the training batch of a step; jittable.

    Args:
      arrays: arrays of the data.
      draw: the step, and its key and sizes.
      bucket: the bucket of the step, which determines the shape; static.
    """

  @abc.abstractmethod
  def evaluation_size(self, arrays: Arrays, seq_len: int) -> int:
    """Returns the number of validation examples."""

  @abc.abstractmethod
  def evaluation_batch(
    self, arrays: Arrays, ids_B: jax.Array, seq_len: int
  ) -> Batch:
    """Returns the validation examples with these numbers; jittable."""

  def final_metrics(
    self, arch: Architecture, dims: Dims, params: Params, data: Data
  ) -> 'FinalMetrics':
    """Measures a trained model in ways other than the loss, such as BLEU."""
    del arch, dims, params, data
    return FinalMetrics({}, [])

  def measures(self, data: Data) -> dict[str, float]:
    """Returns the sizes of the validation text by unit; {} if it is a table."""
    del data
    return {}


class FinalMetrics(NamedTuple):
  """Metrics of a trained model by name, and lines of its output to read."""

  figures: Mapping[str, float]
  lines: Sequence[str]


Step = TypeVar('Step', jax.Array, np.ndarray)


def example_ids(step: Step, batch_size: int) -> Step:
  """Returns the ids of the examples of a step, unique over all steps.

  Args:
    step: a step; or several, as an array with a last axis of size 1.
    batch_size: examples per step.
  """
  return step * batch_size + np.arange(batch_size, dtype=np.int32)


def spaced_examples(available: int, wanted: int, size: int) -> np.ndarray:
  """Chooses evenly spaced validation examples, padded to whole batches with 0.

  Args:
    available: number of all validation examples.
    wanted: number of examples to choose.
    size: examples per batch.
  """
  ids = np.arange(wanted, dtype=np.int64) * available // wanted
  return np.pad(ids, (0, -wanted % size)).astype(np.int32)


def special_ids(vocabulary: Vocabulary) -> dict[str, np.ndarray]:
  """Returns the id of each special token by name, and the array `symbols`.

  `symbols` is [first id that is no special token, number of ids]: the range of
  the other ids.
  """
  ids = {
    s.value: np.array(n, np.int32) for n, s in enumerate(vocabulary.specials)
  }
  return ids | {'symbols': np.array([len(ids), vocabulary.size], np.int32)}


def check_specials(
  vocabulary: Vocabulary, specials: Sequence[Special], name: str, tag: str
) -> None:
  """Raises a DataError if a vocabulary lacks special tokens that a task needs.

  Args:
    vocabulary: the vocabulary of an earlier trial.
    specials: special tokens of the task; <unk> may be absent, as with bytes.
    name: name of the data.
    tag: tag of the task.
  """
  needed = [s for s in specials if s is not Special.UNK]
  if absent := [s for s in needed if s not in vocabulary.specials]:
    raise DataError(
      f'{name}: the vocabulary lacks {absent[0].value}: it was made for '
      f'another task than {tag}'
    )
