"""A repeated command of another version: it asks, and loses nothing."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.results import other_code
from helpers.commands import run, trials
from helpers.processes import ROOT, TINY, write_text
from model.layers.norm import RmsNorm
from train.code import project
from train.code.project import Project, files
from train.files.durable import read_json, write_json, write_lines
from train.files.records import OWNER, SPARE
from train.files.version import TRIAL, WORKDIR
from train.inference.load import load

pytestmark = pytest.mark.usefixtures('quick_compilation')

RUN = {**TINY, 'steps': '4', 'eval_every': '2', 'warmup_steps': '1'}
RUN['num_layers'] = '1'


@pytest.fixture(scope='module')
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
  """A command of two rows, one of which has RmsNorm."""
  text = write_text(tmp_path_factory.mktemp('text'))
  return [
    *(f'--{name}={value}' for name, value in RUN.items()),
    f'--task.path={text}',
    '--experiment=train',
    '--ablate=norm=rmsnorm',
    '--seeds=1',
    '--lanes=shared:1',
  ]


@pytest.fixture(scope='module')
def trained(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
  """What the command leaves; do not change."""
  workdir = tmp_path_factory.mktemp('trained') / 'run'
  assert run(*words, f'--workdir={workdir}') == 0
  return workdir


@pytest.fixture
def workdir(trained: Path, tmp_path: Path) -> Path:
  """The same, to be changed."""
  return Path(shutil.copytree(trained, tmp_path / 'run'))


@pytest.fixture
def edited(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
  """The sources as they are read, with another RmsNorm."""
  texts = files(ROOT)
  before = 'jax.lax.rsqrt(square_BT1 + self.eps)'
  assert before in texts['model/layers/norm.py']
  texts['model/layers/norm.py'] = texts['model/layers/norm.py'].replace(
    before, 'square_BT1'
  )
  monkeypatch.setattr(project, 'files', lambda root: texts)
  project.current_project.cache_clear()
  yield
  project.current_project.cache_clear()


def _bytes(folder: Path) -> dict[str, bytes]:
  return {str(p): p.read_bytes() for p in folder.rglob('*') if p.is_file()}


def _row(workdir: Path, name: str) -> dict[str, object]:
  table = json.loads((workdir / 'table.json').read_text())
  (found,) = [row for row in table['rows'] if row['row'] == name]
  return found


@pytest.mark.slow
def test_a_repeat_says_what_was_done_before(
  words: list[str], workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  # Nothing is parsed where no file has changed.
  monkeypatch.setattr(Project, '_definition', lambda *_: 1 / 0)
  project.current_project.cache_clear()
  assert run(*words, f'--workdir={workdir}') == 0
  assert len(trials(workdir)) == 2
  assert all(not row['note'] for row in _rows(workdir))


def _rows(workdir: Path) -> list[dict[str, object]]:
  return json.loads((workdir / 'table.json').read_text())['rows']


@pytest.mark.slow
@pytest.mark.usefixtures('edited')
def test_a_repeat_with_other_code_asks_and_changes_nothing(
  words: list[str], workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  before = _bytes(workdir)
  assert run(*words, f'--workdir={workdir}') == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert '1 trial is from other code: --rerun or --keep' in line
  assert '(other: RmsNorm;' in line
  assert _bytes(workdir) == before


@pytest.mark.slow
@pytest.mark.usefixtures('edited')
def test_keep_takes_them_and_marks_the_table(
  words: list[str], workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  before = trials(workdir)
  assert run(*words, f'--workdir={workdir}', '--keep') == 0
  mark = '1 from other code: seed 0'
  out = ' '.join(capsys.readouterr().out.split())
  assert mark in out
  assert trials(workdir) == before
  assert _row(workdir, 'norm=rmsnorm')['note'] == mark
  assert not _row(workdir, 'base')['note']
  for name in ('table.md', 'table.tex', 'table.csv', 'report.html'):
    assert 'from other code' in (workdir / name).read_text()
  assert '--keep=' not in (workdir / 'flags.txt').read_text()


@pytest.mark.usefixtures('edited')
def test_rerun_trains_them_anew_and_loses_nothing(
  words: list[str], workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  before = trials(workdir)
  (old,) = [r for r in before if r['row'] == 'norm=rmsnorm']
  folder = workdir / 'runs' / old['trial']
  inside = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()}
  assert run(*words, f'--workdir={workdir}', '--rerun') == 0
  after = trials(workdir)
  assert after[: len(before)] == before
  assert [r['status'] for r in after[len(before) :]] == ['failed', 'ok']
  assert after[-1]['trial'] == old['trial']
  assert after[-1]['code']['digest'] != old['code']['digest']
  aside = workdir / 'replaced' / f'{old["trial"]}-0'
  kept = {p.name: p.read_bytes() for p in aside.iterdir() if p.is_file()}
  assert kept == inside
  # From here on all is of the code that is here.
  assert run(*words, f'--workdir={workdir}') == 0
  nothing = '--rerun: no trial is from other code: nothing to do'
  assert nothing not in capsys.readouterr().out
  assert run(*words, f'--workdir={workdir}', '--rerun') == 0
  assert nothing in capsys.readouterr().out
  assert trials(workdir) == after
  assert not _row(workdir, 'norm=rmsnorm')['note']


@pytest.mark.slow
@pytest.mark.usefixtures('edited')
def test_an_interrupted_rerun_is_asked_about_again(
  words: list[str], workdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  def killed(folder: Path) -> None:
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(other_code, 'set_aside', killed)
    assert run(*words, f'--workdir={workdir}', '--rerun') == 130
  assert trials(workdir)[-1]['status'] == 'failed'
  assert run(*words, f'--workdir={workdir}') == 2
  assert run(*words, f'--workdir={workdir}', '--rerun') == 0
  assert len(list((workdir / 'replaced').iterdir())) == 1


@pytest.mark.slow
@pytest.mark.usefixtures('edited')
def test_going_on_from_a_checkpoint_of_other_code_is_asked_and_marked(
  words: list[str], workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  (workdir / 'trials.jsonl').unlink()  # begun, and not on the record
  assert run(*words, f'--workdir={workdir}') == 2
  assert '1 trial is from other code' in capsys.readouterr().err
  assert run(*words, f'--workdir={workdir}', '--keep') == 0
  codes = {r['row']: r['code']['digest'] for r in trials(workdir)}
  assert ['+' in codes[row] for row in ('base', 'norm=rmsnorm')] == [0, 1]
  assert _row(workdir, 'norm=rmsnorm')['note'] == '1 from other code: seed 0'
  assert run(*words, f'--workdir={workdir}') == 2


def test_what_was_recorded_without_code_is_kept_and_said(
  words: list[str], workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  lines = trials(workdir)
  for line in lines:
    del line['code']
  text = ''.join(json.dumps(line) + '\n' for line in lines)
  (workdir / 'trials.jsonl').write_text(text)
  assert run(*words, f'--workdir={workdir}') == 0
  said = '2 trials are from unknown code, from before it was recorded: kept'
  assert capsys.readouterr().out.count(said) == 1
  assert all(not row['note'] for row in _rows(workdir))
  # Beside one that is known, it is marked.
  lines[0]['code'] = trials(workdir)[0].get('code')
  (workdir / 'trials.jsonl').write_text(text.splitlines()[0] + '\n')
  assert run(*words, f'--workdir={workdir}') == 0
  assert [row['note'] for row in _rows(workdir)] == [
    '1 from unknown code: seed 0',
    '',
  ]


# Flags of another version, and other formats. ---------------------------------


def rewrite(
  workdir: Path, change: Callable[[dict[str, Any]], object], only: str = ''
) -> None:
  """Changes what files of a directory say, as another version would have.

  Args:
    workdir: the directory.
    change: of what a file says, or a line.
    only: the row whose record and folder it is; none is the base of all.
  """
  lines = trials(workdir)
  names = [line['trial'] for line in lines if line['row'] == only]
  paths = [workdir / 'runs' / name / 'config.json' for name in names]
  for path in paths or [workdir / OWNER, workdir / SPARE]:
    value = read_json(path, dict[str, Any], '')
    change(value)
    write_json(path, value)
  for line in lines:
    if line['row'] == only:
      change(line)
  write_lines(workdir / 'trials.jsonl', lines)


def of_row(change: Callable[[dict[str, str]], object]) -> Any:
  """Returns a change of the flags of a trial, in its record and its folder."""
  return lambda value: change(value.get('config') or value['flags'])


def test_a_flag_that_was_not_there_yet_is_at_its_default(
  words: list[str], workdir: Path
) -> None:
  rewrite(workdir, lambda about: about['base'].pop('clip'))
  rewrite(workdir, of_row(lambda flags: flags.pop('norm.eps')), 'norm=rmsnorm')
  before = trials(workdir)
  assert run(*words, f'--workdir={workdir}') == 0
  assert trials(workdir) == before
  assert len([*(workdir / 'comparisons').glob('norm-rmsnorm-*')]) == 1
  assert load(workdir, 'norm=rmsnorm').config.architecture.norm == RmsNorm()


MOVED = {'norm.eps': '0.5'}


@pytest.mark.parametrize(
  ('change', 'said'),
  [
    (lambda flags: flags.update(MOVED), 'with --norm.eps=0.5, not 1e-06'),
    (
      lambda flags: flags.update({'norm.old': '1'}),
      'with --norm.old=1, which has no meaning here',
    ),
  ],
  ids=['moved', 'gone'],
)
def test_a_trial_of_other_defaults_is_refused(
  change: Callable[[dict[str, str]], object],
  said: str,
  words: list[str],
  workdir: Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  rewrite(workdir, of_row(change), 'norm=rmsnorm')
  (name,) = [x['trial'] for x in trials(workdir) if x['row'] != 'base']
  before = _bytes(workdir)
  for more in ((), ('--keep',)):
    assert run(*words, f'--workdir={workdir}', *more) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'launch.py: --workdir={workdir}: the defaults of')
    assert f'({name} {said}): --rerun trains again' in line
  (workdir / 'trials.jsonl').unlink()  # begun, and not on the record
  assert run(*words, f'--workdir={workdir}', '--keep') == 2
  assert said in capsys.readouterr().err
  new = workdir.parent / 'new'
  (workdir / 'trials.jsonl').write_bytes(before[f'{workdir}/trials.jsonl'])
  more = [f'--workdir={new}', f'--merge={workdir}']
  assert run(*words, *more, '--keep') == 2
  assert f'{said}): --rerun where they were' in capsys.readouterr().err
  assert _bytes(workdir) == before
  assert not new.exists()


@pytest.mark.slow
def test_a_trial_of_other_defaults_is_trained_anew(
  words: list[str], workdir: Path
) -> None:
  rewrite(workdir, of_row(lambda flags: flags.update(MOVED)), 'norm=rmsnorm')
  before = trials(workdir)
  assert run(*words, f'--workdir={workdir}', '--rerun') == 0
  after = trials(workdir)
  assert after[: len(before)] == before
  assert [r['status'] for r in after[len(before) :]] == ['failed', 'ok']
  assert after[-1]['config']['norm.eps'] == '1e-06'
  assert run(*words, f'--workdir={workdir}') == 0
  assert trials(workdir) == after


def test_a_base_of_other_defaults_is_refused(
  words: list[str], workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  rewrite(workdir, lambda about: about['base'].update(clip='0.5'))
  before = _bytes(workdir)
  assert run(*words, f'--workdir={workdir}') == 2
  said = 'was begun with --clip=0.5, not 1.0: give another --workdir'
  assert said in capsys.readouterr().err
  rewrite(workdir, lambda about: about['base'].pop('clip'))
  assert run(*words, f'--workdir={workdir}', '--clip=0.5') == 2
  assert 'was begun without --clip=0.5: ' in capsys.readouterr().err
  assert _bytes(workdir).keys() == before.keys()


@pytest.mark.parametrize('number', [None, WORKDIR.newest + 1])
def test_a_directory_of_another_format_is_refused_and_left(
  number: int | None,
  words: list[str],
  workdir: Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  def change(about: dict[str, Any]) -> None:
    about.pop('format')
    if number is not None:
      about.update(format=number, later='no field of today')

  rewrite(workdir, change)
  before = _bytes(workdir)
  new = workdir.parent / 'new'
  says = f'is of format {number or 1}, and this version reads '
  for more, where in {
    (f'--workdir={workdir}',): f'--workdir={workdir}',
    (f'--workdir={new}', f'--merge={workdir}'): f'--merge={workdir}',
  }.items():
    assert run(*words, *more) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'launch.py: {where}: {says}')
    assert str(WORKDIR.newest) in line
  assert _bytes(workdir) == before
  assert not new.exists()
  if number is None:  # what the trials are has not changed
    assert load(workdir, 'base').step == 4


@pytest.mark.parametrize('number', [None, TRIAL.newest + 1])
def test_a_trial_of_an_older_format_is_read_and_a_newer_one_refused(
  number: int | None,
  words: list[str],
  workdir: Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  def change(about: dict[str, Any]) -> None:
    if about.pop('format', None) and number is not None:
      about.update(format=number, later='no field of today')

  rewrite(workdir, change, 'norm=rmsnorm')
  before = _bytes(workdir)
  begun = load(workdir, 'base')
  assert begun.step == 4
  if number is None:
    assert load(workdir, 'norm=rmsnorm').step == 4
    assert run(*words, f'--workdir={workdir}') == 0
    return
  for argv in (
    (*words, f'--workdir={workdir}'),
    (*words, f'--workdir={workdir}-new', f'--merge={workdir}'),
    (f'--generate={workdir}:norm=rmsnorm',),
    (f'--evaluate={workdir}:norm=rmsnorm',),
    (*words, f'--init_from={workdir}:norm=rmsnorm', '--plan'),
  ):
    assert run(*argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f'config.json: is of format {number}, and this version' in line
  assert _bytes(workdir) == before


LATER = "  later: int = field(7, 'Added.', min=1)\n"
ADDED = {  # the line before which each class gets a flag
  'train/config/config.py': '  seq_len: int = field(64,',
  'train/optim/adamw.py': '  b1: float = field(',
  'train/tasks/texts/text.py': '  ends: bool | None = field(',
  'model/layers/norm.py': '  eps: float = field(1e-6,',
}


def copied(folder: Path, edits: dict[str, tuple[str, str]]) -> Path:
  """Returns a copy of the program with some lines replaced."""
  for name in ('model', 'train', 'experiments', 'launch.py'):
    of = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
    of(ROOT / name, folder / name)
  for path, (before, after) in edits.items():
    text = (folder / path).read_text()
    assert before in text
    (folder / path).write_text(text.replace(before, after, 1))
  return folder / 'launch.py'


@pytest.mark.slow
def test_a_version_with_more_flags_finds_what_was_there(
  words: list[str], trained: Path, tmp_path: Path
) -> None:
  """Under the same names; one with another default refuses it.

  And so does this version, of which a flag that was added means nothing.
  """

  def launched(*argv: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *argv]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)

  done = launched(str(ROOT / 'launch.py'), *words, '--plan')
  (name,) = re.findall(r'(?m)^workdir: (runs/train-\w+)$', done.stdout)
  workdir = Path(shutil.copytree(trained, tmp_path / name))
  before, homes = trials(workdir), [*(workdir / 'comparisons').iterdir()]
  moved = {
    'model/layers/norm.py': (
      'eps: float = field(1e-6,',
      'eps: float = field(1e-5,',
    )
  }
  done = launched(str(copied(tmp_path / 'moved', moved)), *words, '--keep')
  assert done.returncode == 2
  assert 'with --norm.eps=1e-06, not 1e-05' in done.stderr
  assert trials(workdir) == before
  more = {path: (line, LATER + line) for path, line in ADDED.items()}
  done = launched(str(copied(tmp_path / 'more', more)), *words, '--keep')
  assert (done.returncode, done.stdout.count('done before')) == (0, 2)
  assert [*tmp_path.glob('runs/*')] == [workdir]
  assert trials(workdir) == before
  assert [p for p in (workdir / 'comparisons').iterdir() if p.is_dir()] == [
    p for p in homes if p.is_dir()
  ]
  done = launched(str(ROOT / 'launch.py'), *words)
  assert (done.returncode, trials(workdir)) == (2, before)
  assert 'with --later=7, which has no meaning here' in done.stderr


@pytest.mark.slow
@pytest.mark.usefixtures('edited')
def test_what_is_merged_is_asked_about_too(
  words: list[str],
  workdir: Path,
  tmp_path: Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  new = tmp_path / 'new'
  more = [f'--workdir={new}', f'--merge={workdir}']
  assert run(*words, *more) == 2
  assert '1 trial is from other code: --keep' in capsys.readouterr().err
  assert not new.exists()
  assert run(*words, *more, '--keep') == 0
  assert _row(new, 'norm=rmsnorm')['note'] == '1 from other code: seed 0'
  assert run(*words, *more, '--rerun') == 2
  assert run(*words, f'--workdir={new}', '--rerun', '--keep') == 2


@pytest.mark.slow
@pytest.mark.usefixtures('edited')
def test_whoever_takes_a_trial_of_other_code_is_warned(
  words: list[str], workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  warning = 'was trained by other code than is here: RmsNorm'
  assert run(f'--evaluate={workdir}:norm=rmsnorm') == 0
  assert warning in capsys.readouterr().err
  assert run(f'--generate={workdir}:norm=rmsnorm', '--new_tokens=2') == 0
  assert warning in capsys.readouterr().err
  assert run(f'--evaluate={workdir}:base') == 0
  assert warning not in capsys.readouterr().err
  init = [f'--init_from={workdir}:norm=rmsnorm', '--norm=rmsnorm', '--plan']
  rest = [word for word in words if not word.startswith('--ablate')]
  assert run(*rest, *init) == 0
  assert warning in capsys.readouterr().err
