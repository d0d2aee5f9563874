"""Refusals of --generate and of rows, in a directory with trained trials."""

import json
import pathlib
from typing import Any
from unittest import mock

import numpy as np
import pytest

from experiments.cli import trained_trials as trained
from experiments.experiment import BASE
from train.config.config import Config
from train.core.errors import DataError
from train.core.trees import unflatten
from train.flags.schema import override
from train.inference.load import TrainedTrial, load
from train.text.vocabulary import CharVocabulary

pytestmark = pytest.mark.usefixtures('empty_folder')


@pytest.fixture
def workdir(tmp_path: pathlib.Path) -> pathlib.Path:
  """A working directory beside the current one, as far as names go."""
  folder = tmp_path.parent / f'{tmp_path.name}-trials'
  for n, row in enumerate((BASE, 'position=rope')):
    (folder / 'runs' / f'{n}abc').mkdir(parents=True)
    for seed in (0, 1):
      record = {'row': row, 'seed': seed, 'trial': f'{n}abc', 'config': {}}
      record |= {'status': 'failed', 'error': 'out of luck'}
      with (folder / 'trials.jsonl').open('a') as file:
        file.write(json.dumps(record) + '\n')
  return folder


def test_rows_are_listed_where_another_is_named(workdir: pathlib.Path) -> None:
  for name, parts in {
    'rope': ('base|position=rope', 'did you mean position=rope?'),
    'bas': ('base|position=rope', 'did you mean base?'),
    'base/7': ('row base has no seed 7: it has 0, 1',),
  }.items():
    with pytest.raises(DataError) as caught:
      load(workdir, name)
    assert all(part in str(caught.value) for part in parts)


def loaded(flags: dict[str, str]) -> TrainedTrial:
  """Returns a trial with parameters that are zeros."""
  config = override(
    Config(), {'num_layers': '1', 'd_model': '8', 'num_heads': '1'} | flags
  )
  vocabulary = CharVocabulary('ab\n')
  arch = config.architecture
  table = arch.parameter_table(config.sizes(vocabulary))
  zeros = {
    path: np.zeros(what.shape if depth is None else (depth, *what.shape))
    for path, what in table.items()
    for depth in [arch.depth(path)]
  }
  return TrainedTrial('id', config, vocabulary, unflatten(zeros), 0, '')


IDLE = {
  ('--temperature=0', '--seed=1'): '--seed=1: draws nothing with --temperature',
  ('--top_k=1', '--seed=1'): '--top_k=1',
  ('--beam=2', '--seed=1'): '--beam=2',
  ('--task.beam=5',): '--task.beam=5: is for training: say --beam=5',
  ('--task.length_penalty=2',): 'say --length_penalty=2',
  ('--steps=5',): 'leaves --steps without effect',
}


@pytest.mark.parametrize('argv', IDLE, ids=' '.join)
def test_generate_refuses_what_has_no_effect(
  argv: tuple[str, ...], refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(trained, 'load', lambda workdir, trial: loaded({}))
  assert IDLE[argv] in refused('--generate=w:base', *argv)


@pytest.mark.parametrize(
  'flags',
  [
    {'position': 'learned'},
    {'position': 'none', 'score': 'synthesizer_random'},
    {'position': 'none', 'score': 'synthesizer_dense'},
  ],
  ids=lambda flags: ' '.join(flags.values()),
)
def test_positions_beyond_those_trained_are_refused(
  flags: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr('model.transformer.apply', mock.Mock(return_value='y'))
  tokens_BT = np.zeros((1, 5), int)
  with pytest.raises(ValueError, match=r'5 tokens.*--seq_len=4'):
    loaded({'seq_len': '4', **flags}).apply(tokens_BT)
  assert loaded({'seq_len': '5', **flags}).apply(tokens_BT) == 'y'
  assert loaded({'seq_len': '4', 'position': 'rope'}).apply(tokens_BT) == 'y'
