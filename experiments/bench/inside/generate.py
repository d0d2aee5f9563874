"""Generation of tokens, from a cache and without one."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from experiments.bench.inside.steps import FIRST_LETTER
from model.decoding.decode import Sampling
from train.config.config import Config
from train.flags.schema import override
from train.inference.generate import generate_texts
from train.inference.generation import Generation
from train.inference.load import TrainedTrial
from train.programs.state import init_state
from train.text.vocabulary import CharVocabulary

VOCABULARY = 256
PART = 8  # of the tokens that are computed without a cache


class Size(NamedTuple):
  """Prompts and their lengths, and the model."""

  batch: int
  prompt: int
  new: int
  layers: int
  heads: int
  width: int


FULL, QUICK = Size(32, 32, 256, 4, 4, 128), Size(2, 8, 16, 1, 2, 16)


def measure(given: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
  """Yields the seconds of all new tokens, with a cache and without."""
  size = QUICK if given['quick'] else FULL
  trial, prompts = untrained(size)
  greedy = Generation(new_tokens=size.new, sampling=Sampling(temperature=0.0))
  # Without a cache every token costs the whole window.
  few = dataclasses.replace(greedy, new_tokens=size.new // PART)
  call = functools.partial(generate_texts, trial, prompts)
  runs: dict[str, Callable[[], float]] = {
    'from a cache': lambda: _seconds(lambda: call(greedy)),
    'without a cache': lambda: PART * _seconds(lambda: call(few, cached=False)),
  }
  for run in runs.values():
    run()  # compiles
  found: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(given['rounds']):
    for name, run in runs.items():
      found[name].append(run())
  first = min(found['from a cache'])
  for name, seconds in found.items():
    yield {
      'of': f'{size.layers} layers, width {size.width}: {size.batch} prompts '
      f'of {size.prompt}, {size.new} new tokens each',
      'what': name,
      'best_seconds': min(seconds),
      'median_seconds': statistics.median(seconds),
      'tokens_per_second': size.batch * size.new / min(seconds),
      'slower': min(seconds) / first,
      'rounds_seconds': seconds,
    }


def untrained(size: Size) -> tuple[TrainedTrial, list[str]]:
  """Returns a model with initial values, and the prompts."""
  letters = ''.join(map(chr, range(FIRST_LETTER, FIRST_LETTER + VOCABULARY)))
  vocabulary = CharVocabulary(letters)
  config = override(
    Config(),
    {
      'num_layers': str(size.layers),
      'num_heads': str(size.heads),
      'd_model': str(size.width),
      'seq_len': str(size.prompt + size.new),
      'use_bias': 'true',
    },
  )
  params = init_state(config, config.dims(vocabulary.size)).params
  draw = np.random.default_rng(0)
  prompts_BT = draw.integers(0, VOCABULARY, (size.batch, size.prompt))
  prompts = [vocabulary.decode(ids_T) for ids_T in prompts_BT]
  return TrainedTrial('bench', config, vocabulary, params, 0, ''), prompts


def _seconds(run: Callable[[], object]) -> float:
  begun = time.perf_counter()
  run()
  return time.perf_counter() - begun
