"""Documents that end: what is predicted of them, and where writing stops."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.planning.comparable import plan_comparison
from model.architecture.architecture import Architecture
from model.core.field import FieldError
from model.decoding.decode import Sampling
from train.config.config import Config
from train.config.targets import targets_of
from train.core.metric import VAL_LOSS
from train.data.splits import tokens
from train.flags.schema import override, to_flags
from train.inference.generate import generate_texts
from train.inference.generation import Generation
from train.inference.load import TrainedTrial
from train.programs.batches import batch_of
from train.programs.state import init_state
from train.sample import write_sample
from train.text.vocabulary import CharVocabulary, Special

WORDS = ('ab cd', 'c', 'de ab c', 'b b', 'ee', 'a c ab de c', 'd', 'cd ab', 'e')
LENGTH = 9


@pytest.fixture
def folder(tmp_path: Path) -> Path:
  texts = tmp_path / 'texts'
  texts.mkdir()
  for n in range(60):
    text = f'{WORDS[n % 9]} {WORDS[n % 7]}'[: 2 + n % 8].strip()
    (texts / f'{n:02}.txt').write_text(text)
  return texts


def _config(folder: Path, changes: Mapping[str, str]) -> Config:
  flags = {'task.path': str(folder), 'task.split': 'hash', 'task': 'text'}
  flags |= {'seq_len': str(LENGTH), 'mask': 'causal,segments'}
  return override(Config(), flags | dict(changes))


def _arrays(data: Any) -> dict[str, jax.Array]:
  return {name: jnp.asarray(x) for name, x in data.arrays.items()}


@pytest.mark.slow
@pytest.mark.parametrize('tokenizer', ['char', 'byte', 'word'])
def test_each_document_ends_and_nothing_is_predicted_across(
  folder: Path, tokenizer: str
) -> None:
  config = _config(folder, {'task.tokenizer': tokenizer})
  data = config.task.load()
  vocabulary, arrays = data.vocabulary, _arrays(data)
  end = vocabulary.id_of(Special.EOS)
  for part in ('train', 'validation'):
    starts = data.arrays[f'{part}_starts']
    ids = data.arrays[part]
    texts = np.split(ids, starts[1:])
    assert len(texts) > 2
    assert all(x[-1] == end and end not in x[:-1] for x in texts)
    read = {p.read_text() for p in folder.iterdir()}
    if tokenizer != 'word':
      assert {vocabulary.decode(x) for x in texts} <= read
  count = config.task.evaluation_size(arrays, LENGTH)
  batches = [
    config.task.evaluation_batch(arrays, jnp.arange(count), LENGTH),
    *(batch_of(config, arrays, jnp.int32(step)) for step in range(3)),
  ]
  for batch in batches:
    inputs_BT = np.asarray(batch.inputs.tokens_BT)
    targets_BT = np.asarray(batch.targets_BT)
    np.testing.assert_array_equal(inputs_BT[:, 1:], targets_BT[:, :-1])
    weights_BT = np.asarray(batch.weights_BT)
    assert not weights_BT[inputs_BT == end].any()
    assert (targets_BT == end).any()
    assert batch.inputs.segments_BT is not None
    borders_BT = np.diff(np.asarray(batch.inputs.segments_BT), axis=1) != 0
    np.testing.assert_array_equal(borders_BT, (inputs_BT == end)[:, :-1])
    if batch is not batches[0]:  # in the last window some are known already
      assert weights_BT[inputs_BT != end].all()
  # Each token is predicted once, but for the first of each document.
  want = len(data.arrays['validation']) - len(data.arrays['validation_starts'])
  assert int(batches[0].weights_BT.sum()) == want


def test_without_segments_nothing_has_changed(folder: Path) -> None:
  config = _config(folder, {'mask': 'causal'})
  data = config.task.load()
  assert data.vocabulary.specials == ()
  batch = batch_of(config, _arrays(data), jnp.int32(0))
  assert np.asarray(batch.weights_BT).all()
  assert to_flags(config)['task.ends'] == 'none'


def test_where_a_text_is_cut_it_does_not_end(tmp_path: Path) -> None:
  (tmp_path / 'a.txt').write_text('abcdefghij' * 20)
  config = _config(tmp_path / 'a.txt', {'task.split': 'tail'})
  data = config.task.load()
  end = data.vocabulary.id_of(Special.EOS)
  assert end not in data.arrays['train']
  assert data.arrays['validation'].tolist().count(end) == 1
  assert data.arrays['validation'][-1] == end


def test_ends_are_kept_with_long_texts(
  folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  config = _config(folder, {})
  short = config.task.load()
  monkeypatch.setenv('ABLAX_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(tokens, 'MIN_CACHED_SIZE', 1)
  for again in (config.task.load(), config.task.load()):
    for name, wanted in short.arrays.items():
      np.testing.assert_array_equal(again.arrays[name], wanted)


def test_documents_apart_cannot_go_on(folder: Path) -> None:
  with pytest.raises(FieldError, match=r'task\.ends=false: documents that do'):
    _config(folder, {'task.ends': 'false'})


def test_a_prefix_of_every_document_leaves_nothing(folder: Path) -> None:
  long = {'mask': 'prefix,segments', 'mask.prefix': '20', 'seq_len': '30'}
  config = _config(folder, long)
  problem = config.data_problem(config.task.load())
  assert problem is not None
  assert 'no document of the train part has more than' in problem
  config = _config(folder, long | {'mask.prefix': '3'})
  assert config.data_problem(config.task.load()) is None


def test_rows_are_compared_where_documents_end_in_both(folder: Path) -> None:
  prefix = {'mask': 'prefix,segments', 'mask.prefix': '3'}
  configs = {
    'base': _config(folder, {'mask': 'causal', 'task.ends': 'true'}),
    'apart': _config(folder, {}),
    'running': _config(folder, {'mask': 'causal'}),
    'prefix': _config(folder, prefix),
    'longer': _config(folder, prefix | {'mask.prefix': '4'}),
    'bytes': _config(folder, {'task.tokenizer': 'byte'}),
  }
  judged = {name: targets_of(c, c.task.load()) for name, c in configs.items()}
  found = plan_comparison(VAL_LOSS, 'base', judged)
  assert set(found.withheld) == {'running', 'prefix', 'longer'}
  assert not found.positions
  why = plan_comparison(VAL_LOSS, 'running', judged).withheld['apart']
  assert '--task.ends=true, the base none; --task.ends=true for the' in why
  same = plan_comparison(VAL_LOSS, 'prefix', judged)
  assert 'other positions' in same.withheld['longer']
  twice = {'base': judged['prefix'], 'again': judged['prefix']}
  assert not plan_comparison(VAL_LOSS, 'base', twice).withheld


# Writing. ---------------------------------------------------------------------

ENDING = CharVocabulary('abcdefghij', specials=(Special.EOS,))


def _loaded(changes: Mapping[str, str]) -> TrainedTrial:
  flags = {'d_model': '16', 'num_heads': '2', 'seq_len': '16'}
  flags |= {'num_layers': '1', 'init.std': '0.6', 'mask': 'causal,segments'}
  config = override(Config(), flags | dict(changes))
  params = init_state(config, config.dims(ENDING.size)).params
  return TrainedTrial('x', config, ENDING, params, 0, '')


@pytest.mark.slow
@pytest.mark.usefixtures('quick_compilation')
def test_writing_stops_at_an_end() -> None:
  trial = _loaded({})
  prompts = ['a', 'bcd', 'efghij', 'ccc']
  how = Generation(new_tokens=200, sampling=Sampling(temperature=3.0))
  # Without that end all go on, with the same letters up to it.
  endless = dataclasses.replace(
    trial, vocabulary=CharVocabulary('.abcdefghij', specials=())
  )
  found = []
  for seed in range(4):
    texts = generate_texts(trial, prompts, how, seed)
    longer = generate_texts(endless, prompts, how, seed)
    assert {len(text) for text in longer} == {200}
    assert texts == [text.partition('.')[0] for text in longer]
    found += map(len, texts)
  # By chance alone one in 1e7 has none in 200; many are of several windows.
  assert max(found) < 200
  assert sum(size > 32 for size in found) > 1
  assert sum(size < 8 for size in found) > 1


@pytest.mark.slow
@pytest.mark.usefixtures('quick_compilation')
def test_a_search_of_one_is_what_is_most_likely_up_to_an_end() -> None:
  trial = _loaded({'seed': '2', 'tie_embeddings': 'false'})
  greedy = Generation(new_tokens=12, sampling=Sampling(temperature=0.0))
  beam = Generation(new_tokens=12, beam=1)
  prompts = [a + b for a in 'abcdefghij' for b in 'ace']
  texts = generate_texts(trial, prompts, greedy)
  lengths = {len(text) for text in texts}
  assert 12 in lengths
  assert min(lengths) < 12
  # One that ends and one that does not; a search is a program for each.
  for wanted in (min(lengths), 12):
    n = [len(text) for text in texts].index(wanted)
    assert generate_texts(trial, [prompts[n]], beam) == [texts[n]]


@pytest.mark.parametrize('ended', [True, False])
def test_a_sample_says_how_much_was_written(
  tmp_path: Path, ended: bool
) -> None:
  """Not how much could have been."""
  end, letters_T = ENDING.id_of(Special.EOS), ENDING.encode('a' * 8)

  def forward(tokens_1T: np.ndarray) -> np.ndarray:
    logits_TV = np.full((tokens_1T.size, ENDING.size), -100.0)
    logits_TV[:, letters_T[0]] = 0.0
    logits_TV[5 if ended else tokens_1T.size :, end] = 100.0
    return logits_TV

  write_sample(tmp_path, Architecture(), ENDING, letters_T, forward)
  sample = json.loads((tmp_path / 'sample.json').read_text())
  many = '2 tokens, where the text ended by itself,' if ended else '100 tokens'
  assert sample['how'].startswith(f'{many} drawn at temperature 0.8, by the ')
  if ended:
    assert sample['text'] == 'aa'
