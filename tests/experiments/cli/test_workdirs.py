"""Working directories that are taken, or belong to something else."""

import json
import os
from pathlib import Path

import pytest

from helpers.command_lines import TINY, assert_refused, tree
from helpers.commands import run, trials

pytestmark = pytest.mark.usefixtures('quick_compilation')

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


@pytest.mark.slow
def test_rows_of_an_experiment_that_do_not_fit_are_left_out(
  taken: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """Of the ladder's rows nobody asked for those that have no such matrices."""
  argv = ('--task.path=../inputs/good.txt', *TINY, '--workdir=new', '--plan')
  before = tree(taken.parent)
  assert run(*argv, '--init_from=taken:base') == 0
  out = capsys.readouterr().out
  assert "left out, conflicts with the given flags: row 'raw'" in out
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
