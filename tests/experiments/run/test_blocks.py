"""Experiments of blocks: a table for each, judged within it, and for all."""

import csv
import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.claims.metrics import Measurements, TrialMetrics
from experiments.claims.published import Control, PublishedValue
from experiments.claims.rules import Within, below
from experiments.cli import main as cli
from experiments.experiment import (
  BASE,
  Experiment,
  ExperimentBlock,
  Row,
  full_name,
)
from experiments.planning.plan import Plan
from experiments.questions.discover import Library
from experiments.report import block_summary
from experiments.results import claim_results as claims
from experiments.results import digest, stored
from experiments.run import blocks
from experiments.table import table as tables
from helpers.commands import run, trials
from model.core.field import FieldError
from train.config.config import Config
from train.flags.schema import override, to_flags
from train.tasks.generated.digits import Digits

TINY = {
  'task': 'digits',
  'model': 'encoder',
  'num_layers': '1',
  'd_model': '8',
  'num_heads': '1',
  'seq_len': '4',
  'batch_size': '2',
  'steps': '2',
  'warmup_steps': '0',
  'eval_every': '2',
  'eval_examples': '4',
}
ROWS = (Row(BASE, {}), Row('bare', {'position': 'none'}))
BLOCKS = (
  ExperimentBlock('copy', {'task.make': 'copy'}),
  ExperimentBlock('deep', {'task.make': 'sub', 'num_layers': '2'}, ROWS[:1]),
)
# Which row is the better one differs between the blocks of a made table.
RULE = below(0.0, minus='deep: base')


TWO = Experiment(
  'two',
  'Two blocks',
  'claimed',
  'a paper',
  'own',
  'seconds',
  override(Config(), TINY),
  ROWS,
  2,
  {'steps': '1'},
  published=(PublishedValue('copy: bare', 'val_loss', 9.0, 'page 1', RULE),),
  blocks=BLOCKS,
)
READS = Control('c', {}, 'val_loss', Within(minus='bare'), 'about')
with_changes = functools.partial(dataclasses.replace, TWO)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
  """Returns an empty folder, in which `two` is the only experiment."""
  monkeypatch.chdir(tmp_path)
  there = Library({'two': TWO}, {})
  monkeypatch.setattr(cli, 'library', lambda: there)
  return tmp_path


# As data. ---------------------------------------------------------------------


def test_each_block_is_an_experiment_of_its_own() -> None:
  copy, deep = TWO.parts
  assert (copy.block, deep.block) == ('copy', 'deep')
  assert copy.rows == ROWS
  assert deep.rows == ROWS[:1]
  assert to_flags(deep.base)['num_layers'] == '2'
  assert to_flags(copy.base)['num_layers'] == '1'
  assert (copy.title, copy.published) == ('Two blocks: copy', ())
  assert deep.parts == (deep,)
  assert TWO.row_names == ('copy: base', 'copy: bare', 'deep: base')
  found = {'copy: base': 1, 'copy: bare': 2, 'deep: base': 3}
  assert deep.own(found) == {'base': 3}
  plain = with_changes(blocks=(), published=())
  assert plain.parts == (plain,)
  assert plain.own({'base': 3}) == {'base': 3}
  at = TWO.at_scale(TWO.published[0], 'deep: base')
  assert at == deep.base


@pytest.mark.parametrize(
  ('make_it', 'why'),
  [
    (
      lambda: with_changes(blocks=(BLOCKS[0], BLOCKS[0])),
      "block 'copy' occurs twice",
    ),
    (
      lambda: with_changes(blocks=BLOCKS[1:]),
      "a rule reads row 'copy: bare', which is not",
    ),
    (
      lambda: with_changes(
        blocks=(ExperimentBlock('copy', {}, (ROWS[1], ROWS[1])),)
      ),
      "row 'bare' occurs twice",
    ),
    (lambda: with_changes(controls=(READS,)), "a rule reads row 'bare', which"),
  ],
)
def test_blocks_that_do_not_fit_are_refused(
  make_it: Callable[[], Experiment], why: str
) -> None:
  with pytest.raises(ValueError, match=why):
    make_it()


@pytest.mark.parametrize('name', ['', 'Copy', 'a/b', '..', '-a', 'a' * 41])
def test_a_block_names_a_folder(name: str) -> None:
  with pytest.raises(ValueError, match='must be of lower-case letters'):
    ExperimentBlock(name, {})


def test_a_broken_block_is_named() -> None:
  broken = with_changes(
    blocks=(ExperimentBlock('copy', {'steps': 'x'}),), published=()
  )
  with pytest.raises(FieldError, match=r"in block 'copy'"):
    broken.check()
  row = (*ROWS, Row('bad', {'norm': 'x'}))
  broken = with_changes(blocks=(BLOCKS[1], ExperimentBlock('copy', {}, row)))
  with pytest.raises(FieldError, match=r"in row 'copy: bad'"):
    broken.check()


