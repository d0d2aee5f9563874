"""A repeated command whose code was edited: it asks, and loses nothing."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from commands import run, trials
from experiments import other_code
from processes import ROOT, TINY, write_text
from train import project
from train.project import Project, files

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
  assert before in texts['model/norm.py']
  texts['model/norm.py'] = texts['model/norm.py'].replace(before, 'square_BT1')
  monkeypatch.setattr(project, 'files', lambda root: texts)
  project.current.cache_clear()
  yield
  project.current.cache_clear()


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
  project.current.cache_clear()
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
  assert '1 trial is of other code: --rerun or --keep' in line
  assert '(other: RmsNorm;' in line
  assert _bytes(workdir) == before


@pytest.mark.usefixtures('edited')
def test_keep_takes_them_and_marks_the_table(
  words: list[str], workdir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  before = trials(workdir)
  assert run(*words, f'--workdir={workdir}', '--keep') == 0
  mark = '1 of other code: seed 0'
  out = ' '.join(capsys.readouterr().out.split())
  assert mark in out
  assert trials(workdir) == before
  assert _row(workdir, 'norm=rmsnorm')['note'] == mark
  assert not _row(workdir, 'base')['note']
  for name in ('table.md', 'table.tex', 'table.csv', 'report.html'):
    assert 'of other code' in (workdir / name).read_text()
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
  nothing = '--rerun: no trial is of other code: none is trained anew'
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
  assert '1 trial is of other code' in capsys.readouterr().err
  assert run(*words, f'--workdir={workdir}', '--keep') == 0
  codes = {r['row']: r['code']['digest'] for r in trials(workdir)}
  assert ['+' in codes[row] for row in ('base', 'norm=rmsnorm')] == [0, 1]
  assert _row(workdir, 'norm=rmsnorm')['note'] == '1 of other code: seed 0'
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
  said = '2 trials are of unknown code, from before it was recorded: kept'
  assert capsys.readouterr().out.count(said) == 1
  assert all(not row['note'] for row in _rows(workdir))
  # Beside one that is known, it is marked.
  lines[0]['code'] = trials(workdir)[0].get('code')
  (workdir / 'trials.jsonl').write_text(text.splitlines()[0] + '\n')
  assert run(*words, f'--workdir={workdir}') == 0
  assert [row['note'] for row in _rows(workdir)] == [
    '1 of unknown code: seed 0',
    '',
  ]


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
  assert '1 trial is of other code: --keep' in capsys.readouterr().err
  assert not new.exists()
  assert run(*words, *more, '--keep') == 0
  assert _row(new, 'norm=rmsnorm')['note'] == '1 of other code: seed 0'
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
