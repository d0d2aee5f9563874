"""A file that is not as it was written is named, and never believed."""

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.record.ledger import Ledger, lock_workdir
from experiments.report.damage import damage as problem
from faults import damage
from faults.damage import RECORD
from helpers.processes import write_text
from train.attention_maps import read_maps
from train.files.durable import (
  append_lines,
  read_intact_lines,
  read_json,
  remove_temporaries,
  write_atomically,
  write_json,
  write_lines,
)
from train.files.records import TrialEnd, TrialRecord, read_metrics, read_trials
from train.files.strict import DamagedFile, check_type, parse_json
from train.inference.load import load
from train.text.vocabulary import ByteVocabulary

pytestmark = pytest.mark.usefixtures('quick_compilation')

# What Orbax leaves behind when a restore fails is found by the collector.
QUIET = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)


# JSON. ------------------------------------------------------------------------


@pytest.mark.parametrize(
  ('text', 'why'),
  [
    ('[' * 300_000 + ']' * 300_000, 'nested too deep'),
    ('{"a": ' * 300_000 + '1' + '}' * 300_000, 'nested too deep'),
    ('{"a": 1, "a": 2}', 'a key twice'),
    ('{"a": NaN}', 'NaN, which is no number'),
    ('[-Infinity]', 'no number'),
    ('1e999', 'too large'),
    ('9' * 30, 'too large'),
    ('9' * 9999, 'too large'),
    ('{"a"', 'is not JSON'),
    (b'"\xff"', 'not UTF-8'),
  ],
  ids=range(10),
)
def test_json_that_is_not_ours_is_refused(text: str | bytes, why: str) -> None:
  with pytest.raises(ValueError, match=why) as found:
    parse_json(text)
  assert len(str(found.value).splitlines()) == 1
  assert len(str(found.value)) < 100


def test_json_of_ours_is_read() -> None:
  value = {'a': [1, 2.5, None, True, 'x'], 'b': {'c': -3}}
  assert parse_json(json.dumps(value)) == value


BAD_RECORDS: dict[str, tuple[dict[str, Any], str]] = {
  'no digest': ({'digest': None}, 'digest is not a sha256'),
  'another folder': ({'trial': '../../OTHER'}, 'trial is not the id of one'),
  'text for a number': ({'seed': '0'}, "'seed' cannot be text"),
  'null for a number': ({'steps': None}, 'lacks steps'),
  'text in the figures': ({'metrics': {'val_loss': 'x'}}, "'metrics'"),
  'true for a number': ({'tokens': True}, "'tokens' cannot be true"),
  'a float for a count': ({'steps': 6.5}, "'steps' cannot be this number"),
  'a list': ({'config': []}, "'config' cannot be a list"),
  'an unknown status': ({'status': 'okay'}, "'status'"),
  'an unknown field': ({'sul': 'x'}, "an unknown field 'sul'"),
  'a failure without reason': ({'status': 'failed'}, 'lacks error'),
}


@pytest.mark.parametrize('name', BAD_RECORDS)
def test_a_record_is_checked_when_it_is_read(name: str, tmp_path: Path) -> None:
  changes, why = BAD_RECORDS[name]
  check_type(TrialRecord, RECORD)
  write_lines(tmp_path / 'trials.jsonl', [RECORD, RECORD | changes])
  found = read_trials(tmp_path)
  assert found.values == [RECORD]
  (fault,) = found.faults
  assert fault.number == 2
  assert why in fault.reason


def test_each_field_of_a_record_is_needed() -> None:
  for name in RECORD:
    rest = {k: v for k, v in RECORD.items() if k != name}
    with pytest.raises(ValueError, match=name):
      check_type(TrialRecord, rest)


# Checksums. -------------------------------------------------------------------


def test_every_bit_of_a_line_counts(tmp_path: Path) -> None:
  """What is read after a flip is what was written, or nothing."""
  path = tmp_path / 'metrics.jsonl'
  lines = [{'step': n, 'loss': 2.5 + n} for n in range(3)]
  write_lines(path, lines)
  data = path.read_bytes()
  for bit in range(len(data) * 8):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    path.write_bytes(changed)
    found = read_metrics(path)
    assert all(line in lines for line in found.values), bit
    assert len(found.values) == 3 or found.faults, bit