# On the command line. ---------------------------------------------------------


def test_plan_says_what_each_block_runs(
  here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  assert run('--experiment=two', '--plan') == 0
  said = capsys.readouterr().out
  assert 'two: Two blocks: copy (2 rows, 2 seeds, 4 trials)' in said
  assert 'two: Two blocks: deep (1 row, 2 seeds, 2 trials)' in said
  assert run('--experiment=two', '--plan', '--block=deep') == 0
  (line,) = [
    line
    for line in capsys.readouterr().out.splitlines()
    if line.startswith('workdir: ')
  ]
  assert line.startswith('workdir: runs/two-')
  assert line.endswith('/deep')
  assert not list(here.iterdir())


@pytest.mark.parametrize(
  ('argv', 'why'),
  [
    (('--block=deap',), '--block=deap: of two must be one of copy|deep'),
    (
      ('--task.make=copy', '--num_layers=1', '--ablate=position=none'),
      'copy and deep are the same, so --block=deep runs it once',
    ),
    (('--only=bare',), '--only=bare: is not a row: base'),
    (('--block=copy', '--result=a'), '--result=a: keeps all of'),
  ],
)
def test_one_line_says_what_is_wrong(
  here: Path,
  capsys: pytest.CaptureFixture[str],
  argv: tuple[str, ...],
  why: str,
) -> None:
  assert run('--experiment=two', *argv, '--workdir=new') == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert why in line
  assert not list(here.iterdir())


def test_a_folder_of_something_else_is_refused(
  here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  (here / 'new').mkdir()
  (here / 'new' / 'notes').write_text('mine')
  assert run('--experiment=two', '--workdir=new', '--plan') == 2
  assert '--workdir=new: holds no blocks but notes' in capsys.readouterr().err
  (here / 'new' / blocks.BLOCKS_FILE).write_text('{"experiment": "other"}')
  assert run('--experiment=two', '--workdir=new', '--plan') == 2
  said = capsys.readouterr().err
  assert 'belongs to experiment other, not two' in said or 'damaged' in said


# All of them beside each other. -----------------------------------------------

LOSSES = {'copy': {BASE: 2.0, 'bare': 1.0}, 'deep': {BASE: 3.0}}


def made_table(block: str) -> tables.AblationTable:
  """Returns a table of a block in which nothing was trained."""
  records = [
    {
      'row': row,
      'seed': seed,
      'status': 'ok',
      'metrics': {'val_loss': value + 0.01 * seed + (0.001 * seed) ** value},
      'clock': {'seconds': 1.0},
    }
    for row, value in LOSSES[block].items()
    for seed in range(3)
  ]
  return tables.make_table(records, [*LOSSES[block]], BASE)


def measured() -> Measurements:
  return Measurements(
    {
      full_name(block, row): {
        0: TrialMetrics(False, {'val_loss': value}, {}, [], 1.0, 7)
      }
      for block, rows in LOSSES.items()
      for row, value in rows.items()
    }
  )


def test_rules_read_rows_of_several_blocks() -> None:
  own = TWO
  configs = {
    name: own.at_scale(own.published[0], name) for name in own.row_names
  }
  (judged,) = claims.published_verdicts(own, configs, measured())
  assert (judged.verdict, judged.measured) == ('reproduced', -2.0)
  turned = dataclasses.replace(own.published[0], row='deep: base')
  turned = dataclasses.replace(turned, rule=below(0.0, minus='copy: bare'))
  own = dataclasses.replace(own, published=(turned,))
  (judged,) = claims.published_verdicts(own, configs, measured())
  assert judged.verdict == 'not reproduced'


def test_the_summary_shows_each_row_in_each_block(
  tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  own = TWO
  configs = {
    name: own.at_scale(own.published[0], name) for name in own.row_names
  }
  summary = block_summary.Summary(
    own,
    {name: made_table(name) for name in LOSSES},
    claims.published_verdicts(own, configs, measured()),
    ['python', 'launch.py', '--experiment=two'],
  )
  page = block_summary.write(summary, tmp_path)
  block_summary.show(summary)
  said = capsys.readouterr().out
  assert max(map(len, said.splitlines())) <= 80
  assert '-0.9990' in said
  assert 'better' in said
  assert 'reproduced' in said
  found = json.loads((tmp_path / 'table.json').read_text())
  assert [*found['blocks']] == ['copy', 'deep']
  assert found['blocks']['copy']['rows'][1]['difference'] == pytest.approx(
    -0.999, abs=1e-3
  )
  assert found['published'][0]['verdict'] == 'reproduced'
  with (tmp_path / 'table.csv').open() as f:
    lines = [(line['block'], line['row']) for line in csv.DictReader(f)]
  assert lines == [('copy', BASE), ('copy', 'bare'), ('deep', BASE)]
  text = (tmp_path / 'table.md').read_text()
  assert '| row | copy | deep |' in text
  row = next(x for x in text.splitlines() if x.startswith('| bare'))
  assert '-0.9990 ± ' in row
  assert 'better' in row
  assert row.endswith('| – |')
  assert r'bare & $-0.9990' in (tmp_path / 'table.tex').read_text()
  html = page.read_text()
  assert '<a href="copy/report.html">copy</a>' in html
  assert '<b class="better">better</b>' in html
  assert 'reproduced' in html


# Run. -------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures('quick_compilation')
def test_blocks_run_go_on_and_are_kept(
  here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  words = ('--experiment=two', '--workdir=new')
  assert run(*words, '--block=deep') == 0
  assert 'without --block shows all' in capsys.readouterr().out
  names = {p.name for p in (here / 'new').iterdir()}
  assert names == {blocks.BLOCKS_FILE, 'deep', '.lock'}
  assert run(*words, '--result=kept') == 0
  said = capsys.readouterr().out
  assert said.count('done before') == 2
  assert 'Two blocks, block by block' in said
  found = {name: trials(here / 'new' / name) for name in ('copy', 'deep')}
  assert [len(own) for own in found.values()] == [4, 2]
  both = json.loads((here / 'new' / 'table.json').read_text())
  for name in found:
    alone = json.loads((here / 'new' / name / 'table.json').read_text())
    assert both['blocks'][name] == alone
    text = (here / 'new' / name / 'flags.txt').read_text()
    assert f'--block={name}\n' in text
    report = (here / 'new' / name / 'report.html').read_text()
    assert f'--block={name} --only=base' in report
  kept = stored.read(here / 'results' / 'kept.json')
  assert [*kept.rows] == ['copy: base', 'copy: bare', 'deep: base']
  there = {'two': TWO}
  assert stored.stale_reason(kept, there) == ''
  later = (
    BLOCKS[0],
    ExperimentBlock('deep', {'task.make': 'sub', 'num_layers': '3'}),
  )
  why = stored.stale_reason(kept, {'two': with_changes(blocks=later)})
  assert why.endswith('ran with the default --num_layers, not --num_layers=3')
  page = digest.page({'kept': kept}, there)
  assert '| kept | copy: bare, val loss | 9 |' in page
  merged = ('--merge=new', '--workdir=all')
  assert run('--experiment=two', *merged) == 0
  assert trials(here / 'all' / 'copy') == found['copy']


def test_digits_are_made_as_the_paper_has_them(
  make: Callable[[str], tuple[np.ndarray, np.ndarray]],
) -> None:
  for name, expected in {
    'reverse': lambda x: x[::-1],
    'sort': sorted,
    'sub': lambda x: [9 - digit for digit in x],
    'swap': lambda x: [*x[len(x) // 2 :], *x[: len(x) // 2]],
    'copy': list,
  }.items():
    inputs, targets = make(name)
    assert {*np.unique(inputs)} == {*range(10)}
    for one, made in zip(inputs, targets, strict=True):
      assert [*made] == [*expected([*one])], name


@pytest.fixture
def make() -> Callable[[str], tuple[np.ndarray, np.ndarray]]:
  """Returns a function from a way of making to inputs and targets."""

  def of(name: str) -> tuple[np.ndarray, np.ndarray]:
    flags = {**TINY, 'task.make': name, 'seq_len': '6'}
    task = override(Config(), flags).task
    assert isinstance(task, Digits)
    batch = task.evaluation_batch({}, jnp.arange(50), 6)
    return np.asarray(batch.inputs.tokens_BT), np.asarray(batch.targets_BT)

  return of


def test_a_plan_knows_its_block(
  here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """What runs is the block, below the folder of all."""
  seen: list[Plan] = []

  def execute(
    own: Experiment, there: list[blocks.BlockTable], *_: object
  ) -> int:
    assert own.name == 'two'
    seen.extend(table.plan for table in there)
    return 0

  monkeypatch.setattr(blocks, 'run_blocks', execute)
  assert run('--experiment=two', '--workdir=new', '--merge=a b') == 0
  assert [str(plan.workdir) for plan in seen] == ['new/copy', 'new/deep']
  assert [plan.command.merge for plan in seen] == [
    'a/copy b/copy',
    'a/deep b/deep',
  ]
  assert [len(plan.trials) for plan in seen] == [4, 2]
  assert here.is_dir()
