"""Times generation: from a cache, without one, and by `transformers`.

32 prompts of 32 tokens, 256 new tokens each, greedily, by a model of 4 layers,
4 heads and width 128 with a vocabulary of 256, in float32 on the CPU.  In turns
and in one sitting, on a machine that does nothing else:

  python tests/bench/bench_generate.py

Prints a line of JSON for each: the best and the median of the rounds, in
seconds and in new tokens a second, and how many times those of the first.
Without a cache every token costs the whole window, so that 32 tokens are timed
and multiplied.  The peer is left out where `torch` and `transformers` are not
installed.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import pathlib
import statistics
import sys
import time
from collections.abc import Callable

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

import jax
import numpy as np

from model.decoding.decode import Sampling
from train.config.config import Config
from train.core.trees import flatten
from train.flags.schema import override
from train.inference.generate import generate_texts
from train.inference.generation import Generation
from train.inference.load import TrainedTrial
from train.programs.state import init_state
from train.text.vocabulary import CharVocabulary

BATCH, PROMPT, NEW, LAYERS, HEADS, WIDTH = 32, 32, 256, 4, 4, 128
LETTERS = ''.join(map(chr, range(256, 512)))
GREEDY = Generation(new_tokens=NEW, sampling=Sampling(temperature=0.0))
PART = 8  # of the tokens that are computed without a cache
FEW = dataclasses.replace(GREEDY, new_tokens=NEW // PART)
PROMPTS_BT = np.random.default_rng(0).integers(0, 256, (BATCH, PROMPT))


def ours() -> tuple[TrainedTrial, list[str]]:
  """Returns a model with initial values, and the prompts."""
  vocabulary = CharVocabulary(LETTERS)
  config = override(
    Config(),
    {
      'num_layers': str(LAYERS),
      'num_heads': str(HEADS),
      'd_model': str(WIDTH),
      'seq_len': str(PROMPT + NEW),
      'use_bias': 'true',
    },
  )
  params = init_state(config, config.dims(vocabulary.size)).params
  prompts = [vocabulary.decode(ids_T) for ids_T in PROMPTS_BT]
  return TrainedTrial('bench', config, vocabulary, params, 0, ''), prompts


def theirs() -> Callable[[], object]:
  """Returns GPT-2 of the same shape, and prints its parameters."""
  import torch
  import transformers

  torch.set_num_threads(os.cpu_count() or 1)
  config = transformers.GPT2Config(
    vocab_size=256,
    n_positions=PROMPT + NEW,
    n_embd=WIDTH,
    n_layer=LAYERS,
    n_head=HEADS,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=0,
  )
  model = transformers.GPT2LMHeadModel(config).eval()
  count = sum(p.numel() for p in model.parameters())
  versions = f'torch {torch.__version__}, transformers'
  print(f'{versions} {transformers.__version__}: {count:,} parameters')
  tokens_BT = torch.from_numpy(PROMPTS_BT)

  def run() -> object:
    with torch.inference_mode():
      out_BT = model.generate(
        tokens_BT,
        attention_mask=torch.ones_like(tokens_BT),
        max_new_tokens=NEW,
        do_sample=False,
        use_cache=True,
      )
    assert out_BT.shape == (BATCH, PROMPT + NEW)
    return out_BT

  return run


def timed(name: str, run: Callable[[], object]) -> float:
  """Returns the seconds of one run."""
  begun = time.perf_counter()
  run()
  seconds = time.perf_counter() - begun
  return seconds * PART if name == 'uncached' else seconds


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--rounds', type=int, default=7)
  asked = parser.parse_args()
  loaded, prompts = ours()
  count = sum(p.size for p in flatten(loaded.params).values())
  print(f'jax {jax.__version__}, {os.cpu_count()} cores: {count:,} parameters')
  runs: dict[str, Callable[[], object]] = {
    'cached': lambda: generate_texts(loaded, prompts, GREEDY)
  }
  if all(map(importlib.util.find_spec, ('torch', 'transformers'))):
    runs['transformers'] = theirs()
  runs['uncached'] = lambda: generate_texts(loaded, prompts, FEW, cached=False)
  for name, run in runs.items():
    timed(name, run)  # compiles
  seconds: dict[str, list[float]] = {name: [] for name in runs}
  for _ in range(asked.rounds):
    for name, run in runs.items():
      seconds[name].append(timed(name, run))
  for name, all_rounds in seconds.items():
    best, median = min(all_rounds), statistics.median(all_rounds)
    line = {
      'what': name,
      'best_seconds': round(best, 3),
      'median_seconds': round(median, 3),
      'tokens_per_second': round(BATCH * NEW / best),
      'times_cached_best': round(best / min(seconds['cached']), 2),
      'times_cached_median': round(
        median / statistics.median(seconds['cached']), 2
      ),
    }
    print(json.dumps(line), flush=True)


if __name__ == '__main__':
  main()