def test_a_file_without_checksums_is_of_an_older_version(
  tmp_path: Path,
) -> None:
  path = tmp_path / 'trials.jsonl'
  path.write_text(json.dumps(RECORD) + '\n')
  assert not read_trials(tmp_path).faults
  ledger = Ledger(tmp_path)
  assert ledger.finished(RECORD['trial'])
  assert not ledger.damage
  assert '"sum"' in path.read_text()  # from now on
  with path.open('a') as f:
    f.write(json.dumps(RECORD | {'seed': 1}) + '\n')
  assert [f.reason for f in read_trials(tmp_path).faults] == ['has no checksum']


def test_a_torn_last_line_is_no_damage(tmp_path: Path) -> None:
  path = tmp_path / 'trials.jsonl'
  write_lines(path, [RECORD, RECORD])
  whole = path.read_bytes()
  path.write_bytes(whole[:-30])
  found = read_trials(tmp_path)
  assert (found.values, found.faults) == ([RECORD], [])
  # A newline that was changed tears nothing: both records are there.
  path.write_bytes(whole[:-1] + b'\x0b')
  assert [f.number for f in read_trials(tmp_path).faults] == [2]


def test_the_ledger_keeps_the_file_that_was_damaged(tmp_path: Path) -> None:
  path = tmp_path / 'trials.jsonl'
  write_lines(path, [RECORD, RECORD | {'trial': 'other'}])
  data = path.read_bytes().replace(b'2.5', b'2.4', 1)
  path.write_bytes(data)
  ledger = Ledger(tmp_path)
  (line,) = ledger.damage
  assert f'{path}: line 1 is damaged (does not match its checksum)' in line
  assert not ledger.finished(RECORD['trial'])
  assert ledger.finished('other')
  assert (tmp_path / 'trials.jsonl.damaged-0').read_bytes() == data
  assert not Ledger(tmp_path).damage

  # The next one does not take the place of one that is kept.
  first = tmp_path / 'trials.jsonl.damaged-0'
  first.rename(tmp_path / 'trials.jsonl.damaged-1')
  path.write_bytes(data)
  Ledger(tmp_path)
  assert first.read_bytes() == data
  path.write_bytes(data[:-9] + b'0' + data[-8:])
  Ledger(tmp_path)
  for n in range(2):
    assert (tmp_path / f'trials.jsonl.damaged-{n}').read_bytes() == data
  assert (tmp_path / 'trials.jsonl.damaged-2').read_bytes() != data


def test_an_object_is_sealed(tmp_path: Path) -> None:
  path = tmp_path / 'end.json'
  end = {
    'trial': 'a',
    'status': 'ok',
    'step': 6,
    'digest': 'ab' * 32,
    'best_step': 4,
  }
  write_json(path, end)
  data = path.read_bytes()
  assert read_json(path, TrialEnd, 'do that') == check_type(TrialEnd, end)
  wrong: list[str] = []
  said = re.escape(f'{path}: is damaged (') + r'[^\n]*\): do that'
  for bit in range(len(data) * 8):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    path.write_bytes(changed)
    try:
      assert read_json(path, TrialEnd, 'do that') == check_type(
        TrialEnd, end
      ), bit
    except DamagedFile as e:
      wrong += [] if re.fullmatch(said, str(e)) else [str(e)]
  assert not wrong


# Links, and names. ------------------------------------------------------------


def test_no_link_is_followed(tmp_path: Path) -> None:
  victim = tmp_path / 'victim'
  victim.write_text('precious\n')
  folder = tmp_path / 'run'
  folder.mkdir()
  for name in ('.report.html.tmp', 'report.html', 'trials.jsonl', '.lock'):
    (folder / name).symlink_to(victim)
  write_atomically(folder / 'report.html', 'page')
  with pytest.raises(DamagedFile, match=r'trials.jsonl: is a link: remove it'):
    append_lines(folder / 'trials.jsonl', [RECORD])
  with pytest.raises(DamagedFile, match=r'trials.jsonl: is a link: remove it'):
    Ledger(folder)
  with (
    pytest.raises(DamagedFile, match=r'\.lock: is a link'),
    lock_workdir(folder),
  ):
    pass
  remove_temporaries(folder)
  assert victim.read_text() == 'precious\n'
  assert (folder / 'report.html').read_text() == 'page'
  assert {p.name for p in folder.iterdir()} == {
    'report.html',
    'trials.jsonl',
    '.lock',
  }


