"""Generation: with a cache as without, together as alone, in windows."""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import pytest

from helpers.commands import run
from model.decoding.decode import Sampling
from session.compilations import Compilations
from spec.others import others_slow
from train.config.config import Config
from train.core.errors import DataError
from train.flags.schema import override
from train.inference import generate
from train.inference import window as writing
from train.inference.generate import generate_texts
from train.inference.generation import Generation
from train.inference.load import TrainedTrial
from train.programs.state import init_state
from train.text.vocabulary import CharVocabulary

pytestmark = pytest.mark.usefixtures('quick_compilation')

LETTERS = CharVocabulary('abcdefghij', specials=())
GREEDY = Generation(new_tokens=30, sampling=Sampling(temperature=0.0))
# One of each kind of cache: keys, grouped, faded, a state, none at all.
ARCHITECTURES = {
  'default': {},
  'rope, grouped': {'position': 'rope', 'num_kv_heads': '1'},
  'alibi, window': {
    'position': 'alibi',
    'mask': 'causal,window',
    'mask.window': '5',
  },
  'forget': {'output': 'forget'},
  'linear': {'normalizer': 'none', 'scale': 'none', 'norm': 'rmsnorm'},
  'elu': {'normalizer': 'elu', 'position': 'rope'},
  'prefix': {'mask': 'prefix', 'mask.prefix': '4'},
  'segments': {'mask': 'causal,segments'},
  'long prefix': {'mask': 'prefix', 'mask.prefix': '11'},
}


def loaded(changes: Mapping[str, str]) -> TrainedTrial:
  """Returns a trial with initial values far from zero."""
  flags = {
    'd_model': '16',
    'num_heads': '2',
    'seq_len': '16',
    'init.std': '0.6',
  }
  config = override(Config(), flags | dict(changes))
  params = init_state(config, config.dims(LETTERS.size)).params
  return TrainedTrial('x', config, LETTERS, params, 0, '')


@pytest.mark.slow
@pytest.mark.parametrize('name', ARCHITECTURES)
def test_with_a_cache_as_without(name: str) -> None:
  """Longer than one window, from prompts of several lengths."""
  trial = loaded(ARCHITECTURES[name])
  long = ['efghijabcdef', 'efghijabcdefabcdefgh']
  prompts = long if 'prefix' in name else ['a', 'bcd', *long]
  texts = generate_texts(trial, prompts, GREEDY)
  assert [len(text) for text in texts] == [30] * len(prompts)
  assert texts == generate_texts(trial, prompts, GREEDY, cached=False)
  for prompt, text in zip(prompts, texts, strict=True):
    assert generate_texts(trial, [prompt], GREEDY) == [text]


@pytest.mark.slow
def test_the_model_sees_the_end_of_a_prompt_that_is_too_long() -> None:
  trial = loaded({})
  once = dataclasses.replace(GREEDY, new_tokens=1)
  long = 'jihgfedcbaabcdefghij'
  for prompt in (long, long[-15:], long[-9:]):
    ids_T = trial.encode(prompt)[-15:]
    logits_V = np.asarray(trial.apply(ids_T[None]).logits_BTV[0, -1])
    (found,) = trial.encode(generate_texts(trial, [prompt], once)[0])
    assert found == logits_V.argmax()


@pytest.mark.slow
@pytest.mark.parametrize(
  'name', others_slow(ARCHITECTURES, ['default', 'linear', 'prefix'])
)
def test_a_beam_of_1_is_greedy(name: str) -> None:
  trial = loaded(ARCHITECTURES[name])
  prompts = ['efghijabcdef', 'cd' * 6 if 'prefix' in name else 'a']
  one = Generation(new_tokens=30, beam=1)
  assert generate_texts(trial, prompts, one) == generate_texts(
    trial, prompts, GREEDY
  )


@pytest.mark.slow
@pytest.mark.parametrize('name', ['default', 'linear', 'segments'])
def test_a_wide_beam_finds_the_most_likely_text(name: str) -> None:
  """Of all that there are: 10 letters, 3 places."""
  trial = loaded(ARCHITECTURES[name])
  once = Generation(new_tokens=3, beam=100)
  (found,) = generate_texts(trial, ['abc'], once)
  texts = list(map(''.join, itertools.product('abcdefghij', repeat=3)))
  ids_BT = np.array([trial.encode('abc' + text) for text in texts])
  logits_BTV = trial.apply(ids_BT).logits_BTV[:, 2:-1]
  logp_BTV = jax.nn.log_softmax(logits_BTV, -1)
  logp_B = np.take_along_axis(logp_BTV, ids_BT[:, 3:, None], 2).sum((1, 2))
  assert found == texts[int(logp_B.argmax())]
  if name == 'default':
    greedy = dataclasses.replace(GREEDY, new_tokens=3)
    assert [found] != generate_texts(trial, ['abc'], greedy)


