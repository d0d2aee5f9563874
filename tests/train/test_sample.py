"""The short text that a trial writes at its end."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

from helpers.lanes import data, run, trials
from model.architecture.architecture import Architecture
from model.attention.mask import Causal, ExcludeSelf, Full, MaskBase, Prefix
from train.files.durable import digest
from train.inference.load import load
from train.sample import (
  NEW_TOKENS,
  SAMPLE_FILE,
  TEMPERATURE,
  sample_tokens,
  write_sample,
)

pytestmark = pytest.mark.usefixtures('quick_compilation')


def test_each_token_follows_the_last_of_its_window() -> None:
  """After t comes t + 1; what the window holds is seen, and nothing else."""
  windows = []

  def forward(tokens_1T: np.ndarray) -> np.ndarray:
    windows.append(tokens_1T[0].tolist())
    logits_TV = np.zeros((6, 50))
    for t, token in enumerate(tokens_1T[0]):
      logits_TV[t, (token + 1) % 50] = 1e6
    return logits_TV

  assert sample_tokens(forward, [7, 8, 9], 6, 8) == list(range(10, 18))
  assert windows[:5] == [
    [7, 8, 9, 0, 0, 0],
    [7, 8, 9, 10, 0, 0],
    [7, 8, 9, 10, 11, 0],
    [10, 11, 12, 0, 0, 0],
    [10, 11, 12, 13, 0, 0],
  ]


def test_tokens_have_the_probabilities_of_the_temperature() -> None:
  logits_V = np.array([1.0, 0.0, -1.0, 2.0])
  drawn = sample_tokens(lambda x: np.tile(logits_V, (4, 1)), [0], 4, 20_000)
  expected = np.exp(logits_V / TEMPERATURE)
  found = np.bincount(drawn, minlength=4) / len(drawn)
  np.testing.assert_allclose(found, expected / expected.sum(), atol=0.015)


@pytest.mark.slow
def test_a_trial_writes_the_same_text_again(tmp_path: pathlib.Path) -> None:
  texts = {}
  for name, layout in (('a', 'shared:1'), ('b', 'shared:1'), ('c', 'map:2')):
    mine = trials(tmp_path / name, [{'seed': '0'}, {'seed': '1'}])
    results = run(mine, layout)
    texts[name] = [(t.directory / SAMPLE_FILE).read_text() for t in mine]
    assert all(result.status == 'ok' for result in results.values())
  assert texts['a'] == texts['b'] == texts['c']
  first, second = map(json.loads, texts['a'])
  assert first['prompt'] == second['prompt']
  assert first['text'] != second['text']
  vocabulary = data().vocabulary
  held = data().arrays['validation'][:8]  # half of --seq_len
  assert first['prompt'] == vocabulary.decode(held)
  assert len(first['text']) == NEW_TOKENS
  loaded = load(tmp_path / 'a', '0')
  assert digest(loaded.params) == results['0'].digest
  ids = sample_tokens(
    lambda tokens_1T: loaded.apply(tokens_1T).logits_BTV[0],
    held,
    16,
    NEW_TOKENS,
  )
  assert vocabulary.decode(np.asarray(ids)) == first['text']


@pytest.mark.parametrize(
  ('masks', 'length', 'written'),
  [
    ((Causal(),), 6, True),
    ((Causal(), ExcludeSelf()), 6, True),
    ((Causal(),), 1, False),
    ((Full(),), 6, False),
    ((Prefix(3),), 6, True),
    ((Prefix(4),), 6, False),
  ],
  ids=str,
)
def test_only_what_can_write_does(
  masks: tuple[MaskBase, ...],
  length: int,
  written: bool,
  tmp_path: pathlib.Path,
) -> None:
  vocabulary = data().vocabulary
  write_sample(
    tmp_path,
    dataclasses.replace(Architecture(), mask=masks),
    vocabulary,
    np.zeros(length, np.int32),
    lambda tokens_1T: np.zeros((length, vocabulary.size)),
  )
  assert (tmp_path / SAMPLE_FILE).exists() == written
