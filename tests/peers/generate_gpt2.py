"""Generation by `transformers`: a peer of `python -m experiments.bench`.

  python -m experiments.bench --only=generate \
    --generation_peer=".venv-peers/bin/python tests/peers/generate_gpt2.py"

GPT-2 of the shape that the bench has, greedily, with its cache; `bash
tests/peers.sh` sets that Python up.  Prints one line of JSON.
"""

import argparse
import json
import os
import statistics
import time

import numpy as np
import torch
import transformers

SIZES = {
  'batch': 32,
  'prompt': 32,
  'new': 256,
  'layers': 4,
  'heads': 4,
  'width': 128,
  'vocab': 256,
  'rounds': 3,
}


def model(asked: argparse.Namespace) -> transformers.GPT2LMHeadModel:
  """Returns GPT-2 with initial values."""
  config = transformers.GPT2Config(
    vocab_size=asked.vocab,
    n_positions=asked.prompt + asked.new,
    n_embd=asked.width,
    n_layer=asked.layers,
    n_head=asked.heads,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=0,
  )
  return transformers.GPT2LMHeadModel(config).eval()


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  for name, size in SIZES.items():
    parser.add_argument(f'--{name}', type=int, default=size)
  asked = parser.parse_args()
  torch.set_num_threads(os.cpu_count() or 1)
  network = model(asked)
  shape = (asked.batch, asked.prompt)
  draws_BT = np.random.default_rng(0).integers(0, asked.vocab, shape)
  tokens_BT = torch.from_numpy(draws_BT)
  seconds = []
  for _ in range(asked.rounds + 1):
    begun = time.perf_counter()
    with torch.inference_mode():
      out_BT = network.generate(
        tokens_BT,
        attention_mask=torch.ones_like(tokens_BT),
        max_new_tokens=asked.new,
        do_sample=False,
        use_cache=True,
      )
    seconds.append(time.perf_counter() - begun)
    assert out_BT.shape == (asked.batch, asked.prompt + asked.new)
  seconds = seconds[1:]  # the first warms up
  figures = {
    'peer': f'transformers {transformers.__version__}, '
    f'torch {torch.__version__}',
    'parameters': sum(p.numel() for p in network.parameters()),
    'best_seconds': min(seconds),
    'median_seconds': statistics.median(seconds),
    'tokens_per_second': asked.batch * asked.new / min(seconds),
  }
  print(json.dumps(figures))


if __name__ == '__main__':
  main()
