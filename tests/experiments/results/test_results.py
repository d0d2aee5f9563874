"""Published values and controls in tables, and results that are kept."""

import dataclasses
import importlib
import json
import pathlib
import sys
import typing
from collections.abc import Callable, Iterator, Mapping

import pytest
import rich.console

import experiments.questions
from experiments.claims.metrics import TrialMetrics
from experiments.claims.published import (
  ClaimVerdict,
  ControlVerdict,
  PublishedVerdict,
)
from experiments.experiment import BASE
from experiments.questions.discover import discover, library, read
from experiments.results import digest, stored
from experiments.results.stored import StoredResult, StoredRow
from experiments.statistics.verdicts import Interval
from experiments.table import table as tables
from experiments.table import table_files, table_terminal
from helpers.commands import run, trials
from model.core.field import FieldError
from train.files.durable import read_json, write_json
from train.files.strict import DamagedFile
from train.flags.schema import override

pytestmark = pytest.mark.usefixtures('quick_compilation')
ROOT = pathlib.Path(__file__).resolve().parents[3]
Write = Callable[..., None]


# In tables. -------------------------------------------------------------------


def table(*controls: ClaimVerdict) -> tables.AblationTable:
  """Returns a table of one row, with a published value."""
  record = {
    'row': BASE,
    'seed': 0,
    'status': 'ok',
    'metrics': {'val_loss': 1.9},
    'clock': {'seconds': 1.0},
  }
  judged = ClaimVerdict(
    BASE,
    'val_loss',
    1.88,
    'a paper of <some> length, which fills a line to its end and goes on',
    '1.8 to 1.92',
    'direction only',
    1.9,
    Interval(1.8, 2.0),
    2,
    'seeds: 2 of 3',
  )
  return dataclasses.replace(
    tables.make_table([record], [BASE], BASE),
    published=(judged,),
    controls=controls,
  )


FAILED = ClaimVerdict(
  'shuffled', 'val_loss', 3.3, 'entropy', '3 to 4', 'fail', 2.0
)


def test_a_terminal_of_80_columns_shows_what_was_published() -> None:
  console = rich.console.Console(width=80, record=True)
  shown = table_terminal.render_claims(table(FAILED))
  assert shown is not None
  console.print(shown)
  said = console.export_text()
  assert max(map(len, said.splitlines())) <= 80
  said = ' '.join(said.split())
  assert (
    'base, val loss: 1.88 published, 1.9 ± 0.1 here, 2 seeds: direction only'
    in said
  )
  assert 'accepted: 1.8 to 1.92 (a paper of <some> length' in said
  assert 'seeds: 2 of 3' in said
  assert 'shuffled, val loss: 3.3 expected, 2 here: fail' in said


@pytest.mark.parametrize(
  'verdict',
  sorted(
    {*typing.get_args(PublishedVerdict), *typing.get_args(ControlVerdict)}
  ),
)
def test_every_verdict_can_be_shown(verdict: PublishedVerdict) -> None:
  found = table(dataclasses.replace(FAILED, verdict=verdict))
  console = rich.console.Console(width=80, record=True)
  for part in table_terminal.parts(found):
    console.print(part)
  said = console.export_text()
  assert f'2 here: {verdict} ' in said
  assert said.startswith('A control fails, so no') == (verdict == 'fail')


def test_files_hold_what_was_published(tmp_path: pathlib.Path) -> None:
  table_files.write(table(FAILED), tmp_path)
  found = json.loads((tmp_path / 'table.json').read_text())
  (judged,) = found['published']
  assert judged['verdict'] == 'direction only'
  assert judged['interval'] == {'low': 1.8, 'high': 2.0}
  assert [own['verdict'] for own in found['controls']] == ['fail']
  text = (tmp_path / 'table.md').read_text()
  assert text.startswith('A control fails, so no number of this table')
  assert ': direction only; accepted: 1.8 to 1.92 (a paper of &lt;some>' in text
  text = (tmp_path / 'table.tex').read_text()
  assert 'A control fails, so no number' in text
  assert 'here, 2 seeds: direction only; accepted: 1.8 to 1.92' in text
  header, line = (tmp_path / 'table.csv').read_text().splitlines()
  assert header.startswith('metric,row,label,')
  assert 'published' not in header + line


