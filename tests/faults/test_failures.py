"""Torn records, failed and diverged trials, and commands given twice."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from helpers.commands import run
from helpers.processes import ROW, Outcome, assert_same, clock_of, sizes, words
from train import group
from train.files.durable import read_intact_lines
from train.lane import Lane
from train.trial import Trial

pytestmark = pytest.mark.usefixtures('quick_compilation')

# Torn lines. ------------------------------------------------------------------


@pytest.mark.slow
def test_a_torn_record_is_mended_and_its_trial_taken_up_again(
  text: Path, whole: Path, expected: Outcome, tmp_path: Path
) -> None:
  workdir = tmp_path / 'run'
  shutil.copytree(whole, workdir)
  path = workdir / 'trials.jsonl'
  lines = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(b''.join(lines[:-1]) + lines[-1][:-20])
  assert run(*words(text, '--seeds=2', f'--workdir={workdir}')) == 0
  assert path.read_bytes().startswith(b''.join(lines[:-1]))
  assert_same(workdir, expected)


# Trials that fail or diverge. -------------------------------------------------


@pytest.mark.slow
def test_a_trial_that_raises_is_recorded_and_run_again(
  text: Path,
  expected: Outcome,
  tmp_path: Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  real, ran = group.Lane, list[str]()

  def breaks(mine: Trial, *rest: Any) -> Lane:
    architecture = mine.config.architecture
    if architecture.position.tag == 'none' and mine.config.seed == 1:
      raise RuntimeError('out of luck\nand a second line')
    return real(mine, *rest)

  def counts(mine: Trial, *rest: Any) -> Lane:
    ran.append(mine.id)
    return real(mine, *rest)

  monkeypatch.setattr(group, 'Lane', breaks)
  workdir = tmp_path / 'run'
  argv = words(text, '--seeds=2', f'--workdir={workdir}')
  assert run(*argv) == 1
  records = read_intact_lines(workdir / 'trials.jsonl')
  assert [r['status'] for r in records] == ['ok', 'ok', 'ok', 'failed']
  assert 'out of luck' in records[-1]['error']
  assert (records[-1]['row'], records[-1]['seed']) == (ROW, 1)
  out, err = capsys.readouterr()
  assert 'out of luck' in out
  assert 'Traceback' not in out + err
  for name in ('table.md', 'table.tex', 'table.json', 'report.html'):
    assert 'out of luck' in (workdir / name).read_text()

  ran.clear()
  monkeypatch.setattr(group, 'Lane', counts)
  assert run(*argv) == 0
  assert ran == [records[-1]['trial']]
  again = read_intact_lines(workdir / 'trials.jsonl')
  assert again[:4] == records
  assert len(again) == 5
  (workdir / 'trials.jsonl').write_text(
    ''.join(json.dumps(r) + '\n' for r in again if r['status'] == 'ok')
  )
  assert_same(workdir, expected)


@pytest.mark.slow
def test_a_trial_that_diverges_is_a_result(
  text: Path,
  expected: Outcome,
  tmp_path: Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  workdir = tmp_path / 'run'
  row = 'learning_rate=1e30 clip=none'
  argv = words(text, f'--ablate={row}', '--seeds=2', f'--workdir={workdir}')
  assert run(*argv) == 0
  records = read_intact_lines(workdir / 'trials.jsonl')
  bad = [r for r in records if r['row'] == row]
  assert [r['status'] for r in bad] == ['diverged', 'diverged']
  out = capsys.readouterr().out
  for record in bad:
    step = record['metrics']['diverged_at']
    assert 0 <= step < 40
    assert record['steps'] == step
    assert f'diverged at step {step}' in out
    figures = read_intact_lines(
      workdir / f'runs/{record["trial"]}/metrics.jsonl'
    )
    assert figures[-1]['step'] == step + 1
    for name in ('table.md', 'report.html'):
      assert (
        f'seed {record["seed"]} at step {step}' in (workdir / name).read_text()
      )
  others = {r['trial']: r for r in records if r['row'] != row}
  assert others.keys() == expected.trials.keys()
  for name, record in others.items():
    assert record == expected.trials[name] | clock_of(record)
  assert run(*argv) == 0
  assert read_intact_lines(workdir / 'trials.jsonl') == records


# The same command again, and more of it. --------------------------------------


@pytest.mark.slow
def test_the_same_command_again_trains_nothing(
  text: Path, whole: Path, expected: Outcome, tmp_path: Path
) -> None:
  workdir = tmp_path / 'run'
  shutil.copytree(whole, workdir)
  before = sizes(workdir, 'runs/**/*')
  record = (workdir / 'trials.jsonl').read_bytes()
  assert run(*words(text, '--seeds=2', f'--workdir={workdir}')) == 0
  assert (workdir / 'trials.jsonl').read_bytes() == record
  assert sizes(workdir, 'runs/**/*') == before
  assert_same(workdir, expected)


@pytest.mark.slow
def test_more_seeds_and_rows_keep_what_was_there(
  text: Path, whole: Path, tmp_path: Path
) -> None:
  workdir = tmp_path / 'run'
  shutil.copytree(whole, workdir)
  path = workdir / 'trials.jsonl'
  before = path.read_bytes()
  argv = words(text, f'--workdir={workdir}', '--seeds=3')
  assert run(*argv) == 0
  more = path.read_bytes()
  assert more.startswith(before)
  new = read_intact_lines(path)[4:]
  assert [(r['row'], r['seed']) for r in new] == [('base', 2), (ROW, 2)]

  assert run(*argv, '--ablate=learning_rate=2e-3') == 0
  assert path.read_bytes().startswith(more)
  new = read_intact_lines(path)[6:]
  assert [(r['row'], r['seed']) for r in new] == [
    ('learning_rate=2e-3', seed) for seed in range(3)
  ]
  table = json.loads((workdir / 'table.json').read_text())
  rows = {row['row']: row['seeds'] for row in table['rows']}
  assert rows == {'base': 3, ROW: 3, 'learning_rate=2e-3': 3}
