"""What a task is: data on the device, and batches as pure functions.

A batch is a function of (key, step) alone, so that resuming needs no iterator
state and the order does not depend on how many devices or hosts there are.
"""

import abc
import dataclasses
from collections.abc import Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.field import Variant
from train.vocabulary import Vocabulary


class Batch(NamedTuple):
  """Tokens, what to predict at each, how much it counts, and example ids.

  Attributes:
    inputs_BT: token ids.
    targets_BT: token ids.
    weights_BT: of each target in the loss; 0 where nothing is predicted.
    ids_B: number of each example, which no other step has.
    segments_BT: 0 = padding, 1.. = number of the document in its row; none
      where the task does not know of documents.
  """

  inputs_BT: jax.Array
  targets_BT: jax.Array
  weights_BT: jax.Array
  ids_B: jax.Array
  segments_BT: jax.Array | None = None


@dataclasses.dataclass(frozen=True)
class Data:
  """What a task reads: arrays for the device, and what they stand for."""

  arrays: Mapping[str, np.ndarray]
  vocabulary: Vocabulary
  digest: str
  description: str


class DataError(ValueError):
  """Data that cannot be used: names the file, what is wrong and the fix."""


@dataclasses.dataclass(frozen=True)
class Task(Variant, abc.ABC):
  """An open union: each file in `train/tasks/` adds one member.

  Attributes:
    gives_segments: its batches have `segments_BT`.
    gives_padding: some of these are 0.
  """

  gives_segments: ClassVar[bool] = False
  gives_padding: ClassVar[bool] = False

  @abc.abstractmethod
  def load(self, vocabulary: Vocabulary | None = None) -> Data:
    """Returns the data, in a given vocabulary or in one of its own."""

  @abc.abstractmethod
  def problem(self, data: Data, seq_len: int) -> str | None:
    """Returns why the data do not fit the context length, if they do not."""

  @abc.abstractmethod
  def batch(
    self,
    arrays: Mapping[str, jax.Array],
    key: jax.Array,
    step: jax.Array,
    batch_size: int,
    seq_len: int,
  ) -> Batch:
    """Returns the training batch of a step; jittable."""

  @abc.abstractmethod
  def evaluation_size(
    self,
    arrays: Mapping[str, np.ndarray] | Mapping[str, jax.Array],
    seq_len: int,
  ) -> int:
    """Returns how many validation examples there are."""

  @abc.abstractmethod
  def evaluation_batch(
    self, arrays: Mapping[str, jax.Array], ids_B: jax.Array, seq_len: int
  ) -> Batch:
    """Returns validation examples by their number; jittable."""


def examples(step: jax.Array, batch_size: int) -> jax.Array:
  """Returns the ids of a step's examples, which no other step has."""
  return step * batch_size + jnp.arange(batch_size)
