"""What is measured: the shapes, lengths and counts of each kind of bench."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple


class Shape(NamedTuple):
  """A model and its batch, and the steps that time it.

  Attributes:
    layers: number of layers.
    heads: heads of each.
    width: of the residual stream.
    length: tokens of an example.
    batch: examples of a step.
    steps: of one run, enough that its clock holds little else.
    vocabulary: symbols; 65 characters, 256 bytes, or so many words.
    dtype: of the computation.
    has_peers: whether peers run at it.
  """

  layers: int
  heads: int
  width: int
  length: int
  batch: int
  steps: int
  vocabulary: int = 65
  dtype: str = 'float32'
  has_peers: bool = True

  @property
  def name(self) -> str:
    """Returns the shape as the table shows it."""
    return (
      f'{self.layers} layers, {self.heads} heads, width {self.width}, '
      f'T {self.length:,}, batch {self.batch}, {self.vocabulary:,} symbols'
    )

  @property
  def model_flags(self) -> dict[str, str]:
    """Returns the flags of the model and its batch."""
    return {
      'num_layers': str(self.layers),
      'num_heads': str(self.heads),
      'd_model': str(self.width),
      'seq_len': str(self.length),
      'batch_size': str(self.batch),
      'dtype': self.dtype,
    }

  @property
  def peer_flags(self) -> list[str]:
    """Returns the flags that a peer takes."""
    sizes = {
      'vocab': self.vocabulary,
      'layers': self.layers,
      'heads': self.heads,
      'width': self.width,
      'length': self.length,
      'batch': self.batch,
      'steps': self.steps,
    }
    return [f'--{name}={value}' for name, value in sizes.items()]


class LaneTable(NamedTuple):
  """A table of trials that differ in seed and learning rate.

  Attributes:
    seeds: of each of four learning rates.
    steps: of each trial.
    shape: of its model.
  """

  seeds: int
  steps: int
  shape: Shape


@dataclasses.dataclass(frozen=True)
class Sizes:
  """The sizes of one kind of bench.

  Attributes:
    parts: what is measured, in order of worth.
    rounds: how often contestants take turns, unless --rounds says.
    shapes: of the training steps.
    lanes: the table of trials.
    scaled: shape from which one axis at a time grows.
    growth: sizes of each axis: T, width, lanes.
    plan_rows: rows of the tables that are planned.
    text_bytes: of the text that is read from the disk.
    attention: heads, width of a head, tokens of a batch.
    attention_lengths: lengths of its examples.
    multi30k_steps: updates of the published schedule.
  """

  parts: tuple[str, ...]
  rounds: int
  shapes: tuple[Shape, ...]
  lanes: LaneTable
  scaled: Shape
  growth: Mapping[str, tuple[int, ...]]
  plan_rows: tuple[int, ...]
  text_bytes: int
  attention: tuple[int, int, int]
  attention_lengths: tuple[int, ...]
  multi30k_steps: int = 400


CPU = Sizes(
  parts=('step', 'lanes', 'scaling', 'data', 'start', 'attention', 'generate'),
  rounds=9,
  shapes=(
    Shape(4, 4, 128, 64, 12, 200),
    Shape(2, 4, 64, 64, 16, 600),
    Shape(6, 6, 384, 128, 8, 40),
  ),
  lanes=LaneTable(4, 2000, Shape(2, 4, 64, 64, 8, 2000)),
  scaled=Shape(2, 4, 64, 128, 4, 0),
  growth={
    'T': (128, 256, 512, 1024),
    'width': (64, 128, 256, 512),
    'lanes': (1, 2, 4, 8),
  },
  plan_rows=(125, 250, 500, 1000),
  text_bytes=2**26,
  attention=(4, 32, 2048),
  attention_lengths=(256, 512, 1024, 2048),
)
_TINY = Shape(1, 2, 16, 16, 2, 20)
QUICK = dataclasses.replace(
  CPU,
  parts=('step', 'attention', 'generate'),  # in under a minute
  rounds=1,
  shapes=(_TINY,),
  lanes=LaneTable(1, 20, _TINY),
  scaled=_TINY,
  growth={'T': (16, 32)},
  plan_rows=(5, 10),
  text_bytes=2**24 + 2**20,  # from 2^24 characters on a text is mapped
  attention=(2, 8, 64),
  attention_lengths=(32, 64),
)
_GPT2 = Shape(12, 12, 768, 1024, 32, 100, 256, 'bfloat16')
GPU = dataclasses.replace(
  CPU,
  parts=('step', 'attention', 'lanes', 'multi30k'),
  rounds=1,  # a card that does nothing else repeats within a percent
  shapes=(
    _GPT2,
    _GPT2._replace(batch=16),
    # What a public trainer does here is known; at the last nobody races.
    Shape(8, 4, 512, 2048, 32, 100, 8192, 'bfloat16', has_peers=False),
    _GPT2._replace(length=32768, batch=1, steps=20, has_peers=False),
  ),
  lanes=LaneTable(8, 6000, Shape(2, 4, 64, 64, 8, 6000)),
  attention=(12, 64, 16384),
  attention_lengths=(1024, 2048, 4096, 8192),
)
GPU_QUICK = dataclasses.replace(
  QUICK,
  parts=GPU.parts,  # so that all of its path is tried
  shapes=(
    _TINY._replace(vocabulary=256, dtype='bfloat16'),
    _TINY._replace(vocabulary=40, length=32, dtype='bfloat16'),
  ),
  multi30k_steps=2,
)
GPU_SECONDS = 480.0  # after which the GPU part starts nothing more
PROFILE = 'profile'
PARTS = tuple(dict.fromkeys((*CPU.parts, *GPU.parts, PROFILE)))


def sizes_of(quick: bool, gpu: bool) -> Sizes:
  """Returns the sizes that two flags ask for."""
  if gpu:
    return GPU_QUICK if quick else GPU
  return QUICK if quick else CPU
