"""Command lines that are right: replays, and every experiment in short."""

import json
from pathlib import Path

import pytest

from experiments.questions.discover import discover
from helpers.command_lines import TINY, numbers, shell
from helpers.commands import captions, run, trials
from train.flags.schema import to_flags

pytestmark = pytest.mark.usefixtures('quick_compilation')


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
LONG = ('ladder', 'multi30k', 'projections', 'translation')


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
  monkeypatch.setattr('train.data.tables.multi30k.fetch_text', captions)
  if 'shakespeare' in to_flags(experiment.base).values():
    request.getfixturevalue('shakespeare')
  # Layouts are timed by others; here it would compile each program three times.
  argv = [f'--experiment={name}', '--smoke', '--seeds=1', '--lanes=shared:1']
  folder = here / 'new'
  if experiment.blocks:  # all of an experiment: test_blocks
    experiment = experiment.parts[0]
    argv.append(f'--block={experiment.block}')
    folder /= str(experiment.block)
  assert run(*argv, '--workdir=new') == 0
  out, err = capsys.readouterr()
  assert err == ''
  names = [row.name for row in experiment.rows]
  names += [control.row for control in experiment.controls]
  assert sorted(record['row'] for record in trials(folder)) == sorted(names)
  assert all(record['status'] == 'ok' for record in trials(folder))
  for name in names:
    assert name in out
  assert (folder / 'report.html').stat().st_size


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
