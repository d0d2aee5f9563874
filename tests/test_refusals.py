"""Command lines that are refused, and those that make way for what is typed.

In this process, and with --plan or without what runs: nothing is trained.
"""

import itertools
import json
import math
import os
import pathlib
import subprocess
import sys
import time
import typing
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest

import launch
from commands import run
from experiments import cli, memory, trained
from experiments.base import make_base
from experiments.command import MANY, Command
from experiments.experiment import BASE, discover
from experiments.halving import rungs
from experiments.plan import program_key
from experiments.table import summarise
from model.field import (
  FieldError,
  Record,
  hints,
  is_section,
  meta_of,
  split,
  variants,
)
from model.field import variant_list as many
from source import ROOT
from train.config import Config
from train.generate import Generation
from train.load import Loaded, load
from train.optimizer import tree
from train.schema import leaves, override
from train.suggest import FLAGS, UNITS, VALUES, suggest, suggest_flag
from train.task import Data, DataError, Task
from train.tokenizer import LONGEST, Bpe, WordPiece
from train.trial import Options, Trial
from train.vocabulary import Characters

RECORDS = (Command, Options, Config, Generation)
FLAG_NAMES = [
  *itertools.chain(*map(leaves, RECORDS)),
  *MANY,
  'prompt',
]