def test_names_beside_a_file_cannot_be_foreseen(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  names: list[str] = []

  def spy(source: Path, target: Path) -> None:
    names.append(source.name)
    shutil.move(source, target)

  monkeypatch.setattr(os, 'replace', spy)
  for _ in range(2):
    write_atomically(tmp_path / 'a.json', 'x')
  assert len(set(names)) == 2
  assert all(re.fullmatch(r'\.a\.json\.[0-9a-f]{16}\.tmp', n) for n in names)
  assert (tmp_path / 'a.json').stat().st_mode & 0o444 == 0o444


# Maps. ------------------------------------------------------------------------


def save(path: Path, arrays: Mapping[str, Any]) -> None:
  """Writes a file of arrays, which may be objects."""
  np.savez_compressed(path, **arrays)


@pytest.mark.parametrize(
  'change',
  [
    {'tokens_T': np.array([0, 9])},
    {'tokens_T': np.array([0, -1])},
    {'tokens_T': np.array([0.0, 1.0])},
    {'tokens_T': np.array([0, 1, 2])},
    {'weights_LNTS': np.zeros((1, 2, 2))},
    {'weights_LNTS': np.zeros((1, 1, 2, 2), np.int32)},
    {'more': np.zeros(1)},
    {'tokens_T': np.array([None, 1], object)},
  ],
  ids=range(8),
)
def test_maps_are_checked_when_they_are_read(
  change: dict[str, np.ndarray], tmp_path: Path
) -> None:
  path = tmp_path / 'attention.npz'
  good = {
    'tokens_T': np.array([0, 8]),
    'weights_LNTS': np.zeros((1, 1, 2, 2), np.float16),
  }
  save(path, good)
  assert set(read_maps(path, 9)) == set(good)
  save(path, good | change)
  with pytest.raises(DamagedFile, match=f'{path}: is damaged'):
    read_maps(path, 9)


# A working directory. ---------------------------------------------------------

TINY = {
  'num_layers': '1',
  'd_model': '8',
  'num_heads': '2',
  'seq_len': '16',
  'batch_size': '2',
  'steps': '6',
  'eval_every': '2',
  'warmup_steps': '2',
}


@pytest.fixture(scope='module')
def argv(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
  """A run of one trial of six steps."""
  text = write_text(tmp_path_factory.mktemp('text'))
  return [
    *(f'--{name}={value}' for name, value in TINY.items()),
    f'--task.path={text}',
    '--ablate=position=none',
    '--only=base',
    '--seeds=1',
    '--log_every=1',
    '--checkpoint_seconds=0',
    '--lanes=shared:1',
  ]


@pytest.fixture(scope='module')
def whole(argv: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
  """Its working directory; do not change."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  found = damage.launched(*argv, f'--workdir={workdir}')
  assert (found.code, found.errors) == (0, '')
  return workdir


@pytest.fixture
def workdir(whole: Path, tmp_path: Path) -> Path:
  """A copy of it."""
  damage.copied(whole, tmp_path / 'run')
  return tmp_path / 'run'


def run_of(workdir: Path) -> Path:
  """Returns the folder of its trial."""
  (folder,) = (workdir / 'runs').iterdir()
  return folder


def gone(checkpoint: Path) -> None:
  shutil.rmtree(checkpoint)


def halved(checkpoint: Path) -> None:
  for path in (checkpoint / 'state').rglob('d/*'):  # some nobody reads
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.slow
@QUIET
@pytest.mark.parametrize('how', [gone, halved], ids=lambda f: f.__name__)
def test_the_checkpoint_before_the_last_is_not_taken_for_it(
  how: Callable[[Path], None],
  argv: list[str],
  whole: Path,
  workdir: Path,
  tmp_path: Path,
) -> None:
  folder = run_of(workdir)
  last = folder / 'checkpoints/6'
  how(last)
  alone = tmp_path / 'moved' / 'runs' / folder.name  # without the record
  shutil.copytree(folder, alone)
  for where, trial in ((workdir, 'base'), (tmp_path / 'moved', folder.name)):
    for flag in ('evaluate', 'generate'):
      found = damage.launched(f'--{flag}={where}:{trial}')
      assert (found.code, found.said) == (2, '')
      (line,) = found.errors.splitlines()
      assert 'is of step 4, its record of step 6' in line
      assert 'repeat the command that trained it' in line
      assert ('remove ' in line) == (how is halved)
  found = damage.launched(
    *argv[:-1],
    f'--init_from={workdir}:base',
    f'--workdir={tmp_path / "new"}',
  )
  assert found.code == 2
  assert 'is of step 4' in found.errors
  assert not (tmp_path / 'new').exists()
  # The way out, as it is said.
  shutil.rmtree(last, ignore_errors=True)
  found = damage.launched(*argv, f'--workdir={workdir}')
  assert found.code == 0
  assert 'checkpoint, of step 6, is gone' in found.errors
  assert damage.figures(workdir) == damage.figures(whole)
  assert load(workdir, 'base').step == 6


@QUIET
def test_the_best_checkpoint_goes_by_the_record(
  whole: Path, workdir: Path
) -> None:
  (record,) = read_intact_lines(whole / 'trials.jsonl')
  best = record['metrics']['best_step']
  assert load(whole, 'base', best=True).step == best
  # Orbax keeps no figure that could be changed.
  assert not list(whole.rglob('checkpoints/*/metrics'))
  halved(run_of(workdir) / f'checkpoints/{best}')
  with pytest.raises(
    DamagedFile, match=f'best checkpoint, of step {best}'
  ) as e:
    load(workdir, 'base', best=True)
  assert len(str(e.value).splitlines()) == 1
  assert 'empty ' in str(e.value)


def changed(path: Path, old: bytes, new: bytes) -> None:
  """Replaces the first occurrence in a file."""
  data = path.read_bytes()
  assert old in data
  path.write_bytes(data.replace(old, new, 1))


def test_a_flipped_digit_of_the_record_is_no_figure(
  argv: list[str], whole: Path, workdir: Path
) -> None:
  (record,) = read_intact_lines(whole / 'trials.jsonl')
  digits = str(record['metrics']['val_loss']).encode()
  other = digits[:-3] + (b'123' if digits[-3:] != b'123' else b'321')
  changed(workdir / 'trials.jsonl', digits, other)
  found = damage.launched(f'--evaluate={workdir}:base')
  assert found.code == 2
  assert 'trials.jsonl: line 1 is damaged' in found.errors
  found = damage.launched(*argv, f'--workdir={workdir}')
  assert found.code == 0
  assert 'trials.jsonl: line 1 is damaged' in found.errors
  assert damage.figures(workdir) == damage.figures(whole)


def test_a_flip_in_the_figures_leaves_a_gap_that_is_said(
  argv: list[str], whole: Path, workdir: Path
) -> None:
  """Its trial is not failed, and no curve shows another number."""
  path = run_of(workdir) / 'metrics.jsonl'
  changed(path, b'"step": 3', b'"stdp": 3')
  for _ in range(2):  # said each time, for the gap stays
    found = damage.launched(*argv, f'--workdir={workdir}')
    assert found.code == 0
    assert f'{path}: line ' in found.errors
    assert damage.figures(workdir) == damage.figures(whole)
    assert 'Curves have gaps' in (workdir / 'report.html').read_text()
  # Nor where the trial goes on from a checkpoint.
  (workdir / 'trials.jsonl').unlink()
  found = damage.launched(*argv, f'--workdir={workdir}')
  assert found.code == 0
  assert damage.figures(workdir) == damage.figures(whole)
  assert len(read_metrics(path).faults) == 1


@pytest.mark.parametrize('size', [0, None])
def test_a_line_that_is_gone_is_said(
  size: int | None, argv: list[str], whole: Path, workdir: Path
) -> None:
  """Cut where a line ends, no checksum is wrong: the trial's folder knows."""
  path = workdir / 'trials.jsonl'
  if size is None:
    path.unlink()
  else:
    path.write_bytes(b'')
  found = damage.launched(*argv, f'--workdir={workdir}')
  assert found.code == 0
  (line,) = found.errors.splitlines()
  assert str(run_of(workdir)) in line
  assert 'had ended, and trials.jsonl has no line of it' in line
  assert damage.figures(workdir) == damage.figures(whole)
  # Said once, for then there is one.
  assert damage.launched(*argv, f'--workdir={workdir}').errors == ''


@pytest.mark.slow
def test_a_figure_that_is_gone_leaves_a_gap_that_is_said(
  argv: list[str], whole: Path, workdir: Path
) -> None:
  """Each time, and where the trial is recorded again too."""
  path = run_of(workdir) / 'metrics.jsonl'
  lines = path.read_bytes().splitlines(keepends=True)
  for kept, word in (
    (lines[:2] + lines[3:], '1 lines are gone'),
    (lines[:-2], '2 lines are gone'),
    ([], f'{len(lines)} lines are gone'),
    ([*lines, lines[-1]], 'has 1 more lines'),
  ):
    path.write_bytes(b''.join(kept))
    for _ in range(2):
      found = damage.launched(*argv, f'--workdir={workdir}')
      assert found.code == 0
      assert f'{path}: {word}' in found.errors
      assert damage.figures(workdir) == damage.figures(whole)
      page = (workdir / 'report.html').read_text()
      assert ('Curves have gaps' in page) == ('gone' in word)
      (workdir / 'trials.jsonl').unlink()


def test_what_a_trial_wrote_is_made_again_where_it_is_gone(
  argv: list[str], whole: Path, workdir: Path
) -> None:
  folder = run_of(workdir)
  for name in ('attention.npz', 'sample.json'):
    before = (folder / name).read_bytes()
    (folder / name).unlink()
    found = damage.launched(*argv, f'--workdir={workdir}')
    assert found.code == 0
    (line,) = found.errors.splitlines()
    assert f'{folder / name}: is gone: made again from its checkpoint' in line
    assert (folder / name).read_bytes() == before


def test_a_damaged_layout_is_that_of_the_trials(
  argv: list[str], whole: Path, workdir: Path
) -> None:
  (workdir / 'layout.json').write_text('{"lanes": "shared:')
  again = [word for word in argv if not word.startswith('--lanes')]
  found = damage.launched(*again, f'--workdir={workdir}')
  assert found.code == 0
  (line,) = found.errors.splitlines()
  assert 'layout.json: is damaged' in line
  assert 'made again from its trials: shared:1' in line
  kept = json.loads((workdir / 'layout.json').read_text())
  assert kept['lanes'] == 'shared:1'
  # Where no trial knows it, nothing is guessed.
  (workdir / 'layout.json').write_text('[' * 300_000)
  (run_of(workdir) / 'config.json').write_text('{}')
  found = damage.launched(*again, f'--workdir={workdir}')
  assert found.code == 2
  (line,) = found.errors.splitlines()
  assert 'layout.json: is damaged (is nested too deep)' in line
  assert '--lanes=' in line


def test_what_can_be_made_again_is_made_again(
  argv: list[str], whole: Path, workdir: Path
) -> None:
  folder = run_of(workdir)
  for name in ('attention.npz', 'sample.json', 'vocabulary.json', 'end.json'):
    before = (folder / name).read_bytes()
    (folder / name).write_bytes(before[: len(before) // 2])
    found = damage.launched(*argv, f'--workdir={workdir}')
    assert found.code == 0, name
    (line,) = found.errors.splitlines()
    assert f'{folder / name}: ' in line
    assert 'made again from its checkpoint' in line
    assert (folder / name).read_bytes() == before
  for name in ('config.json', 'environment.json'):
    (workdir / name).write_text('{"experiment": null}')
    assert damage.launched(*argv, f'--workdir={workdir}').code == 0
  assert damage.figures(workdir) == damage.figures(whole)


def test_a_trial_that_went_on_after_a_pause_lacks_nothing(
  workdir: Path,
) -> None:
  """Of its checkpoints the last ones stay, not that of the pause."""
  folder = run_of(workdir)
  end = json.loads((folder / 'end.json').read_text())
  del end['sum']
  for status, step, why in (
    ('paused', 3, None),
    ('paused', 7, 'of step 7, is gone'),
    ('ok', 3, 'of step 3, is gone'),
  ):
    write_json(folder / 'end.json', end | {'status': status, 'step': step})
    found = problem(folder, ByteVocabulary())
    assert found is None if why is None else why in str(found)


@QUIET
@pytest.mark.slow
def test_damage_to_no_file_misleads(
  argv: list[str], whole: Path, tmp_path: Path
) -> None:
  readers = {
    'evaluate': damage.evaluated('base'),
    'generate': damage.generated('base'),
    'repeat': damage.repeated(*argv),
  }
  found = damage.misled(
    whole,
    tmp_path / 'scratch',
    damage.files(whole),
    (damage.flip, damage.cut),
    readers,
    random.Random(0),
  )
  assert not [f'{finding} ({finding.detail})' for finding in found]
