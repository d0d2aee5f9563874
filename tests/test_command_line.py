"""The command line: what is wrong is said in one line, what is right runs."""

import contextlib
import dataclasses
import json
import math
import os
import random
import re
import shutil
import subprocess
import sys
import time
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from absl import flags

from commands import captions, run, trials
from experiments import cli
from experiments.command import MANY, Command
from experiments.experiment import BASE, discover
from experiments.plan import Plan
from model.architecture import Architecture
from model.field import (
  FieldError,
  Meta,
  Record,
  bind,
  hints,
  is_section,
  meta_of,
  split,
  variant_list,
  variants,
)
from source import ROOT
from train.config import Config
from train.schema import leaves, override, to_flags
from train.task import Task
from train.tasks.translation import Translation
from train.trial import Options

pytestmark = pytest.mark.usefixtures('quick_compilation')

# The smallest runs that still evaluate twice.
TINY = (
  '--num_layers=1',
  '--d_model=16',
  '--num_heads=2',
  '--seq_len=16',
  '--batch_size=2',
  '--steps=4',
  '--eval_every=2',
  '--warmup_steps=1',
  '--learning_rate=1e-3',
)


def shell(*argv: str) -> subprocess.CompletedProcess[str]:
  """Returns what the real `python launch.py ARGV` did."""
  return subprocess.run(
    [sys.executable, str(ROOT / 'launch.py'), *argv],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )


def numbers(workdir: str | Path) -> dict[tuple[str, int], tuple[Any, ...]]:
  """Returns what a replay must repeat, by row and seed."""
  return {
    (r['row'], r['seed']): (r['trial'], r['digest'], r['metrics'])
    for r in trials(workdir)
  }


def write_inputs(folder: Path) -> None:
  """Makes a folder with texts, good and bad."""
  folder.mkdir()
  draw = random.Random(0)
  words = ['to', 'be', 'or', 'not', 'that', 'is', 'the', 'question.\n']
  text = ' '.join(draw.choices(words, k=800))
  (folder / 'good.txt').write_text(text)
  (folder / 'other.txt').write_text(text[::-1])
  (folder / 'short.txt').write_text('too short')
  (folder / 'empty.txt').write_text('')
  (folder / 'binary.txt').write_bytes(b'text\0text' * 100)
  (folder / 'latin.txt').write_bytes('déjà vu '.encode('latin-1') * 100)
  (folder / 'hollow').mkdir()


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
  """A folder with texts, good and bad."""
  folder = tmp_path / 'inputs'
  write_inputs(folder)
  return folder