def test_figures_of_layers_are_no_columns() -> None:
  figures = {'val_loss': 1.9, 'rank@0': 1.0, 'rank@1': 0.5, 'rank': 2.0}
  record = {
    'row': BASE,
    'seed': 0,
    'status': 'ok',
    'metrics': figures,
    'clock': {'seconds': 1.0},
  }
  assert tables.make_table([record], [BASE], BASE).figures == ['rank']


def test_a_table_without_claims_has_the_files_of_before(
  tmp_path: pathlib.Path,
) -> None:
  plain = dataclasses.replace(table(), published=())
  table_files.write(plain, tmp_path)
  assert not {'published', 'controls'} & {
    *json.loads((tmp_path / 'table.json').read_text())
  }
  assert 'ublished' not in (tmp_path / 'table.md').read_text()
  assert table_terminal.render_claims(plain) is None


# Experiments that are broken. -------------------------------------------------


@pytest.fixture
def write(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Write]:
  """Returns what writes a file beside those of `experiments/questions/`."""
  folder = tmp_path / 'questions'
  folder.mkdir()
  package = experiments.questions
  monkeypatch.setattr(package, '__path__', [*package.__path__, str(folder)])
  monkeypatch.chdir(tmp_path)
  before = {*sys.modules}

  def forget() -> None:
    for name in {*sys.modules} - before:
      if name.startswith(package.__name__):
        del sys.modules[name]
    importlib.invalidate_caches()

  def put(name: str, text: str | bytes) -> None:
    data = text.encode() if isinstance(text, str) else text
    path = folder / f'{name}.py'
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    forget()

  sys.dont_write_bytecode, kept = True, sys.dont_write_bytecode
  yield put
  sys.dont_write_bytecode = kept
  forget()


PLAIN = """
from experiments.questions import train
import dataclasses
EXPERIMENT = dataclasses.replace(train.EXPERIMENT, name='{}', {})
"""
BROKEN = {
  'syntax': ('def f(:', 'SyntaxError: '),
  'bytes': (b'x = "\xff"', 'SyntaxError: '),
  'lacks': ('import not_there', "No module named 'not_there'"),
  'leaves': ('import sys; sys.exit(3)', 'SystemExit: 3'),
  'nothing': ('x = 1', 'defines no EXPERIMENT'),
  'other': ('EXPERIMENT = 1', 'defines no EXPERIMENT'),
  'config': (
    'from train.config.config import *\n'
    'from train.flags.schema import override\n'
    "EXPERIMENT = override(Config(), {'steps': '-1'})",
    '--steps=-1: must be at least 0',
  ),
  'clash': (PLAIN.format('train', ''), "its name 'train' is that of train.py"),
  'again': (
    PLAIN.format('again', 'rows=train.EXPERIMENT.rows * 2'),
    "row 'base' occurs twice",
  ),
}


