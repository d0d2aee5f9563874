"""Tasks with synthetic examples, each a function of (key, its number)."""

import abc
import dataclasses

import jax

from train.tasks.base import Arrays, Batch, Data, Draw, Task, example_ids


@dataclasses.dataclass(frozen=True)
class GeneratedTask(Task, abc.ABC):
  """A task whose examples are generated, not read."""

  @property
  def num_held(self) -> int:
    """Returns the number of validation examples."""
    return 1000

  @abc.abstractmethod
  def drawn(self, key: jax.Array, ids_B: jax.Array, seq_len: int) -> Batch:
    """Returns the examples with these numbers; jittable.

    Args:
      key: random key of the training data of a seed, or of the validation data.
      ids_B: number of each example, which is a function of it and `key` alone.
      seq_len: tokens per example.
    """

  def problem(self, data: Data, seq_len: int) -> str | None:
    """Returns None: any context length is suitable."""
    del data, seq_len
    return None

  def batch(self, arrays: Arrays, draw: Draw, bucket: int = 0) -> Batch:
    """Returns the examples of a training step."""
    del arrays, bucket
    ids_B = example_ids(draw.step, draw.batch_size)
    return self.drawn(draw.key, ids_B, draw.seq_len)

  def evaluation_size(self, arrays: object, seq_len: int) -> int:
    """Returns the number of validation examples."""
    del arrays, seq_len
    return self.num_held

  def evaluation_batch(
    self, arrays: Arrays, ids_B: jax.Array, seq_len: int
  ) -> Batch:
    """Returns validation examples by number, which are equal for all seeds."""
    del arrays
    held = jax.random.fold_in(jax.random.key(0), self.num_held)
    return self.drawn(held, ids_B, seq_len)
