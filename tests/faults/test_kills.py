"""Kills: the numbers stay what they were."""

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from helpers.commands import run
from helpers.processes import (
  Outcome,
  assert_same,
  end,
  kill_at,
  outcome,
  start,
  words,
)
from train.files.durable import read_intact_lines

pytestmark = pytest.mark.usefixtures('quick_compilation')


def survive(
  argv: Sequence[str], workdir: Path, moments: Sequence[str], seed: int
) -> int:
  """Kills a run at these moments, then lets it end; returns the kills."""
  draw = random.Random(seed)
  kills = 0
  for moment in moments:
    kills += kill_at(start(argv), workdir, moment, draw)
  code, out, err = end(start(argv))
  assert code == 0, (out, err)
  assert 'Traceback' not in err
  return kills


@pytest.mark.slow
def test_two_kills_change_nothing(
  text: Path, expected: Outcome, tmp_path: Path
) -> None:
  workdir = tmp_path / 'run'
  argv = words(text, '--seeds=2', f'--workdir={workdir}')
  assert survive(argv, workdir, ['a chunk', 'a save'], 0) == 2
  assert_same(workdir, expected)


@pytest.mark.slow
@pytest.mark.parametrize('seed', range(3))
def test_ten_kills_change_nothing(
  seed: int, text: Path, expected: Outcome, tmp_path: Path
) -> None:
  workdir = tmp_path / 'run'
  argv = words(text, '--seeds=2', f'--workdir={workdir}')
  early = ['start-up', 'before the first trial', 'compilation']
  middle = ['a chunk', 'a save', 'a chunk', 'a save', 'a record', 'start-up']
  random.Random(seed).shuffle(middle)
  moments = [*early, *middle, 'the report']
  assert survive(argv, workdir, moments, seed) >= 8
  assert_same(workdir, expected)


SELECTIONS = {
  'tune': ('--tune=learning_rate=1e-4 3e-3 1e-1',),
  'halving': ('--sweep=learning_rate=1e-4 1e-3 1e-2 1e-1', '--halving=2'),
}


@pytest.mark.slow
@pytest.mark.parametrize('how', SELECTIONS)
def test_kills_do_not_change_what_is_selected(
  how: str, text: Path, tmp_path: Path
) -> None:
  """Killed between stages, in them and beside a pause."""

  def came_to(workdir: Path) -> tuple[Any, ...]:
    records = {
      (r['trial'], r['status'], r['steps']): {
        k: r[k] for k in r if k != 'clock'
      }
      for r in read_intact_lines(workdir / 'trials.jsonl')
    }
    table = json.loads((workdir / 'table.json').read_text())
    for row in table['rows']:
      del row['seconds']
    return records, table, (workdir / 'selection.json').read_text()

  runs = [tmp_path / 'whole', tmp_path / 'killed']
  argv = words(text, '--seeds=2', '--tune_seeds=1', *SELECTIONS[how])
  code, out, err = end(start([*argv, f'--workdir={runs[0]}']))
  assert (code, err) == (0, ''), out
  moments = ['a chunk', 'a record', 'a save', 'a record', 'a chunk', 'a record']
  again = [*argv, f'--workdir={runs[1]}']
  assert survive(again, runs[1], moments, 0) == 6
  assert came_to(runs[1]) == came_to(runs[0])


@pytest.mark.slow
def test_a_kill_before_the_owner_is_written_is_no_stranger(
  text: Path, expected: Outcome, tmp_path: Path
) -> None:
  """What a kill leaves at the very start is a lock and a temporary file."""
  workdir = tmp_path / 'run'
  workdir.mkdir()
  (workdir / '.lock').write_text('1')
  (workdir / '.config.json.12345').write_text('{"exper')
  assert run(*words(text, '--seeds=2', f'--workdir={workdir}')) == 0
  assert_same(workdir, expected)


@pytest.mark.slow
def test_a_divergence_is_the_same_after_a_kill(
  text: Path, tmp_path: Path
) -> None:
  argv = words(text, '--ablate=learning_rate=1e30 clip=none', '--seeds=2')
  plain, killed = tmp_path / 'plain', tmp_path / 'killed'
  assert run(*argv, f'--workdir={plain}') == 0
  moments = ['a chunk', 'a save', 'a record', 'a save', 'a chunk']
  assert survive([*argv, f'--workdir={killed}'], killed, moments, 3) >= 4
  assert_same(killed, outcome(plain))
