"""--shard and --merge: parts on several machines are one table in the end."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from experiments.record.ledger import Ledger, lock_workdir
from experiments.shards import Shard
from helpers.commands import run, trials
from helpers.processes import (
  ROW,
  Outcome,
  assert_same,
  outcome,
  sizes,
  words,
  write_text,
)
from train.files.durable import read_intact_lines, write_json

pytestmark = pytest.mark.usefixtures('quick_compilation')

RUN = ('--seeds=3', '--lanes=shared:1')


@pytest.fixture(scope='module')
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A text of about 3 kB."""
  return write_text(tmp_path_factory.mktemp('text'))


@pytest.fixture(scope='module')
def expected(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
  """What one machine comes to."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  assert run(*words(text, *RUN, f'--workdir={workdir}')) == 0
  found = outcome(workdir)
  assert len(found.trials) == 6
  return found


@pytest.fixture(scope='module')
def done(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A folder with the working directories of two shards; do not change."""
  folder = tmp_path_factory.mktemp('shards')
  for n in (1, 2):
    more = (f'--shard={n}/2', f'--workdir={folder / str(n)}')
    assert run(*words(text, *RUN, *more)) == 0
  return folder


@pytest.fixture
def parts(done: Path, tmp_path: Path) -> list[Path]:
  """The working directories of two shards."""
  return [
    Path(shutil.copytree(done / name, tmp_path / name)) for name in ('1', '2')
  ]


def merging(text: Path, parts: Sequence[Path], workdir: Path) -> list[str]:
  """Returns the arguments that merge these directories."""
  names = ' '.join(f"'{part}'" for part in parts)
  return words(text, *RUN, f'--merge={names}', f'--workdir={workdir}')


def rewrite(workdir: Path, records: Sequence[dict[str, Any]]) -> None:
  """Replaces the record of a working directory."""
  lines = [json.dumps(record) + '\n' for record in records]
  (workdir / 'trials.jsonl').write_text(''.join(lines))


# Parts. -----------------------------------------------------------------------


@pytest.mark.parametrize('count', [1, 2, 3, 5])
def test_parts_are_disjoint_complete_and_even(count: int) -> None:
  every = [Shard(n + 1, count) for n in range(count)]
  for row in ('base', 'position=none', 'd_model=64 num_heads=2', 'ünï'):
    held = [
      [shard.index for shard in every if shard.has(row, seed)]
      for seed in range(7, 7 + 3 * count)
    ]
    assert all(len(own) == 1 for own in held)
    assert all(held.count([shard.index]) == 3 for shard in every)


def test_rows_begin_with_different_parts() -> None:
  """Or some machines had all that is left when seeds do not divide evenly."""
  first = {Shard(1, 3).has(f'row {n}', 0) for n in range(20)}
  assert first == {True, False}


@pytest.mark.slow
def test_a_part_runs_its_trials_and_says_what_is_not_here(
  done: Path, expected: Outcome, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  records = [trials(done / name) for name in ('1', '2')]
  assert sorted(r['trial'] for own in records for r in own) == sorted(
    expected.trials
  )
  for name, own in zip(('1', '2'), records, strict=True):
    assert 0 < len(own) < 6
    here = {(r['row'], r['seed']) for r in own}
    table = json.loads((done / name / 'table.json').read_text())
    (row,) = [row for row in table['rows'] if row['row'] == ROW]
    assert row['verdict'] == 'undecided'
    lost = [str(seed) for seed in range(3) if ('base', seed) not in here]
    assert row['reason'] == f'in the base, not here: seed {", ".join(lost)}'
    # The same part again trains nothing.
    before = (done / name / 'trials.jsonl').read_bytes()
    more = (f'--shard={name}/2', f'--workdir={done / name}')
    assert run(*words(text, *RUN, *more)) == 0
    assert (done / name / 'trials.jsonl').read_bytes() == before
    out = capsys.readouterr().out
    assert f'{len(own)} trials in shard {name}/2' in out
    assert f'not here: {6 - len(own)} of 6 trials (--merge joins them)' in out
    report = (done / name / 'report.html').read_text()
    assert f'--shard=none --only={ROW}' in report


@pytest.mark.slow
def test_parts_have_working_directories_of_their_own(
  text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """On a disk that machines share, none may take another's."""
  monkeypatch.chdir(tmp_path)
  argv = words(text, '--seeds=1', '--plan')
  for more in ((), ('--shard=1/2',), ('--shard=2/2',)):
    assert run(*argv, *more) == 0
  for shard in ('1/2', '2/2'):
    run(*words(text, '--seeds=1', f'--shard={shard}'))
  names = sorted(p.name for p in (tmp_path / 'runs').iterdir())
  assert [name.rpartition('-')[2] for name in names] == ['1of2', '2of2']


# Merging. ---------------------------------------------------------------------


@pytest.mark.slow
def test_two_parts_merged_are_one_run(
  text: Path,
  expected: Outcome,
  parts: list[Path],
  tmp_path: Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  workdir = tmp_path / 'all'
  before = [sizes(part, '**/*') for part in parts]
  assert run(*merging(text, parts, workdir)) == 0
  assert [sizes(part, '**/*') for part in parts] == before
  assert_same(workdir, expected)
  out, err = capsys.readouterr()
  assert err == ''
  assert 'not here' not in out
  for part in parts:
    own = trials(part)
    assert f'merged {len(own)} of {len(own)} trials from {part}' in out
    known = json.loads((workdir / 'merged.json').read_text())
    environment = json.loads((part / 'environment.json').read_text())
    del environment['sum']  # one of all of merged.json is there
    assert known[str(part)] == environment
    for record in own:
      folders = [d / 'runs' / record['trial'] for d in (part, workdir)]
      files = [
        {p.relative_to(f): p.read_bytes() for p in f.rglob('*') if p.is_file()}
        for f in folders
      ]
      assert files[0] == files[1]
      assert Path('metrics.jsonl') in files[0]
  layouts = [(d / 'layout.json').read_text() for d in (parts[0], workdir)]
  assert layouts[0] == layouts[1]
  assert '--merge=none --only=' in (workdir / 'report.html').read_text()
  assert '--merge' not in (workdir / 'flags.txt').read_text()

  # Again, and in the other order: nothing is added.
  before = [sizes(workdir / 'runs', '**/*'), sizes(workdir, 'trials.jsonl')]
  assert run(*merging(text, parts[::-1], workdir)) == 0
  after = [sizes(workdir / 'runs', '**/*'), sizes(workdir, 'trials.jsonl')]
  assert after == before
  assert run(*words(text, *RUN, f'--workdir={workdir}')) == 0
  assert_same(workdir, expected)


@pytest.mark.slow
def test_what_no_part_has_is_said_and_trained_later(
  text: Path,
  expected: Outcome,
  parts: list[Path],
  tmp_path: Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  """Also what a part has begun: a folder without a record goes on."""
  workdir = tmp_path / 'all'
  first = trials(parts[0])
  rewrite(parts[0], first[1:])
  assert run(*merging(text, parts[:1], workdir)) == 1
  left = 7 - len(first)
  out = capsys.readouterr().out
  assert f'not here: {left} of 6 trials (the command without' in out
  assert (workdir / 'runs' / first[0]['trial'] / 'checkpoints').is_dir()
  assert run(*words(text, *RUN, f'--workdir={workdir}')) == 0
  assert_same(workdir, expected)
  # It went on from its end: its clock shows all that was spent elsewhere.
  (again,) = [r for r in trials(workdir) if r['trial'] == first[0]['trial']]
  assert again['clock']['train_seconds'] >= first[0]['clock']['train_seconds']


@pytest.mark.slow
def test_a_trial_with_two_ends_is_refused(
  text: Path,
  parts: list[Path],
  tmp_path: Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (record, *_) = trials(parts[0])
  other = {**record, 'digest': 'f' * 64}
  rewrite(parts[1], [*trials(parts[1]), other])
  workdir = tmp_path / 'all'
  assert run(*merging(text, parts, workdir)) == 2
  (line,) = capsys.readouterr().err.splitlines()
  name = f'trial {record["trial"]} (row {record["row"]!r}, seed'
  assert f'--merge={parts[1]}: {name} {record["seed"]}) ended' in line
  assert str(parts[0]) in line
  assert not workdir.exists()

  # Or one of them is what is here already.
  assert run(*merging(text, parts[:1], workdir)) == 1
  capsys.readouterr()
  before = (workdir / 'trials.jsonl').read_bytes()
  assert run(*merging(text, parts[1:], workdir)) == 2
  assert name in capsys.readouterr().err
  assert (workdir / 'trials.jsonl').read_bytes() == before


@pytest.mark.slow
def test_what_ended_replaces_what_failed(
  text: Path, expected: Outcome, parts: list[Path], tmp_path: Path
) -> None:
  """And not the other way; what lay here is kept."""
  (good, *others) = trials(parts[0])
  bad = {k: good[k] for k in ('row', 'trial', 'seed', 'config')}
  bad |= {'status': 'failed', 'error': 'out of luck'}
  broken = Path(shutil.copytree(parts[0], tmp_path / 'broken'))
  rewrite(broken, [bad, *others])
  (broken / 'runs' / good['trial'] / 'mark').write_text('of the failure')
  workdir = tmp_path / 'all'
  assert run(*merging(text, [broken], workdir)) == 1
  assert run(*merging(text, parts, workdir)) == 0
  assert run(*merging(text, [broken], workdir)) == 0
  kept = workdir / 'replaced' / f'{good["trial"]}-0/mark'
  assert kept.read_text() == 'of the failure'
  assert not (workdir / 'runs' / good['trial'] / 'mark').exists()
  assert [
    r['status'] for r in trials(workdir) if r['trial'] == good['trial']
  ] == [
    'failed',
    'ok',
  ]
  rewrite(workdir, [r for r in trials(workdir) if r['status'] == 'ok'])
  assert_same(workdir, expected)


@pytest.mark.slow
def test_a_merge_that_ends_halfway_can_be_repeated(
  text: Path,
  expected: Outcome,
  parts: list[Path],
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  real, added = Ledger.append, list[str]()

  def append(self: Ledger, record: dict[str, Any]) -> None:
    if len(added) == 1:
      raise OSError(28, 'No space left on device')
    added.append(record['trial'])
    real(self, record)

  workdir = tmp_path / 'all'
  monkeypatch.setattr(Ledger, 'append', append)
  assert run(*merging(text, parts, workdir)) == 1
  assert 'make room' in capsys.readouterr().err
  # And one that was killed while it copied.
  (workdir / 'runs' / f'.{trials(parts[1])[0]["trial"]}.tmp').mkdir()
  monkeypatch.undo()
  assert len(read_intact_lines(workdir / 'trials.jsonl')) == 1
  assert run(*merging(text, parts, workdir)) == 0
  assert_same(workdir, expected)
  assert not list((workdir / 'runs').glob('.*'))


def test_only_parts_of_the_same_run_are_merged(
  text: Path,
  parts: list[Path],
  tmp_path: Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (tmp_path / 'thesis').mkdir()
  (tmp_path / 'thesis/thesis.tex').write_text('precious')
  config = json.loads((parts[1] / 'config.json').read_text())
  del config['sum']
  config['base']['learning_rate'] = '0.5'
  write_json(parts[1] / 'config.json', config)
  workdir = tmp_path / 'all'
  for part, why in (
    (parts[1], 'was begun with --learning_rate=0.5'),
    (tmp_path / 'thesis', 'is no working directory'),
    (tmp_path / 'absent', 'is no working directory'),
    (workdir, 'is no working directory'),
  ):
    assert run(*merging(text, [parts[0], part], workdir)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'launch.py: --merge={part}: {why}')
    assert not workdir.exists()
  with lock_workdir(parts[0]):
    assert run(*merging(text, parts[:1], workdir)) == 2
    assert 'works there: wait for it' in capsys.readouterr().err
    assert not workdir.exists()
  assert run(*merging(text, parts[:1], parts[0])) == 2
  assert 'is what it would be merged into' in capsys.readouterr().err


def test_different_layouts_are_warned_of(
  text: Path,
  parts: list[Path],
  tmp_path: Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  (parts[1] / 'layout.json').write_text('{"lanes": "vmap:4"}')
  assert run(*merging(text, parts, tmp_path / 'all')) == 0
  (line,) = capsys.readouterr().err.splitlines()
  assert 'several layouts' in line
  assert 'shared:1, vmap:4' in line