@pytest.fixture
def here(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
  """An empty current directory beside the inputs."""
  assert inputs.is_dir()
  folder = tmp_path / 'here'
  folder.mkdir()
  monkeypatch.chdir(folder)
  return folder


def tree(folder: Path) -> dict[str, bytes | None]:
  """Returns every path below a folder, with the content of files."""
  return {
    str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
    for p in sorted(folder.rglob('*'))
  }


def assert_refused(code: int, out: str, err: str, *parts: str) -> None:
  """Fails unless a command was refused in one line that says `parts`."""
  assert code == 2, (out, err)
  assert err.startswith('launch.py: '), err
  assert err.endswith('\n')
  assert len(err.splitlines()) == 1, err
  assert 'Traceback' not in out + err
  for part in parts:
    assert part in err


# What is wrong. ---------------------------------------------------------------

# The arguments, and what the one line must say.
MISSPELT = {
  ('--learning_rat=1',): ('--learning_rat', 'did you mean learning_rate?'),
  ('--position.thet=5',): ('--position.thet', 'did you mean position.theta?'),
  ('--worker', '2'): ('--worker', 'did you mean workers?'),
  ('--sweeep=steps=1 2',): ('--sweeep', 'did you mean sweep?'),
  ('--position=rop',): ('--position=rop', 'rope', 'did you mean rope?'),
  ('--log_to=csv,wandbe',): ('--log_to=wandbe', 'did you mean wandb?'),
  ('--mask=causal,ful',): ('--mask', 'did you mean full?'),
  ('--decay=matrix',): ('--decay=matrix', 'did you mean matrices?'),
  ('--task.corpus=shakespear',): ('did you mean shakespeare?',),
  ('--sweep=learning_rat=1 2',): ('--sweep', 'did you mean learning_rate?'),
  ('--ablate=positon=rope',): ('--ablate', 'did you mean position?'),
  ('--ablate=position=rop',): ('did you mean rope?', "row 'position=rop'"),
  ('--experiment=lader',): ('--experiment', 'did you mean ladder?'),
  ('--only=bas',): ('--only=bas', 'did you mean base?'),
  ('--metric=val_los',): ('--metric=val_los', 'did you mean val_loss?'),
  ('--ablate=position=rope', '--only=position=rop'): (
    'did you mean position=rope?',
  ),
}
MISTYPED = {
  ('--num_layers=two',): ('--num_layers=two', 'integer'),
  ('--num_layers=2.5',): ('--num_layers=2.5', 'integer'),
  ('--num_layers=',): ('--num_layers=', 'integer'),
  ('--num_layers=none',): ('--num_layers=none', 'integer'),
  ('--learning_rate=fast',): ('--learning_rate=fast', 'number'),
  ('--position=rope', '--position.theta=big'): ('--position.theta=big',),
  ('--tie_embeddings=maybe',): ('--tie_embeddings=maybe', 'true|false'),
  ('--smoke=maybe',): ('--smoke=maybe', 'true|false'),
  ('--seeds=many',): ('--seeds=many', 'integer'),
  ('--checkpoint_seconds=soon',): ('--checkpoint_seconds=soon', 'number'),
  ('--sweep=steps=5 ten',): ('--steps=ten', 'integer', "row 'steps=ten'"),
  ('--help=perhaps',): ('help', 'perhaps'),
  ('--steps',): ('steps',),
  ('--flagfile=absent.txt',): ('absent.txt',),
}
OUT_OF_BOUNDS = {
  ('--num_layers=0',): ('--num_layers=0', 'at least 1'),
  ('--steps=0',): ('--steps=0', 'at least 1'),
  ('--steps=99999999999',): ('--steps=99999999999', 'at most'),
  ('--dropout_residual=1.5',): ('--dropout_residual=1.5', 'at most'),
  ('--label_smoothing=2',): ('--label_smoothing', 'at most 1'),
  ('--learning_rate=-1e-3',): ('--learning_rate=-0.001', 'at least 0'),
  ('--learning_rate=nan',): ('--learning_rate=nan', 'finite'),
  ('--learning_rate=inf',): ('--learning_rate=inf', 'finite'),
  ('--weight_decay=1e999',): ('--weight_decay=inf', 'finite'),
  ('--sweep=learning_rate=1e-3 nan',): ('finite', "row 'learning_rate=nan'"),
  ('--seeds=0',): ('--seeds=0', 'at least 1'),
  ('--seed=-1',): ('--seed=-1', 'at least 0'),
  ('--seed=2147483646', '--seeds=5'): ('--seed', '2147483647'),
  ('--devices=0',): ('--devices=0', 'at least 1'),
  ('--keep_checkpoints=0',): ('--keep_checkpoints=0', 'at least 1'),
  ('--checkpoint_seconds=-1',): ('--checkpoint_seconds', 'at least 0'),
}
IMPOSSIBLE = {
  ('--d_model=64', '--num_heads=5'): (
    '--num_heads=5',
    '--d_model=64',
    'try --num_heads=4',
  ),
  ('--batch_size=16', '--microbatches=3'): (
    '--microbatches=3',
    '--batch_size=16',
  ),
  ('--position=sinusoidal', '--d_model=9', '--num_heads=3'): (
    '--d_model=9',
    'even',
  ),
  ('--position.theta=5',): (
    '--position.theta=5',
    '--position=learned',
    'belongs to --position=',
    'rope',
  ),
  ('--ablate=position.theta=5',): ('--position.theta', 'has no effect', 'row'),
  ('--optimizer.momentum=0.5',): ('--optimizer=adamw', '--optimizer=sgd'),
  ('--mask=causal,full',): ('--mask=causal,full', 'no effect', 'drop one'),
  ('--mask=causal,causal',): ('--mask=causal,causal', 'once'),
  ('--mask=full',): ('--mask=full', 'causal'),
  ('--log_to=csv,csv',): ('--log_to=csv,csv', 'once'),
  ('--log_to=none,csv',): ('--log_to=none,csv', 'no effect', 'drop it'),
  ('--log_to.project=x',): ('--log_to.project=x', '--log_to=wandb'),
  ('--task.path=../inputs/good.txt', '--task.corpus=pydoc'): (
    'no effect beside --task.path',
  ),
  ('--projections=raw', '--head_dim=3'): ('--head_dim=3', 'raw'),
  ('--freeze=^nothing/',): ('--freeze=^nothing/', 'embedding/token'),
  ('--freeze=(',): ('--freeze=(', 'regular expression'),
  ('--ablate=position',): ('--ablate=position', 'FIELD=VALUE'),
  ('--ablate=',): ('--ablate=', 'FIELD=VALUE'),
  ('--ablate=position=rope sgd',): ('--ablate', 'FIELD=VALUE'),
  ('--ablate=steps=1 steps=2',): ('--ablate', 'steps'),
  ('--ablate=seed=3',): ('--ablate', 'seed'),
  ('--sweep=seed=1 2',): ('--sweep', 'seed'),
  ('--sweep=learning_rate',): ('--sweep', 'FIELD=VALUE'),
  ('--sweep=learning_rate= ',): ('--sweep', 'FIELD=VALUE'),
  ('--sweep=steps=1 2', '--sweep=steps=3'): ('--sweep', 'swept twice'),
  ('--d_model=32', '--ablate=d_model=33'): ('--num_heads=4', "row 'd_model"),
  ('stray',): ('stray', 'not a flag', '--NAME=VALUE'),
  ('--steps=3', 'a.txt'): ('a.txt', '--NAME=VALUE'),
  ('--shard=0/2',): ('--shard=0/2', 'from 1 to N'),
  ('--shard=3/2',): ('--shard=3/2', 'from 1 to N'),
  ('--shard=1',): ('--shard=1', 'must be I/N'),
  ('--shard=1/2', '--merge=a'): ('--shard=1/2', 'beside --merge'),
  ('--shard=1/2', '--tune=learning_rate=1e-3 1e-2'): ('--shard=1/2', '--tune'),
  ('--merge= ',): ('--merge', 'directories'),
  ('--merge="a',): ('--merge', 'quotation'),
  ('--workers=0',): ('--workers=0', 'at least 1'),
  ('--devices=8', '--batch_size=12'): (
    '--batch_size=12',
    '8 devices',
    'try --batch_size=16',
  ),
  ('--devices=9',): ('--devices=9', 'there are 8', '=9'),
  ('--metric=bleu',): (
    '--metric=bleu',
    "--task=text of row 'base' measures",
    'try val_loss|val_accuracy|best_val_loss|train_loss',
  ),
  ('--metric=diverged_at',): ('--metric=diverged_at', 'measures'),
}
UNREADABLE = {
  ('--task.path=../inputs/absent.txt',): ('absent.txt', 'does not exist'),
  ('--task.path=../inputs/empty.txt',): ('empty.txt', 'is empty'),
  ('--task.path=../inputs/binary.txt',): ('binary.txt', 'binary', 'UTF-8'),
  ('--task.path=../inputs/latin.txt',): ('latin.txt', 'not UTF-8'),
  ('--task.path=../inputs/hollow',): ('hollow', 'no file'),
  ('--task.path=../inputs/short.txt', '--seq_len=32'): (
    'short.txt',
    '--seq_len=32',
  ),
  ('--task.path=../inputs/good.txt', '--seq_len=3000'): (
    'good.txt',
    '--seq_len=3000',
    'smaller --seq_len',
  ),
  ('--ablate=task.path=../inputs/absent.txt',): ('absent.txt',),
  ('--task.path=' + 'a' * 300,): ('aaa',),
  ('--init_from=nowhere',): ('--init_from=nowhere', 'WORKDIR:TRIAL'),
  ('--init_from=nowhere:base',): ('--init_from=nowhere:base', 'nowhere'),
  ('--evaluate=nowhere',): ('--evaluate=nowhere', 'WORKDIR:TRIAL'),
  ('--evaluate=nowhere:base',): ('nowhere', 'not a working directory'),
}
BAD = MISSPELT | MISTYPED | OUT_OF_BOUNDS | IMPOSSIBLE | UNREADABLE


@pytest.mark.parametrize('argv', BAD, ids=lambda argv: ' '.join(argv)[:60])
def test_one_line_says_what_is_wrong(
  argv: Sequence[str],
  here: Path,
  capsys: pytest.CaptureFixture[str],
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  # Were it not refused, it would train for minutes.
  monkeypatch.setattr(cli.engine, 'execute', lambda *_: 0)
  before = tree(here.parent)
  # To --evaluate the workdir would be one more flag without effect.
  new = () if argv[0].startswith('--evaluate') else ('--workdir=new',)
  code = run(*argv, *new)
  assert_refused(code, *capsys.readouterr(), *BAD[tuple(argv)])
  assert tree(here.parent) == before


@pytest.mark.parametrize('argv', [('--num_heads=5',), ('--seed=x',)], ids=str)
def test_default_workdir_is_not_made_either(
  argv: Sequence[str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  assert_refused(run(*argv), *capsys.readouterr())
  assert not list(here.iterdir())


REAL = (
  ('--positon=rope', '--workdir=new'),
  ('--task.path=../inputs/binary.txt', '--workdir=new'),
  ('--num_heads=5',),
)


@pytest.mark.parametrize('argv', REAL, ids=' '.join)
def test_real_process_refuses_in_one_line(
  argv: Sequence[str], here: Path
) -> None:
  done = shell(*argv)
  assert_refused(done.returncode, done.stdout, done.stderr)
  assert not list(here.iterdir())


def test_a_line_break_in_a_value_does_not_break_the_line(
  here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  assert_refused(run('--position=ro\npe'), *capsys.readouterr(), '--position')
  assert not list(here.iterdir())


# Working directories that are taken. ------------------------------------------


@pytest.fixture(scope='module')
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """The working directory of a run that is done; not to be changed."""
  folder = tmp_path_factory.mktemp('done')
  write_inputs(folder / 'inputs')
  (folder / 'here').mkdir()
  argv = ('--task.path=../inputs/good.txt', '--seeds=1', '--ablate=scale=none')
  with contextlib.chdir(folder / 'here'):
    assert run(*TINY, *argv, '--workdir=taken') == 0
  return folder / 'here/taken'


@pytest.fixture
def taken(done: Path, here: Path) -> Path:
  """A copy of it, in the current directory."""
  return shutil.copytree(done, here / 'taken')


MINE = ('--seeds=1', '--ablate=scale=none', '--workdir=taken')
OTHERS = {
  'experiment': (
    ('--experiment=nanogpt', '--task.corpus=none', *TINY),
    ('experiment', 'ladder', 'nanogpt'),
  ),
  'base': ((*TINY, '--learning_rate=0.5'), ('--learning_rate=', 'not 0.5')),
  'choice': ((*TINY, '--position=rope'), ('--position=', 'not rope')),
  'data': (TINY, ('data',)),
}


@pytest.mark.slow
@pytest.mark.parametrize('case', OTHERS)
def test_refuses_the_workdir_of_another(
  case: str, taken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  argv, parts = OTHERS[case]
  if case == 'data':
    good = taken.parent.parent / 'inputs/good.txt'
    good.write_text(good.read_text()[::-1])
  before = tree(taken)
  code = run('--task.path=../inputs/good.txt', *argv, *MINE)
  parts = ('--workdir=taken', *parts, 'another --workdir')
  assert_refused(code, *capsys.readouterr(), *parts)
  assert tree(taken) == before


FOREIGN_CONFIGS = {
  'another program': b'{"name": "x"}',
  'a list': b'[1, 2]',
  'no JSON': b'precious',
  'not UTF-8': b'\xff\xfe\x00',
}


def test_refuses_a_folder_of_something_else(
  here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  (here / 'new').mkdir()
  (here / 'new/thesis.tex').write_text('precious')
  code = run(*TINY, '--workdir=new')
  assert_refused(code, *capsys.readouterr(), '--workdir=new', 'thesis.tex')
  assert tree(here) == {'new': None, 'new/thesis.tex': b'precious'}


@pytest.mark.parametrize('case', FOREIGN_CONFIGS)
def test_refuses_a_config_that_is_not_ours(
  case: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  (here / 'new').mkdir()
  (here / 'new/config.json').write_bytes(FOREIGN_CONFIGS[case])
  code = run(*TINY, '--workdir=new')
  assert_refused(code, *capsys.readouterr(), '--workdir=new', 'config.json')
  assert tree(here) == {
    'new': None,
    'new/config.json': FOREIGN_CONFIGS[case],
  }


@pytest.mark.parametrize('name', ['file', 'file/below', 'n' * 300])
def test_refuses_a_workdir_that_cannot_be_made(
  name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  (here / 'file').write_text('precious')
  code = run(*TINY, f'--workdir={name}')
  assert_refused(code, *capsys.readouterr(), f'--workdir={name}', 'another')
  assert tree(here) == {'file': b'precious'}


def test_refuses_a_workdir_that_is_read_only(
  here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  (here / 'locked').mkdir(mode=0o500)
  if os.access(here / 'locked', os.W_OK):
    pytest.skip('this user may write where nobody may')
  for name in ('locked', 'locked/new'):
    code = run(*TINY, f'--workdir={name}')
    assert_refused(code, *capsys.readouterr(), f'--workdir={name}', 'another')
  assert tree(here) == {'locked': None}


@pytest.mark.slow
def test_refuses_parameters_and_trials_that_do_not_fit(
  taken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  argv = ('--task.path=../inputs/good.txt', *TINY, '--workdir=new')
  cases: dict[tuple[str, ...], tuple[str, ...]] = {
    ('--init_from=taken:bas',): ('--init_from=taken:bas', 'no trial bas'),
    ('--init_from=taken:base', '--num_layers=2'): ('--init_from', '(2, '),
    ('--init_from=taken:base', '--ablate=projections=raw'): (
      'absent',
      "row 'projections=raw'",
    ),
    ('--init_from=taken:base', '--ablate=position=none'): (
      'position/table',
      "row 'position=none'",
    ),
    ('--init_from=taken:base', '--task.tokenizer=byte'): (
      'vocabulary',
      '--task',
    ),
    ('--evaluate=taken:bas',): ('no trial bas',),
    ('--evaluate=taken:base', '--num_layers=2'): ('--num_layers', 'evaluate'),
    ('--evaluate=taken:base', '--seeds=2'): ('--seeds', 'evaluate'),
  }
  wrong = []
  for case, parts in cases.items():
    before = tree(taken.parent)
    evaluates = case[0].startswith('--evaluate')
    code = run(*(argv[:1] if evaluates else argv), *case)
    try:
      assert_refused(code, *capsys.readouterr(), *parts)
      assert tree(taken.parent) == before
    except AssertionError as e:
      wrong.append(f'{" ".join(case)}: {str(e)[:400]}')
  assert not wrong, '\n'.join(wrong)


def test_rows_of_an_experiment_that_do_not_fit_are_left_out(
  taken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """Of the ladder's rows nobody asked for those that have no such matrices."""
  argv = ('--task.path=../inputs/good.txt', *TINY, '--workdir=new', '--plan')
  before = tree(taken.parent)
  assert run(*argv, '--init_from=taken:base') == 0
  out = capsys.readouterr().out
  assert "left out, does not go with what is given: row 'raw'" in out
  assert 'blocks/attention/value is ' in out
  assert '(4 rows' in out
  assert run(*argv, '--init_from=taken:base', '--ablate=projections=raw') == 2
  assert "row 'projections=raw'" in capsys.readouterr().err
  assert tree(taken.parent) == before


def test_evaluating_an_unfinished_trial_is_refused(
  taken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  (taken / 'runs/0123').mkdir()  # killed before its config.json was whole
  before = tree(taken)
  code = run('--evaluate=taken:0123')
  assert_refused(code, *capsys.readouterr(), '0123')
  assert tree(taken) == before


def test_evaluating_changes_nothing(
  taken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """A trial may be evaluated while it is trained: its saves are not ours."""
  run_of = taken / 'runs' / trials(taken)[0]['trial'] / 'checkpoints'
  (run_of / '5.orbax-checkpoint-tmp').mkdir()
  before = tree(taken)
  assert run('--evaluate=taken:base') == 0
  figures = json.loads(capsys.readouterr().out)
  assert figures['val_loss'] == trials(taken)[0]['metrics']['val_loss']
  assert tree(taken) == before


# What --help and --list say. --------------------------------------------------


def type_word(hint: Any) -> str:
  """Returns what --help calls a type."""
  if variant_list(hint):
    return 'comma list'
  if variants(hint):
    return 'choice'
  if typing.get_origin(hint) is typing.Literal:
    return '|'.join(typing.get_args(hint))
  args = typing.get_args(hint)
  if types.NoneType in args:
    inner = [a for a in args if a is not types.NoneType]
    return f'{type_word(inner[0])}|none'
  words = {str: 'text', int: 'integer', float: 'number', bool: 'true|false'}
  return words[hint]


def test_help_says_all_of_every_flag_in_time() -> None:
  start = time.monotonic()
  done = shell('--help')
  assert time.monotonic() - start < 10
  assert (done.returncode, done.stderr) == (0, '')
  lines = done.stdout.splitlines()
  assert [line for line in lines if line != line.rstrip()] == []
  assert max(map(len, lines)) <= 80  # to a pipe
  # The value that will run: that of the default experiment.
  runs = to_flags(discover()['ladder'].base)
  # From one flag to the next, without the breaks of lines.
  parts = re.split(r'^ *--(?=\S+=)', done.stdout, flags=re.MULTILINE)
  said = {p.partition('=')[0]: ' '.join(p.split()) for p in parts}
  for record in (Command, Options, Config):
    for path, leaf in leaves(record).items():
      _, default = next(iter(leaf.owners.values()))
      shown = runs.get(path, to_text(default))
      assert said[path].startswith(f'{path}={shown} '), said[path]
      assert type_word(leaf.hint) in said[path]
      for meta, _ in leaf.owners.values():
        assert ' '.join(meta.help.split()) in said[path]
      choices = variants(leaf.hint) | variant_list(leaf.hint)
      for tag, variant in choices.items():
        assert variant.__doc__
        assert f'{tag}: {variant.__doc__.splitlines()[0]}' in said[path]
  for name in MANY:
    assert f'--{name}' in done.stdout
  assert (
    'ladder sets 0.003; --experiment=train has 0.001' in (said['learning_rate'])
  )


def to_text(value: Any) -> str:
  """Returns a default as it is typed."""
  if isinstance(value, Record):
    return vars(type(value))['tag']
  if isinstance(value, tuple):
    return ','.join(map(to_text, value))
  if value is None or isinstance(value, bool):
    return str(value).lower()
  return str(value)


def test_list_names_every_experiment(
  here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  assert run('--list') == 0
  said = ' '.join(capsys.readouterr().out.split())
  for name, experiment in discover().items():
    assert f'{name} {experiment.title}' in said
    assert ' '.join(experiment.citation.split()) in said
  for figure in Translation.figures:
    assert f'--metric={figure.name}: {figure.about}' in said
  assert not list(here.iterdir())


def test_plan_shows_every_row_and_makes_nothing(
  here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  assert run('--plan', '--sweep=position=rope none', '--workdir=new') == 0
  said = capsys.readouterr().out
  assert all(x in said for x in (BASE, 'position=rope', 'position=none'))
  assert not list(here.iterdir())


# Rows. ------------------------------------------------------------------------


@pytest.fixture
def rows(
  here: Path,
  capsys: pytest.CaptureFixture[str],
  monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., list[str]]:
  """Returns a function from arguments to the names of the rows they make."""
  plans: list[Plan] = []

  def execute(plan: Plan, *_: object) -> int:
    plans.append(plan)
    return 0

  monkeypatch.setattr(cli.engine, 'execute', execute)

  def make(*argv: str) -> list[str]:
    assert run(*argv, '--workdir=new') == 0
    capsys.readouterr()
    assert not list(here.iterdir())
    return [row.name for row in plans.pop().rows]

  return make


def test_rows_are_ablations_then_the_product_of_the_axes(
  rows: Callable[..., list[str]],
) -> None:
  names = rows(
    '--sweep=learning_rate=1e-4 3e-4',
    '--ablate=scale=none norm=rmsnorm',
    '--sweep=position=rope none',
  )
  assert names == [
    BASE,
    'scale=none norm=rmsnorm',
    'learning_rate=1e-4 position=rope',
    'learning_rate=1e-4 position=none',
    'learning_rate=3e-4 position=rope',
    'learning_rate=3e-4 position=none',
  ]


def test_equal_rows_are_merged_into_the_first(
  rows: Callable[..., list[str]],
) -> None:
  sweep = '--sweep=learning_rate=0.001 1e-3 .001 2e-3 0.002 .002'
  assert rows('--learning_rate=1e-3', sweep) == [BASE, 'learning_rate=2e-3']
  twice = ['--ablate=steps=5', '--ablate=steps=5 position=rope']
  assert rows('--position=rope', *twice) == [BASE, 'steps=5']


def test_a_sweep_of_a_sub_flag_goes_with_its_choice(
  rows: Callable[..., list[str]],
) -> None:
  # 1e4 is the default of the base.
  sweep = '--sweep=position.theta=1e3 1e4 1e5'
  assert rows('--position=rope', sweep) == [
    BASE,
    'position.theta=1e3',
    'position.theta=1e5',
  ]


def test_without_ablations_the_rows_are_those_of_the_experiment(
  rows: Callable[..., list[str]],
) -> None:
  experiment = discover()['ladder']
  assert rows() == [row.name for row in experiment.rows]
  assert rows(f'--only={BASE}') == [BASE]


# What is right. ---------------------------------------------------------------


def test_flagfile_replays_and_only_runs_one_row(
  here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  argv = [
    *TINY,
    '--task.path=../inputs/good.txt',
    '--seeds=2',
    '--seed=3',
    '--ablate=position=rope position.theta=500.0',
    '--sweep=learning_rate=3e-3',
    '--dropout_residual=0.1',
    '--freeze=^embedding/',
    '--lanes=devices:2',
  ]
  assert run(*argv, '--workdir=first') == 0
  first = numbers('first')
  assert len(first) == 6
  assert len({digest for _, digest, _ in first.values()}) == 6

  assert run('--flagfile=first/flags.txt', '--workdir=replay') == 0
  assert numbers('replay') == first
  texts = [(here / d / 'flags.txt').read_text() for d in ('first', 'replay')]
  assert texts[0] == texts[1]

  row = 'position=rope position.theta=500.0'
  assert run(*argv, f'--only={row}', '--workdir=one') == 0
  one = numbers('one')
  assert one == {key: first[key] for key in first if key[0] == row}
  assert len(one) == 2

  assert run('--flagfile=one/flags.txt', '--workdir=one-replay') == 0
  assert numbers('one-replay') == one
  capsys.readouterr()


@pytest.mark.slow
def test_a_replay_says_what_the_run_said(
  here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """The figure that is compared, and that a smoke run decides nothing."""
  argv = (*TINY, '--task.path=../inputs/good.txt', '--ablate=position=none')
  argv = (*argv, '--smoke', '--seeds=2', '--metric=val_accuracy')
  assert run(*argv, '--workdir=first') == 0
  assert run('--flagfile=first/flags.txt', '--workdir=replay') == 0
  assert numbers('replay') == numbers('first')
  tables = [
    json.loads((here / d / 'table.json').read_text())
    for d in ('first', 'replay')
  ]
  assert [t['metric'] for t in tables] == ['val_accuracy'] * 2
  reasons = [[row['reason'] for row in t['rows']] for t in tables]
  assert reasons == [['', 'a smoke run: nothing has learned']] * 2
  capsys.readouterr()


@pytest.mark.slow
def test_real_process_repeats_what_this_one_did(
  taken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  done = shell('--flagfile=taken/flags.txt', '--workdir=real')
  assert (done.returncode, done.stderr) == (0, '')
  assert numbers('real') == numbers(taken)
  for name in ('table.json', 'table.csv', 'table.md', 'table.tex'):
    assert (taken.parent / 'real' / name).stat().st_size
  assert 'report.html' in done.stdout
  capsys.readouterr()


# Those of many programs, or that translate, take half a minute.
LONG = ('ladder', 'multi30k', 'translation')


@pytest.mark.slow
@pytest.mark.parametrize(
  'name',
  [
    pytest.param(name, marks=pytest.mark.slow) if name in LONG else name
    for name in discover()
  ],
)
def test_smoke_of_every_experiment(
  name: str,
  here: Path,
  request: pytest.FixtureRequest,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  experiment = discover()[name]
  monkeypatch.setattr('train.multi30k.fetch', captions)
  if 'shakespeare' in to_flags(experiment.base).values():
    request.getfixturevalue('shakespeare')
  # Layouts are timed by others; here it would compile each program three times.
  argv = (f'--experiment={name}', '--smoke', '--seeds=1', '--lanes=shared:1')
  assert run(*argv, '--workdir=new') == 0
  out, err = capsys.readouterr()
  assert err == ''
  assert len(trials('new')) == len(experiment.rows)
  assert all(record['status'] == 'ok' for record in trials('new'))
  for row in experiment.rows:
    assert row.name in out
  assert (here / 'new/report.html').stat().st_size


@pytest.mark.slow
@pytest.mark.parametrize(
  'flags',
  [
    ('--model=encoder', '--task=mlm'),
    ('--model=classifier', '--task=most_frequent'),
  ],
)
def test_smoke_of_other_families(
  flags: tuple[str, ...], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  argv = ('--experiment=train', '--smoke', '--seeds=1', '--lanes=shared:1')
  assert run(*argv, *flags, '--workdir=new') == 0
  assert capsys.readouterr().err == ''
  (record,) = trials('new')
  assert record['status'] == 'ok'
  assert (here / 'new/report.html').stat().st_size


# The schema. ------------------------------------------------------------------

TEXTS = {
  'freeze': ('embedding', '^blocks/', 'token$'),
  'path': ('a b.txt', 'x=y,z', 'ünï/code', '-1'),
  'init_from': ('runs/x:base', 'w:qk/1'),
  # Of a table.
  'train': ('a.tsv', 'folder/b.jsonl'),
  'validation': ('c.tsv', 'held out.jsonl'),
  'keys': ('text', 'source.en'),
  'suffixes': ('en,de', 'src,tgt'),
  'name': ('me/mine', 'multi30k'),
  'config': ('small', 'en-de'),
  'data_dir': ('folder', 'a b'),
}


def draw_value(
  draw: random.Random, name: str, hint: Any, meta: Meta, old: Any
) -> Any:
  """Returns a random value of a field, within its bounds."""
  if is_section(hint):
    return draw_record(draw, hint)
  if many := variant_list(hint):
    # Of longer lists hardly any keeps the rules.
    count = draw.randint(1, min(3, len(many)))
    chosen = draw.sample(list(many.values()), count)
    return tuple(draw_record(draw, cls) for cls in chosen)
  if choices := variants(hint):
    return draw_record(draw, draw.choice(list(choices.values())))
  args = typing.get_args(hint)
  if typing.get_origin(hint) is typing.Literal:
    return draw.choice(args)
  if types.NoneType in args:
    if draw.random() < 0.4:
      return None
    (hint,) = [a for a in args if a is not types.NoneType]
    return draw_value(draw, name, hint, meta, old)
  if hint is bool:
    return draw.random() < 0.5
  if hint is str:
    return draw.choice(TEXTS[name])
  if draw.random() < 0.3 and old is not None:
    return old
  return draw_number(draw, hint, meta)


def draw_number(
  draw: random.Random, hint: type, meta: Meta, least: float | None = None
) -> int | float:
  """Returns a random number within bounds, above `least` if that is given."""
  low = meta.min if meta.min is not None else -10
  if hint is int:
    high = int(min(low + 64, math.inf if meta.max is None else meta.max))
    return draw.randint(max(int(low), int(least or low)), high)
  # Not where the bound is only there to stop what no program computes.
  most = math.inf if meta.max is None else meta.max
  low = max(low, -10)
  high = low + 10 ** draw.uniform(-9, 9) if most > 1e9 else most
  return draw.uniform(low if least is None else max(low, least), high)


def draw_record(draw: random.Random, cls: type[Record]) -> Any:
  """Returns a random record that keeps the rules within it."""
  for _ in range(2000):
    # Of records that change every field, hardly any keeps the rules.
    rate = draw.uniform(0.1, 1.0)
    values = {
      f.name: draw_value(
        draw, f.name, hints(cls)[f.name], meta_of(cls, f.name), f.default
      )
      if draw.random() < rate
      else f.default
      for f in dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]  # a record is one
    }
    try:
      return cls(*values.values())
    except FieldError:
      continue
  raise AssertionError(f'no valid {cls.__name__} in 2000 draws')


def redraw_traced(draw: random.Random, record: Record) -> Any:
  """Returns the record with new traced numbers; zeros stay, they are static."""
  cls, changed = type(record), {}
  for name, hint in hints(cls).items():
    value, meta = vars(record)[name], meta_of(cls, name)
    if isinstance(value, Record):
      changed[name] = redraw_traced(draw, value)
    elif isinstance(value, tuple):
      changed[name] = tuple(redraw_traced(draw, v) for v in value)
    elif meta.traced and value is not None and value != 0:
      inner = hint if isinstance(hint, type) else type(value)
      if inner is int:
        # More: of the steps, there must be as many as an average asks for.
        most = 2**31 - 1 if meta.max is None else int(meta.max)
        changed[name] = min(value + draw.randint(1, 64), most)
      else:
        changed[name] = draw_number(draw, inner, meta, 1e-12)
  return dataclasses.replace(record, **changed)  # pyright: ignore[reportArgumentType]  # fields by name


def redrawn(draw: random.Random, config: Config) -> Config:
  """Returns the trial with new traced numbers that keep its rules."""
  for _ in range(200):
    try:
      return redraw_traced(draw, config)
    except FieldError:
      continue  # too few steps for the average, say
  raise AssertionError('no valid numbers in 200 draws')


@pytest.fixture(scope='module')
def configs() -> list[Config]:
  """Random configurations, over all unions."""
  draw = random.Random(20240607)
  return [draw_record(draw, Config) for _ in range(150)]


def check_all(
  configs: Sequence[Config], check: Callable[[Config, Config], None]
) -> None:
  """Checks each configuration beside another one."""
  for mine, other in zip(configs, [*configs[1:], configs[0]], strict=True):
    check(mine, other)


def test_random_configurations_meet_every_variant(
  configs: list[Config],
) -> None:
  draw = random.Random(18)
  # Some variants suit another task: what predicts the next token is causal;
  # and few draws make all that a kernel needs: the seed is one that does.
  alone = [draw_record(draw, Architecture) for _ in range(400)]
  met: dict[str, set[str]] = {}
  for record in (*configs, *alone):
    for path, text in to_flags(record).items():
      met.setdefault(path, set()).update(text.split(','))
  for cls in variants(Task).values():
    met['task'].add(cls.tag)
    for _ in range(120):
      for path, text in to_flags(draw_record(draw, cls)).items():
        met.setdefault(f'task.{path}', set()).update(text.split(','))
  for path, leaf in leaves(Config).items():
    tags = {*variants(leaf.hint), *variant_list(leaf.hint)}
    assert tags <= met[path], f'--{path}: {tags - met[path]} never drawn'


def test_flags_rebuild_a_configuration(configs: list[Config]) -> None:
  def check(mine: Config, other: Config) -> None:
    text = to_flags(mine)
    assert override(Config(), text) == mine
    assert override(other, text) == mine
    assert set(text) <= set(leaves(Config))

  check_all(configs, check)


def test_flags_survive_absl(configs: list[Config]) -> None:
  for config in configs[:40]:
    values = flags.FlagValues()
    argv = [f'--{k}={v}' for k, v in to_flags(config).items()]
    cli.parse(['launch.py', *argv], values)
    assert override(Config(), cli.present(Config, values)) == config


def test_split_and_bind_are_inverse(configs: list[Config]) -> None:
  def check(mine: Config, other: Config) -> None:
    static, values = split(mine)
    assert bind(static, values) == mine
    assert hash(bind(static, values)) == hash(mine)
    assert all(type(v) in (int, float) for v in values.values())
    assert (split(other)[0] == static) <= (
      split(other)[1].keys() == set(values)
    )

  check_all(configs, check)


def test_traced_numbers_do_not_change_the_static_half(
  configs: list[Config],
) -> None:
  draw = random.Random(1)
  changed = 0
  for mine in configs:
    other = redrawn(draw, mine)
    changed += other != mine
    assert split(other)[0] == split(mine)[0]
    assert hash(split(other)[0]) == hash(split(mine)[0])
    assert split(other)[1].keys() == split(mine)[1].keys()
    deeper = dataclasses.replace(
      mine,
      architecture=dataclasses.replace(
        mine.architecture, num_layers=mine.architecture.num_layers + 1
      ),
    )
    assert split(deeper)[0] != split(mine)[0]
  assert changed == len(configs)
