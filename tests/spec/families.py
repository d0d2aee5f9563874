"""A task for each family, with little data that is made up in memory."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from model.architecture.family import (
  Classifier,
  Decoder,
  Encoder,
  EncoderDecoder,
  FamilyBase,
)
from train.data.tables.base import Rows
from train.data.tables.delimited import Tsv
from train.tasks.base import Batch, Data, Draw, Task
from train.tasks.texts.classification import Classification
from train.tasks.texts.mlm import Mlm
from train.tasks.texts.text import Text
from train.tasks.texts.translation import Translation
from train.text.tokenizer import CharTokenizer

LETTERS = 'abcdefghijklmnopqrstuvwx'


@dataclasses.dataclass(frozen=True)
class Held(Tsv):
  """Rows in memory: of letters drawn at random, two labels."""

  def part(self, part: str, columns: Sequence[str]) -> Rows:
    rng = np.random.default_rng(len(part))

    def texts() -> list[str]:
      sizes = rng.integers(2, 8, 40)
      return [LETTERS, *(''.join(rng.choice([*LETTERS], n)) for n in sizes)]

    held = {name: texts() for name in ('text', 'source', 'target')}
    held['label'] = ['even' if len(t) % 2 else 'odd' for t in held['text']]
    return Rows(part, tuple(held[name] for name in columns))


class Packing(Task):
  """Gives the batches of a task segments; without a tag: no flag names it."""

  gives_segments: ClassVar[bool] = True
  gives_padding: ClassVar[bool] = True

  def batch(
    self, arrays: Mapping[str, jax.Array], draw: Draw, bucket: int = 0
  ) -> Batch:
    return _packed(super().batch(arrays, draw, bucket))

  def evaluation_batch(
    self, arrays: Mapping[str, jax.Array], ids_B: jax.Array, seq_len: int
  ) -> Batch:
    return _packed(super().evaluation_batch(arrays, ids_B, seq_len))


def _packed(batch: Batch) -> Batch:
  """Returns the batch with two documents an example; of some, padding last."""
  t_1T = jnp.arange(batch.inputs.tokens_BT.shape[1])[None]
  id_B1 = batch.ids_B[:, None]
  segments_BT = 1 + (t_1T >= 3 + id_B1 % 3)
  padded_BT = (t_1T == t_1T.shape[1] - 1) & (id_B1 % 2 == 1)
  segments_BT = jnp.where(padded_BT, 0, segments_BT)
  weights_BT = jnp.where(padded_BT, 0.0, batch.weights_BT)
  inputs = batch.inputs._replace(segments_BT=segments_BT)
  return batch._replace(inputs=inputs, weights_BT=weights_BT)


@dataclasses.dataclass(frozen=True)
class PackedText(Packing, Text):
  """The text task with segments."""


@dataclasses.dataclass(frozen=True)
class PackedMlm(Packing, Mlm):
  """Masked tokens, with segments."""


ROWS = Held(train='memory')
# One shape of batch: more of them are the subject of `test_sentences.py`.
LEARNS: Mapping[type[FamilyBase], Task] = {
  Decoder: Text(data=ROWS),
  Encoder: Mlm(data=ROWS, rate=0.5),
  EncoderDecoder: Translation(data=ROWS, tokenizer=CharTokenizer(), buckets=1),
  Classifier: Classification(data=ROWS, tokenizer=CharTokenizer(), buckets=1),
}
PACKED: Mapping[type[FamilyBase], Task] = {
  Decoder: PackedText(data=ROWS),
  Encoder: PackedMlm(data=ROWS, rate=0.5),
}


def learned(family: FamilyBase) -> Task:
  """Returns the task of the command line that a family learns."""
  return LEARNS[type(family)]


def packed(family: FamilyBase) -> Task:
  """Returns that task, or one like it that pads what it packs."""
  return PACKED.get(type(family), learned(family))


@functools.cache
def data_of(task: Task) -> Data:
  """Returns what a task reads."""
  return task.load()