@pytest.fixture(autouse=True)
def _here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
  """An empty current directory, in which nothing runs."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(cli.engine, 'execute', lambda *_: 0)


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Any:
  """Returns a function that gives the one line of a refusal."""

  def line(*argv: str) -> str:
    code, (out, err) = run(*argv), capsys.readouterr()
    assert code == 2, (out, err)
    assert err.startswith('launch.py: ')
    assert len(err.splitlines()) == 1, err
    assert not list(pathlib.Path().iterdir())
    return err

  return line


@pytest.fixture
def accepted(capsys: pytest.CaptureFixture[str]) -> Any:
  """Returns a function that gives what a plan says."""

  def said(*argv: str) -> str:
    code, (out, err) = run(*argv, '--plan'), capsys.readouterr()
    assert code == 0, err
    return out

  return said


# Numbers. ---------------------------------------------------------------------


def records(cls: type[Record]) -> Iterator[type[Record]]:
  """Yields a record class and all those of its fields."""
  yield cls
  for hint in hints(cls).values():
    below = (
      [hint] if is_section(hint) else (variants(hint) | many(hint)).values()
    )
    for other in below:
      yield from records(other)


def numbers() -> list[Any]:
  """Returns every number of every record: its class, its name, its type."""
  found = {
    (cls, name, kind): None
    for record in RECORDS
    for cls in records(record)
    for name, hint in hints(cls).items()
    for kind in (int, float)
    if kind in (hint, *typing.get_args(hint))
  }
  return [pytest.param(*key, id=f'{key[0].__name__}.{key[1]}') for key in found]


@pytest.mark.parametrize(('cls', 'name', 'kind'), numbers())
def test_every_number_has_bounds_and_says_why(
  cls: type[Record], name: str, kind: type
) -> None:
  meta = meta_of(cls, name)
  assert meta.min is not None
  assert meta.max is not None
  assert meta.why
  above = (
    int(meta.max) + 1 if kind is int else math.nextafter(meta.max, math.inf)
  )
  with pytest.raises(FieldError) as caught:
    cls(**{name: above})
  assert caught.value.path == name
  assert f'at most {meta.max}: {meta.why}' in str(caught.value)


HUGE = str(10**30)
TOO_MUCH = {
  (f'--search_seed={2**64}', '--trials=2', '--sweep=clip=lin(0,1)'): '64 bits',
  (f'--d_model={HUGE}', '--match=params'): 'no memory',
  ('--task.tokenizer=wordpiece', f'--task.tokenizer.vocab_size={2**31 - 1}'): (
    'reserves memory'
  ),
  (f'--ablate=d_model={HUGE}',): 'no memory',
  (f'--sweep=eval_every=1 {HUGE}',): 'int32',
  # Products of numbers that are small enough on their own.
  ('--d_model=1048576', '--num_layers=16384', '--plan'): 'fit any machine',
  tuple(
    f'--sweep={name}={" ".join(map(str, range(1, 60)))}'
    for name in ('steps', 'eval_every', 'warmup_steps')
  ): 'makes 205,379 rows',
  tuple(
    f'--tune={name}={" ".join(map(str, range(1, 60)))}'
    for name in ('steps', 'eval_every', 'warmup_steps')
  ): 'makes 205,379 points',
  ('--seeds=10000', f'--sweep=clip={" ".join(map(str, range(1, 20)))}'): (
    'trials of all rows'
  ),
}


@pytest.mark.parametrize('argv', TOO_MUCH, ids=lambda a: ' '.join(a)[:40])
def test_too_much_is_refused(argv: tuple[str, ...], refused: Any) -> None:
  assert TOO_MUCH[argv] in refused(*argv)


def test_what_the_memory_does_not_hold_may_be_planned_and_not_run(
  monkeypatch: pytest.MonkeyPatch, refused: Any, accepted: Any
) -> None:
  monkeypatch.setattr(
    memory, 'rooms', lambda workers: [memory.Room(2**20, 2**20, 'RAM')]
  )
  argv = ('--experiment=train', '--d_model=128')
  accepted(*argv)
  line = refused(*argv)
  assert "row 'base' needs" in line
  assert '--d_model' in line


# What was meant. --------------------------------------------------------------

MEANT = {
  'lr': 'learning_rate',
  'n_embd': 'd_model',
  'n_layer': 'num_layers',
  'n_head': 'num_heads',
  'block_size': 'seq_len',
  'batch': 'batch_size',
  'bs': 'batch_size',
  'ctx': 'seq_len',
  'max_iters': 'steps',
  'hidden_size': 'd_model',
  'num_hidden_layers': 'num_layers',
  'num_attention_heads': 'num_heads',
  'intermediate_size': 'feedforward.width',
  'wd': 'weight_decay',
  'weight_decay_rate': 'weight_decay',
  'context_length': 'seq_len',
  'max_seq_len': 'seq_len',
  'model_dim': 'd_model',
  'emb_dim': 'd_model',
  'mlp_dim': 'feedforward.width',
  'vocab_size': 'task.tokenizer.vocab_size',
  'warmup_iters': 'warmup_steps',
  'grad_clip': 'clip',
  'beta1': 'optimizer.b1',
  'attention_dropout': 'dropout_attention',
  # By likeness.
  'Learning-Rate': 'learning_rate',
  'lerning_rate': 'learning_rate',
  'position.thet': 'position.theta',
  'warmup': 'warmup_steps',
  'kv_heads': 'num_kv_heads',
  'sweeep': 'sweep',
}


@pytest.mark.parametrize('word', MEANT)
def test_a_flag_that_was_meant_is_suggested(word: str) -> None:
  assert suggest_flag(word, FLAG_NAMES) == f'; did you mean {MEANT[word]}?'


def test_where_ours_counts_another_thing_this_is_said() -> None:
  said = suggest_flag('epochs', FLAG_NAMES)
  assert said == '; did you mean steps (updates, not epochs)?'
  assert set(' '.join(UNITS.values()).split()) <= set(
    ' '.join(FLAGS.values()).split()
  )


@pytest.mark.parametrize(
  'word',
  [
    'hatch',
    'position_dropout',
    'rotary_dim',
    'moe',
    'foo',
    'model_parallel',
    'head_mask',
    'size',
    'num_steps_per_eval',
    'mode_dropout',
    'catch',
  ],
)
def test_nothing_is_suggested_that_is_another_thing(word: str) -> None:
  assert suggest_flag(word, FLAG_NAMES) == ''


def test_foreign_names_are_not_ours_and_mean_what_there_is() -> None:
  foreign = ' '.join(FLAGS.values()).split()
  assert set(' '.join(FLAGS).split()) <= set(FLAG_NAMES)
  assert not set(foreign) & set(FLAG_NAMES)
  tags = {
    tag
    for leaf in leaves(Config).values()
    for tag in [
      *(variants(leaf.hint) | many(leaf.hint)),
      *map(str, typing.get_args(leaf.hint)),
    ]
  }
  assert set(VALUES) <= tags | {'none'}
  both = ['synthesizer_dense', 'synthesizer_random']
  assert suggest('random_synthesizer', both).endswith(f'{both[1]}?')
  assert suggest('rotary', ['none', 'rope']) == '; did you mean rope?'


WRITTEN: dict[tuple[str, ...], str] = {
  ('--sweep=position=rope,alibi',): 'by spaces: --sweep="position=rope alibi"',
  ('--sweep=clip=1,2 3',): '--sweep="clip=1 2"',
  ('--zip=position=rope,none; norm=none',): 'separated by spaces',
  ('--tune=clip=1,2',): '--sweep="clip=1 2"',
  ('--ablate=position=rope,alibi',): '--sweep="position=rope alibi"',
  ('--position=rope,alibi',): '--sweep="position=rope alibi"',
  ('--clip=1,2',): 'takes one value',
  ('--ablate=rope',): 'did you mean position=rope?',
  ('--ablate=norm=rmsnorm sgd',): 'did you mean optimizer=sgd?',
  ('--ablate=position',): 'position may be none|sinusoidal|learned|rope',
  ('--position=rotary',): 'did you mean rope?',
  ('--dropout=0.1',): 'dropout_residual, dropout_attention or dropout_embed',
}


@pytest.mark.parametrize('argv', WRITTEN, ids=' '.join)
def test_says_how_it_is_written(argv: tuple[str, ...], refused: Any) -> None:
  assert WRITTEN[argv] in refused(*argv)


def test_commas_that_belong_to_a_value_are_left_alone(accepted: Any) -> None:
  out = accepted('--sweep=mask=causal causal,exclude_self', '--seeds=1')
  assert 'mask=causal,exclude_self' in out


# What an experiment sets. -----------------------------------------------------

LADDER = discover()['ladder']
GIVES_WAY = {
  ('--model=classifier', '--task=most_frequent'): (
    'ladder sets --tie_embeddings=false, which has no effect with '
    '--model=classifier'
  ),
  ('--experiment=translation', '--task=text', '--only=base'): (
    'translation sets --model=encoder_decoder, which cannot learn --task=text'
  ),
}


@pytest.mark.parametrize('argv', GIVES_WAY, ids=' '.join)
def test_what_an_experiment_sets_gives_way_and_this_is_said(
  argv: tuple[str, ...], accepted: Any
) -> None:
  out = accepted(*argv)
  assert GIVES_WAY[argv] in out
  assert 'left out, ' in out


def test_rows_that_nobody_asked_for_are_left_out(
  accepted: Any, refused: Any
) -> None:
  argv = ('--experiment=translation', '--task=text')
  out = accepted(*argv)
  assert "row 'no cross-attention': --model.cross_attention=false" in out
  assert '(2 rows' in out
  only = refused(*argv, '--only=no cross-attention')
  assert '--model.cross_attention=false: has no effect' in only
  asked = refused(*argv, '--ablate=model.cross_attention=false')
  assert "row 'model.cross_attention=false'" in asked


KEPT = {
  ('--microbatches=16',): '--experiment=ladder sets --batch_size=8',
  ('--experiment=translation', '--model=decoder'): (
    '--experiment=translation sets --task=translation'
  ),
  ('--experiment=nanogpt', '--num_heads=3'): (
    '--experiment=nanogpt sets --d_model=128'
  ),
  ('--smoke', '--num_heads=3'): '--smoke sets --d_model=16',
}


@pytest.mark.parametrize('argv', KEPT, ids=' '.join)
def test_what_is_typed_never_gives_way(
  argv: tuple[str, ...], refused: Any
) -> None:
  assert KEPT[argv] in refused(*argv)


def test_who_types_a_preset_means_it(refused: Any) -> None:
  argv = ('--model=classifier', '--task=most_frequent')
  line = refused(*argv, '--tie_embeddings=false')
  assert '--tie_embeddings=false: has no effect with --model=classifier' in line


def test_a_base_is_what_is_typed_over_what_the_experiment_sets() -> None:
  base, notes = make_base(LADDER, {'steps': '7'}, smoke=False)
  assert notes == ()
  assert base == override(LADDER.base, {'steps': '7'})
  tiny, _ = make_base(LADDER, {'steps': '7'}, smoke=True)
  assert tiny == override(LADDER.base, {**LADDER.smoke, 'steps': '7'})


ADAPTS = (
  ('--mask=causal,window',),
  ('--ablate=mask=causal,window',),
  ('--mask=causal,window', '--mask.window=40'),
  ('--halving=3', f'--sweep=clip={" ".join(map(str, range(1, 11)))}'),
  ('--experiment=multi30k', '--task=text', '--model=decoder'),
)


@pytest.mark.parametrize('argv', ADAPTS, ids=lambda a: ' '.join(a)[:50])
def test_smoke_adapts(argv: tuple[str, ...], accepted: Any) -> None:
  accepted('--smoke', *argv)


def test_smoke_fits_every_choice() -> None:
  """Whatever of the architecture is chosen, the tiny sizes do not refuse it."""
  for path, leaf in leaves(Config).items():
    choices = variants(leaf.hint) | many(leaf.hint)
    for tag in choices if '.' not in path else ():
      typed = {path: f'causal,{tag}' if path == 'mask' else tag}
      try:
        make_base(LADDER, typed, smoke=False)
      except FieldError:
        continue  # refused anyway
      make_base(LADDER, typed, smoke=True)


@pytest.mark.parametrize(
  ('steps', 'every', 'rows', 'eta'),
  [(4, 1, 9, 3), (4, 2, 9, 3), (100, 40, 9, 3), (9, 5, 4, 2), (1, 1, 3, 3)],
)
def test_halving_gives_advice_that_helps(
  steps: int, every: int, rows: int, eta: int
) -> None:
  with pytest.raises(FieldError) as caught:
    rungs(steps, every, rows, eta)
  words = caught.value.rule.replace(',', '').split()
  value = int(words[words.index('to') + 1])
  if '--steps' in caught.value.rule.split('raise')[-1] and (
    'raise' in caught.value.rule
  ):
    steps = value
  else:
    assert 0 < value < every
    every = value
  assert rungs(steps, every, rows, eta)


# Help. ------------------------------------------------------------------------

HELP = {
  '--help=position': ('--position=learned', 'rope: Rotary', '--position.theta'),
  '--help=position.theta': ('--position.theta=10000.0', 'Base of the wave'),
  '--help=rope': ('--position=rope', 'Su et al. 2021', '--position.theta'),
  '--help=position=rope': ('Su et al. 2021',),
  '-h=optimization': ('--learning_rate=0.003', 'ladder sets 0.003'),
  '--help=none': ('--position=none', '--norm=none'),
  '--help=sweep': ('--sweep=...',),
  '--version': ('Ablax 0.', 'jax ', 'Python 3.'),
}


@pytest.mark.parametrize('word', HELP)
def test_help_of_a_topic(word: str, capsys: pytest.CaptureFixture[str]) -> None:
  assert run(word) == 0
  out = capsys.readouterr().out
  assert all(part in out for part in HELP[word]), out
  lines = out.splitlines()
  assert len(lines) < 100
  assert [line for line in lines if line != line.rstrip()] == []
  assert max(map(len, lines)) <= 80


def test_help_shows_the_values_of_the_experiment(
  capsys: pytest.CaptureFixture[str],
) -> None:
  assert run('--help=trial', '--experiment=nanogpt') == 0
  out = capsys.readouterr().out
  assert '--batch_size=12\n' in out
  assert '(nanogpt sets 12; --experiment=train has 16)' in out


def test_help_of_nothing(refused: Any) -> None:
  assert 'did you mean position?' in refused('--help=positon')


# Which Python. ----------------------------------------------------------------


def test_python_without_packages_says_which_one_to_use(
  tmp_path: pathlib.Path,
) -> None:
  (tmp_path / 'launch.py').write_text((ROOT / 'launch.py').read_text())

  def said() -> str:
    done = subprocess.run(
      [sys.executable, '-S', 'launch.py', '--plan'],
      capture_output=True,
      text=True,
      check=False,
      env={k: v for k, v in os.environ.items() if k != 'PYTHONPATH'},
    )
    assert (done.returncode, done.stdout) == (2, '')
    assert len(done.stderr.splitlines()) == 1
    return done.stderr

  assert 'python3 -m venv .venv && .venv/bin/pip install' in said()
  (tmp_path / '.venv' / 'bin').mkdir(parents=True)
  (tmp_path / '.venv' / 'bin' / 'python').touch()
  assert '.venv/bin/activate' in said()
  assert launch.refusal(tmp_path) == ''  # this one has what it needs


# Trials that are there. -------------------------------------------------------


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


def loaded(flags: dict[str, str]) -> Loaded:
  """Returns a trial with parameters that are zeros."""
  config = override(
    Config(), {'num_layers': '1', 'd_model': '8', 'num_heads': '1'} | flags
  )
  vocabulary = Characters('ab\n')
  arch = config.architecture
  table = arch.parameter_table(config.sizes(vocabulary))
  zeros = {
    path: np.zeros(what.shape if depth is None else (depth, *what.shape))
    for path, what in table.items()
    for depth in [arch.depth(path)]
  }
  return Loaded('id', config, vocabulary, tree(zeros), 0, '')


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


# Data and programs. -----------------------------------------------------------


def test_a_key_that_is_there_twice_is_refused(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'twice.jsonl'
  path.write_text('{"text": "a"}\n{"text": "b", "text": "c"}\n')
  task = override(
    Config(), {'task.data': 'jsonl', 'task.data.train': str(path)}
  ).task
  assert isinstance(task, Task)
  with pytest.raises(DataError, match="line 2 has the key 'text' twice"):
    task.load()


@pytest.mark.parametrize('tokenizer', [Bpe(), WordPiece()], ids=['bpe', 'wp'])
@pytest.mark.parametrize('letter', ['x', ' '])
def test_a_word_that_takes_minutes_is_refused_at_once(
  tokenizer: Bpe | WordPiece, letter: str
) -> None:
  if isinstance(tokenizer, WordPiece) and letter == ' ':
    pytest.skip('cuts spaces away')
  start = time.process_time()
  with pytest.raises(DataError, match='240,000 letters'):
    tokenizer.train(lambda: ['to be ' * 9, letter * 240_000])
  assert time.process_time() - start < 2
  long = ' '.join(['a' * (LONGEST // 8)] * 9)
  assert tokenizer.train(lambda: [long]).size


def test_what_only_the_host_reads_is_not_compiled() -> None:
  def key(text: str) -> object:
    flags = dict(word.split('=') for word in text.split())
    config = override(Config(), flags)
    data = Data({}, Characters('ab'), '', '')
    return program_key(Trial('', config, pathlib.Path(), data))

  assert key('eval_every=7') == key('eval_every=9 init_from=w:base')
  assert key('steps=7') == key('steps=9')
  assert key('seq_len=7') != key('seq_len=9')
  # The mean of the last evaluations asks when they are.
  tail = key('average=tail eval_every=7')
  assert tail != key('average=tail eval_every=9')
  static, _ = split(override(Config(), {'eval_every': '7'}).compiled)
  assert isinstance(static, Config)
  assert static.eval_every == 1


def test_figures_that_a_task_shows_stand_in_its_table() -> None:
  trial: dict[str, Any] = {
    'row': BASE,
    'seed': 0,
    'status': 'ok',
    'metrics': {'val_loss': 1.0, 'val_accuracy': 0.5, 'train_loss': 2.0},
    'clock': {'seconds': 1.0},
  }
  assert summarise([trial], [BASE], BASE).figures == []
  trial['shown'] = ('val_accuracy',)
  table = summarise([trial], [BASE], BASE)
  assert table.rows[0].figures == {'val_accuracy': 0.5}
  shown = {
    tag: cls.shown
    for tag, cls in variants(Task).items()
    if issubclass(cls, Task)
  }
  assert shown['classification'] == shown['most_frequent'] == ('val_accuracy',)
  assert shown['text'] == ()