@pytest.mark.slow
def test_greedy_is_the_most_likely_next_symbol() -> None:
  trial = loaded({})
  (text,) = generate_texts(trial, ['abc'], GREEDY)
  # A window holds 16: what comes before each of these is in it.
  ids_T = trial.encode(('abc' + text)[:16])
  logits_TV = np.asarray(trial.apply(ids_T[None]).logits_BTV[0])
  np.testing.assert_array_equal(logits_TV[2:-1].argmax(-1), ids_T[3:])


@pytest.mark.slow
def test_draws_depend_on_the_seed_and_not_on_the_other_prompts() -> None:
  trial = loaded({})
  sampled = Generation(new_tokens=20)
  first, second = generate_texts(trial, ['abc', 'abc'], sampled, seed=1)
  assert first != second
  assert generate_texts(trial, ['abc', 'jjjjj'], sampled, seed=1)[0] == first
  assert generate_texts(trial, ['abc'], sampled, seed=1) == [first]
  assert generate_texts(trial, ['abc'], sampled, seed=2) != [first]


@pytest.mark.slow
def test_no_more_is_computed_than_is_asked_for() -> None:
  """A few tokens are the first of many, and take as many steps."""
  trial = loaded({'seq_len': '64'})
  long = Generation(new_tokens=90, sampling=Sampling(temperature=0.0))
  texts = generate_texts(trial, ['abc', 'jjjjjj'], long)
  for count in (1, 5, 60, 61, 62, 89):
    short = dataclasses.replace(long, new_tokens=count)
    found = generate_texts(trial, ['abc', 'jjjjjj'], short)
    assert found == [text[:count] for text in texts]
  rows = [[1, 2, 3]]
  written = writing.sample_window(
    generate._writer(trial, rows, True),
    trial.params,
    long.sampling,
    rows,
    jax.random.split(jax.random.key(0), 1),
    stop=8,
  )
  assert written[0][5:] == [0] * (64 - 8) != written[0][:5]


@pytest.mark.slow
def test_one_compilation_serves_every_prompt(compiled: Compilations) -> None:
  trial = loaded({'d_model': '24'})
  writing._window.clear_cache()
  for prompt in ('a', 'bcd', 'efghijab', 'efghijabc', 'efghijabcdefabcdef'):
    generate_texts(trial, [prompt], GREEDY)
  names = [name for name in compiled.names if 'window' in name]
  # One for prompts of up to half a window, one for those that are longer.
  assert len(names) == 2, compiled.names


def test_what_cannot_be_continued_is_said() -> None:
  trial = loaded({})
  with pytest.raises(DataError, match='must hold a token'):
    generate_texts(trial, [''], GREEDY)
  with pytest.raises(DataError, match=r'--prompt=xyz: '):
    generate_texts(trial, ['xyz'], GREEDY)
  with pytest.raises(DataError, match=r'abc: has 3 tokens.*give at least 4'):
    generate_texts(loaded(ARCHITECTURES['prefix']), ['abcd', 'abc'], GREEDY)
  # It learned from what came before; its family reads from both sides.
  with pytest.raises(DataError, match='--model=encoder writes no text'):
    generate_texts(
      loaded({'model': 'encoder', 'mask': 'causal'}), ['a'], GREEDY
    )
  config = dataclasses.replace(trial.config, seq_len=1)
  with pytest.raises(DataError, match='sees one token'):
    generate_texts(dataclasses.replace(trial, config=config), ['a'], GREEDY)


@pytest.mark.slow
def test_the_command_line_writes(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  (tmp_path / 'text.txt').write_text('the cat sat on the mat. ' * 60)
  tiny = ('--d_model=16', '--num_heads=2', '--seq_len=16', '--steps=2')
  workdir = tmp_path / 'run'
  given = (f'--task.path={tmp_path}/text.txt', f'--workdir={workdir}')
  assert run(*tiny, *given, '--seeds=1', '--only=base') == 0
  capsys.readouterr()
  target = f'--generate={workdir}:base'
  again = []
  for seed in ('0', '0', '1'):
    words = (target, '--prompt=the c', '--prompt=mat', '--new_tokens=20')
    assert run(*words, f'--seed={seed}') == 0
    again.append(capsys.readouterr().out)
  assert again[0] == again[1] != again[2]
  first, second = again[0].split('\n' + '-' * 40 + '\n')
  assert first.startswith('the c')
  assert len(first) == 5 + 20
  assert second.startswith('mat')
  for wrong, rule in (
    (
      ('--temperature=1',),
      '--temperature=1: has no effect without --generate',
    ),
    (('--prompt=a',), 'has no effect without --generate'),
    ((target, '--steps=3'), 'leaves --steps without effect'),
    ((target, '--prompt=xyz'), '--prompt=xyz: '),
    ((f'--generate={workdir}',), 'must be WORKDIR:TRIAL'),
    ((target, '--top_p=2'), '--top_p=2'),
  ):
    assert run(*wrong) == 2
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert rule in err
