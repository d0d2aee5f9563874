"""Training steps of a program that is compiled ahead of its first call."""

import functools
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from train.config.config import Config
from train.devices.parallel import LaneLayout
from train.flags.schema import override
from train.programs.program import get_program
from train.programs.signature import signature
from train.programs.state import init_state
from train.tasks.base import Data
from train.text.vocabulary import CharVocabulary

TOKENS = 200_000  # of the data, a tenth of them for validation
FIRST_LETTER = 256


class Memory(NamedTuple):
  """The memory of a compiled program in bytes: a function of the program."""

  arguments: int
  temporary: int

  @property
  def total(self) -> int:
    """Returns both together."""
    return self.arguments + self.temporary


class Steps:
  """The training steps of some trials in lanes of the first device.

  Attributes:
    lanes: how many trials run side by side.
    compile_seconds: of lowering and compiling.
    memory: of the compiled program.
    text: the compiled program in HLO.
  """

  def __init__(self, flags: Mapping[str, str], vocabulary: int, lanes: int):
    self.lanes = lanes
    config, data = override(Config(), flags), random_data(vocabulary)
    layout = LaneLayout(tuple(jax.devices()[:1]), lanes)
    sig, values = signature(config, data, layout)
    self._pack = layout.pack
    self._state = layout.pack(
      [init_state(config, sig.dims)] * lanes, sig.parameter_axes
    )
    self._given = (
      layout.pack([values] * lanes),
      layout.place(dict(data.arrays)),
    )
    # pmap's, which lowers; the type of `Program` says only that it is called.
    chunk: Any = get_program(sig).chunk
    begun = time.perf_counter()
    arguments = (self._state, *self._given, self._stops(0))
    self._compiled = chunk.lower(*arguments).compile()
    self.compile_seconds = time.perf_counter() - begun
    self.memory = memory_of(self._compiled)
    self._step = 0

  @property
  def text(self) -> str:
    """Returns the compiled program in HLO."""
    return self._compiled.as_text()

  def run(self, count: int) -> float:
    """Runs so many steps, and returns the seconds of them all."""
    self._step += count
    stops = self._stops(self._step)
    begun = time.perf_counter()
    self._state, _ = self._compiled(self._state, *self._given, stops)
    jax.block_until_ready(self._state.step)
    return time.perf_counter() - begun

  def _stops(self, step: int) -> Any:
    return self._pack([np.int32(step)] * self.lanes)


def memory_of(compiled: Any) -> Memory:
  """Returns the memory of what `lower().compile()` gave."""
  found = compiled.memory_analysis()
  return Memory(found.argument_size_in_bytes, found.temp_size_in_bytes)


@functools.cache
def random_data(vocabulary: int) -> Data:
  """Returns random tokens, the same each time."""
  letters = ''.join(map(chr, range(FIRST_LETTER, FIRST_LETTER + vocabulary)))
  kind = CharVocabulary(letters)
  draws = np.random.default_rng(0).integers(0, vocabulary, TOKENS)
  ids = draws.astype(kind.encode('').dtype)
  cut = TOKENS * 9 // 10
  parts = {'train': ids[:cut], 'validation': ids[cut:]}
  return Data(parts, kind, 'random', 'random')


def best_seconds(run: Callable[[], float], seconds: float) -> list[float]:
  """Returns the times of at least three calls, and of more in the time."""
  found: list[float] = []
  begun = time.perf_counter()
  while len(found) < 3 or time.perf_counter() - begun < seconds:
    found.append(run())
  return found