def test_a_broken_file_breaks_only_itself(
  write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
  sound = [*discover()]
  for name, (text, _) in BROKEN.items():
    write(name, text)
  assert [*discover()] == sound
  assert {*library().broken} == {*BROKEN}
  # One of them is asked for, or the flags that all have in common.
  commands = ['--list'], ['--help=steps'], ['--help=d_model']
  for words in (*commands, ['--help=steps', '--experiment=syntax']):
    assert run(*words) == 0, words
    out, err = capsys.readouterr()
    assert 'ladder' in out or 'teger' in out
    lines = err.splitlines()
    assert len(lines) == len(BROKEN)
    for name, (_, why) in BROKEN.items():
      (line,) = (x for x in lines if f'questions/{name}.py is broken: ' in x)
      assert why in line
  for name, (_, why) in BROKEN.items():
    assert run(f'--experiment={name}', '--plan') == 2
    out, err = capsys.readouterr()
    assert out == ''
    (line,) = err.splitlines()
    assert line.startswith(f'launch.py: --experiment={name}: ')
    assert why in line


def test_experiments_of_a_theme_may_have_a_folder(
  write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
  write('theme/__init__', '"""A theme."""')
  write('theme/mine', PLAIN.format('mine', ''))
  write('theme/bad', 'import not_there')
  write('other/__init__', 'import not_there')
  found = library()
  assert 'mine' in found.experiments
  assert {*found.broken} == {'theme/bad', 'other/__init__'}
  assert run('--experiment=bad', '--plan') == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert 'experiments/questions/theme/bad.py is broken: ' in line


@pytest.mark.parametrize('order', [('copy', 'train'), ('train', 'copy')])
def test_a_copy_takes_no_name_from_its_original(
  write: Write, order: tuple[str, str]
) -> None:
  write('copy', PLAIN.format('train', ''))
  found = read(f'experiments.questions.{name}' for name in order)
  assert found.broken == {'copy': "its name 'train' is that of train.py"}
  assert [*found.experiments] == ['train']


def test_a_row_that_is_none_breaks_its_experiment(
  write: Write, capsys: pytest.CaptureFixture[str]
) -> None:
  rows = "rows=(*train.EXPERIMENT.rows, Row('x', {'steps': 'y'}))"
  write(
    'rows',
    'from experiments.experiment import Row\n' + PLAIN.format('rows', rows),
  )
  assert run('--experiment=rows', '--plan') == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert "is broken: --steps=y: must be an integer (in row 'x')" in line
  assert run('--help=steps', '--experiment=rows') == 0
  assert capsys.readouterr().err == ''


# Results that are kept. -------------------------------------------------------

EMPTY: Mapping[str, str] = {}


def result(given: Mapping[str, str] = EMPTY) -> StoredResult:
  """Returns a result of nanoGPT, with these flags typed."""
  own = discover()['nanogpt']
  base = override(own.base, given)
  figures = [TrialMetrics(False, {'val_loss': x}, {}, [], 9.0, 7) for x in LOSS]
  seeds = {str(n): trial for n, trial in enumerate(figures)}
  shuffled = override(base, own.controls[0].changes)
  return StoredResult(
    format=stored.FORMAT,
    experiment='nanogpt',
    command='python launch.py --experiment=nanogpt',
    given=given,
    data={'a text': 'ab' * 32},
    environment={'packages': {'jax': '1'}, 'git': {'commit': 'ab' * 20}},
    rows={BASE: StoredRow(stored.flags_of(base), None, seeds)},
    controls={
      'targets shuffled': StoredRow(stored.flags_of(shuffled), 3.3, {}),
    },
  )


LOSS = 1.90, 1.89, 1.91


def test_a_result_is_read_as_it_was_written(tmp_path: pathlib.Path) -> None:
  path = tmp_path / 'a.json'
  write_json(path, dataclasses.asdict(result()))
  assert dataclasses.asdict(stored.read(path)) == dataclasses.asdict(result())
  text = path.read_text()
  path.write_text(text.replace('1.89', '1.79'))
  with pytest.raises(DamagedFile):
    stored.read(path)
  write_json(path, dataclasses.asdict(result()) | {'format': 0})
  with pytest.raises(DamagedFile, match='is of format 0, not 1'):
    stored.read(path)


def test_the_page_judges_results_anew() -> None:
  there = discover()
  page = digest.page({'nano': result()}, there)
  row = (
    '| nano | base, val loss | 1.88 | 1.9 ± 0.02484 | 3 | 1.8 to 1.92 | {} |'
  )
  assert row.format('reproduced') in page
  assert (
    'control: targets shuffled, val loss: 3.3 expected: **not run**' in page
  )
  assert 'python launch.py --experiment=nanogpt\n' in page
  assert (
    '| multi30k | base, bleu | 41.02 | – | – | at least 40 | not run |' in page
  )
  page = digest.page({'nano': result({'steps': '5'})}, there)
  assert row.format('direction only') in page
  assert 'not the published scale: steps=5 for 2000' in page
  figures = TrialMetrics(False, {'val_loss': 9.0}, {}, [], 9.0, 7)
  for flags, verdict in (({}, 'fail'), ({'steps': '5'}, 'undecided')):
    kept = result(flags)
    own = kept.controls['targets shuffled']
    ran = {'targets shuffled': dataclasses.replace(own, trials={'0': figures})}
    page = digest.page({'nano': dataclasses.replace(kept, controls=ran)}, there)
    assert f'3.3 expected, 9 here, 1 seed: **{verdict}**' in page
  assert '| nanogpt | base, val loss | 1.88 | – |' in digest.page({}, there)


def test_a_result_of_another_configuration_is_stale() -> None:
  there = discover()
  own = there['nanogpt']
  assert stored.stale_reason(result(), there) == ''
  assert stored.stale_reason(result({'steps': '5'}), there) == ''
  later = dataclasses.replace(own, base=override(own.base, {'steps': '7'}))
  now = {**there, 'nanogpt': later}
  why = "row 'base' ran with --steps=2000, not --steps=7"
  assert stored.stale_reason(result(), now) == why
  assert f'| stale: {why} |' in digest.page({'nano': result()}, now)
  # What was typed is the same still.
  assert stored.stale_reason(result({'steps': '5'}), now) == ''
  later = dataclasses.replace(own, base=override(own.base, {'norm': 'rmsnorm'}))
  assert (
    'ran with the default --norm, not --norm=rmsnorm'
    in stored.stale_reason(result(), {'nanogpt': later})
  )
  controls = (
    dataclasses.replace(own.controls[0], changes={'steps': '3'}),
    *own.controls[1:],
  )
  later = dataclasses.replace(own, controls=controls)
  assert 'targets shuffled' in stored.stale_reason(result(), {'nanogpt': later})
  more = dataclasses.replace(own, rows=there['ladder'].rows[:3])
  said = stored.stale_reason(result(), {'nanogpt': more})
  assert said == "row 'qk' is not in it"
  assert stored.stale_reason(result(), {}) == "there is no experiment 'nanogpt'"
  gone = dataclasses.replace(result(), given={'no_flag': '1'})
  assert 'its command is refused: --no_flag=1' in stored.stale_reason(
    gone, there
  )


def test_results_of_this_repository_are_those_of_its_experiments() -> None:
  results, there = digest.read_all(ROOT), discover()
  for name, kept in results.items():
    assert stored.stale_reason(kept, there) == '', name
  page = digest.page(results, there)
  assert (ROOT / digest.PAGE).read_text() == page, 'run: launch.py --digest'


@pytest.mark.parametrize(
  'words',
  [
    ('--result=a/b',),
    ('--result=x', '--smoke'),
    ('--result=x', '--shard=1/2'),
    ('--result=x', '--ablate=norm=rmsnorm'),
    ('--result=x', '--only=base'),
    ('--result=x', '--tune=learning_rate=1e-3 1e-2'),
  ],
)
def test_what_is_no_whole_table_is_not_kept(
  words: tuple[str, ...],
  capsys: pytest.CaptureFixture[str],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.chdir(tmp_path)
  assert run('--experiment=train', *words) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('launch.py: --result=')
  assert not list(tmp_path.iterdir())


# From a run to the page. ------------------------------------------------------

TINY = """
import dataclasses
from experiments.experiment import BASE, Row
from experiments.claims.frequency import frequency_loss
from experiments.claims.published import Control, PublishedValue
from experiments.questions import train
from experiments.claims.rules import Near, Within
from experiments.claims.shape import CurveShape, Drop, Level
from train.flags.schema import override

falls = CurveShape((Level(high=9.0, before=2), Drop(1e-6)))
EXPERIMENT = dataclasses.replace(
  train.EXPERIMENT,
  name='tiny',
  base=override(
    train.EXPERIMENT.base,
    train.EXPERIMENT.smoke
    | {'task.path': 'text.txt', 'learning_rate': '1e-2', 'steps': STEPS},
  ),
  rows=(Row(BASE, {}), Row('slower', {'learning_rate': '1e-3'})),
  seeds=3,
  published=(
    PublishedValue(BASE, 'val_loss', None, 'a paper', falls, seeds=3),
    PublishedValue(BASE, 'val_loss', 9.0, 'another', Within(8.0, 9.0)),
    PublishedValue('slower', 'val_loss', None, 'one more', falls, seeds=9),
    PublishedValue(BASE, 'accuracy', None, 'a last one', falls),
  ),
  controls=(
    Control(
      'shuffled', {'shuffle_targets': 'true'}, 'val_loss', Near(9.0), 'entropy',
      expected=frequency_loss,
    ),
    Control('lower', {'learning_rate': '2e-3'}, 'val_loss',
            Within(9.0, 10.0, minus=BASE), 'none', seeds=2),
  ),
)
"""


@pytest.mark.slow
def test_from_a_run_to_its_verdicts(
  write: Write, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """Controls run beside the rows, whose numbers they leave as they are."""
  write('tiny', TINY.replace('STEPS', "'6'"))
  (tmp_path / 'text.txt').write_text('to be or not to be, that is it. ' * 99)
  words = '--experiment=tiny', '--lanes=shared:1', '--result=kept'
  assert run(*words, '--workdir=new') == 0
  out = capsys.readouterr().out
  names = [record['row'] for record in trials('new')]
  assert {name: names.count(name) for name in names} == {
    BASE: 3,
    'slower': 3,
    'shuffled': 1,
    'lower': 2,
  }
  assert out.startswith('tiny: One configuration, trained (2 rows, 3 seeds, 9 ')
  assert 'A control fails, so no number' in out
  found = json.loads(pathlib.Path('new/table.json').read_text())
  assert [own['verdict'] for own in found['published']] == [
    'reproduced',
    'not reproduced',
    'direction only',
    'not run',
  ]
  assert [own['verdict'] for own in found['controls']] == ['pass', 'fail']
  assert [row['row'] for row in found['rows']] == [BASE, 'slower']
  page = pathlib.Path('new/report.html').read_text()
  assert 'Published values' in page
  assert 'direction only' in page
  # Without them the rows have the same p; nothing is trained again.
  assert run(*words[:2], '--workdir=new', '--controls=false') == 0
  capsys.readouterr()
  alone = json.loads(pathlib.Path('new/table.json').read_text())
  assert 'controls' not in alone
  assert alone['rows'] == found['rows']
  assert len(trials('new')) == 9
  assert run('--digest') == 0
  assert 'warning' not in capsys.readouterr().err
  text = pathlib.Path('RESULTS.md').read_text()
  assert text.count('| kept |') == 4
  assert '| – | 3 | over steps: at most 9 by 2, then falls by 1e-06' in text
  kept = read_json(pathlib.Path('results/kept.json'), StoredResult, '')
  assert len(kept.rows[BASE].trials['0'].series['val_loss']) == 3
  assert kept.rows[BASE].trials['0'].positions == []
  # The experiment changes: its result is no more that of it.
  write('tiny', TINY.replace('STEPS', "'7'"))
  assert run('--digest') == 0
  assert 'results/kept.json is stale: row' in capsys.readouterr().err
  assert '| stale: row' in pathlib.Path('RESULTS.md').read_text()


@pytest.mark.parametrize(
  ('words', 'controls'),
  [
    ((), ['targets shuffled', 'sees one character']),
    (('--controls=false',), []),
    (('--only=base',), []),
    (('--ablate=norm=rmsnorm',), []),
    (('--tune=learning_rate=1e-3 1e-2',), []),
    (('--batch_size=1',), ['sees one character']),
  ],
)
def test_which_controls_are_planned(
  words: tuple[str, ...],
  controls: list[str],
  capsys: pytest.CaptureFixture[str],
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'text.txt').write_text('to be or not to be, that is it. ' * 99)
  data = '--task.corpus=none', '--task.path=text.txt'
  assert run('--experiment=nanogpt', *data, *words, '--plan') == 0
  out = capsys.readouterr().out
  rows = [line.split('  ')[0] for line in out.splitlines()]
  names = 'targets shuffled', 'sees one character'
  assert [row for row in rows if row in names] == controls
  if '--batch_size=1' in words:
    assert "left out, conflicts with the given flags: row 'targets shu" in out


def test_a_field_of_a_control_is_a_flag() -> None:
  with pytest.raises(FieldError, match='must be one of true'):
    override(discover()['nanogpt'].base, {'shuffle_targets': 'x'})
