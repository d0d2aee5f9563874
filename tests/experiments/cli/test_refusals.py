"""Command lines that are refused, and what was meant instead.

In this process, and with --plan or without what runs: nothing is trained.
"""

import itertools
import math
import os
import pathlib
import subprocess
import sys
import time
import typing
from collections.abc import Iterator
from typing import Any

import pytest

import launch
from experiments.command import MANY, Command
from experiments.experiment import BASE
from experiments.planning import memory
from experiments.planning.plan import program_key
from experiments.table.table import make_table
from helpers.source import ROOT
from model.core.field import (
  FieldError,
  Record,
  field_types,
  is_section,
  meta_of,
  split,
  variants,
)
from model.core.field import variant_list as many
from train.config.config import Config
from train.core.errors import DataError
from train.flags.schema import flag_specs, override
from train.flags.suggest import (
  FLAGS,
  UNITS,
  VALUES,
  suggest_flag,
  suggest_value,
)
from train.inference.generation import Generation
from train.tasks.base import Data, Task
from train.text.tokenizer import MAX_WORD, BpeTokenizer, WordPieceTokenizer
from train.text.vocabulary import CharVocabulary
from train.trial import Options, Trial

pytestmark = pytest.mark.usefixtures('empty_folder')

RECORDS = (Command, Options, Config, Generation)
FLAG_NAMES = [
  *itertools.chain(*map(flag_specs, RECORDS)),
  *MANY,
  'prompt',
]


# Numbers. ---------------------------------------------------------------------


def records(cls: type[Record]) -> Iterator[type[Record]]:
  """Yields a record class and all those of its fields."""
  yield cls
  for hint in field_types(cls).values():
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
    for name, hint in field_types(cls).items()
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
    memory, 'rooms', lambda workers: [memory.MemoryLimit(2**20, 2**20, 'RAM')]
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
    for leaf in flag_specs(Config).values()
    for tag in [
      *(variants(leaf.hint) | many(leaf.hint)),
      *map(str, typing.get_args(leaf.hint)),
    ]
  }
  assert set(VALUES) <= tags | {'none'}
  both = ['synthesizer_dense', 'synthesizer_random']
  assert suggest_value('random_synthesizer', both).endswith(f'{both[1]}?')
  assert suggest_value('rotary', ['none', 'rope']) == '; did you mean rope?'


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
  assert launch.missing_packages(tmp_path) == ''  # this one has what it needs


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


@pytest.mark.parametrize(
  'tokenizer', [BpeTokenizer(), WordPieceTokenizer()], ids=['bpe', 'wp']
)
@pytest.mark.parametrize('letter', ['x', ' '])
def test_a_word_that_takes_minutes_is_refused_at_once(
  tokenizer: BpeTokenizer | WordPieceTokenizer, letter: str
) -> None:
  if isinstance(tokenizer, WordPieceTokenizer) and letter == ' ':
    pytest.skip('cuts spaces away')
  start = time.process_time()
  with pytest.raises(DataError, match='240,000 letters'):
    tokenizer.train(lambda: ['to be ' * 9, letter * 240_000])
  assert time.process_time() - start < 2
  long = ' '.join(['a' * (MAX_WORD // 8)] * 9)
  assert tokenizer.train(lambda: [long]).size


def test_what_only_the_host_reads_is_not_compiled() -> None:
  def key(text: str) -> object:
    flags = dict(word.split('=') for word in text.split())
    config = override(Config(), flags)
    data = Data({}, CharVocabulary('ab'), '', '')
    return program_key(Trial('', config, pathlib.Path(), data))

  assert key('eval_every=7') == key('eval_every=9 init_from=w:base')
  assert key('steps=7') == key('steps=9')
  assert key('seq_len=7') != key('seq_len=9')
  # The mean of the last evaluations asks when they are.
  tail = key('average=tail eval_every=7')
  assert tail != key('average=tail eval_every=9')
  static, _ = split(override(Config(), {'eval_every': '7'}).device_config)
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
  assert make_table([trial], [BASE], BASE).figures == []
  trial['shown'] = ('val_accuracy',)
  table = make_table([trial], [BASE], BASE)
  assert table.rows[0].figures == {'val_accuracy': 0.5}
  shown = {
    tag: cls.shown
    for tag, cls in variants(Task).items()
    if issubclass(cls, Task)
  }
  assert shown['classification'] == shown['most_frequent'] == ('val_accuracy',)
  assert shown['text'] == ()
