"""The gauntlet can find: what misleads is silent, what raises a traceback."""

import functools
import random
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from experiments.cli import main as cli
from faults import damage
from gauntlet import commandlines, drive, flips, outcome, typed
from model.core.field import FieldError
from train.config.config import Config
from train.files import durable as files
from train.files.durable import write_lines
from train.files.records import read_trials
from train.flags.schema import flag_specs, override, to_flags


def figures(workdir: Path) -> flips.View:
  """Reads a record as a table does, and says what is damaged."""
  found = read_trials(workdir)
  errors = found.said(workdir / 'trials.jsonl')
  last = {record['seed']: record for record in found.values}
  if len(last) < 2:
    errors.append('lacks a trial')
  code = 2 if errors else 0
  return flips.View(damage.Reading(code, str(last), '; '.join(errors)))


def kinds(tmp_path: Path) -> Counter[str]:
  """Returns what 150 damages to a record come to."""
  source = tmp_path / 'whole'
  source.mkdir(exist_ok=True)
  write_lines(
    source / 'trials.jsonl', [damage.RECORD, damage.RECORD | {'seed': 1}]
  )
  attempt = flips.damages(source, tmp_path / 'copy', {'figures': figures})
  return Counter(attempt(seed).kind for seed in range(150))


def test_a_reader_that_believes_what_is_damaged_is_silent(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  assert kinds(tmp_path).keys() <= {'found', 'harmless'}

  def believing(value: Any) -> tuple[Any, bool]:
    value.pop('sum', None)
    return value, True

  monkeypatch.setattr(files, '_without_checksum', believing)
  assert kinds(tmp_path)['silent'] > 3


def test_a_value_of_any_flag_is_compared_as_the_program_writes_it() -> None:
  """Lists too: the checker, not the program, once wrote them in another way."""
  draw, lists = random.Random(0), set[str]()
  for name, spec in flag_specs(Config).items():
    for _ in range(10):
      text = typed.value(draw, spec)
      try:
        config = override(Config(), {name: text})
      except FieldError:
        continue
      assert commandlines.unparsed(name, text) == to_flags(config)[name]
      if ',' in text:
        lists.add(name)
  assert len(lists) > 2


def line_of(*words: str) -> typed.Line:
  """Returns a command line of which nothing is compared."""
  return typed.Line([*words], {}, smoke=False)


def test_a_command_line_that_misleads_is_found(
  tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  tried = functools.partial(commandlines.tried, workdir=tmp_path / 'run')
  good = line_of('--experiment=train', '--task=most_frequent', '--plan')
  good = good._replace(words=[*good.words, '--model=classifier', '--steps=7'])
  assert tried(good).kind == 'harmless'
  # What was typed is not what is planned.
  assert tried(good._replace(typed={'steps': '8'})).kind == 'silent'
  monkeypatch.setattr(commandlines, 'initial_size', lambda planned: 7)
  assert tried(good).kind == 'silent'
  assert tried(line_of('--stepz=7')).kind == 'found'

  def littering(*rest: Any) -> int:
    (tmp_path / 'run').mkdir()
    return 2

  def raising(*rest: Any) -> int:
    raise RecursionError('too deep')

  for broken in (littering, raising):
    monkeypatch.setattr(cli, '_main', broken)
    assert tried(good).kind == 'traceback'


def test_a_process_that_ends_or_hangs_is_a_traceback(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  answers = 'import sys\nfor n in sys.stdin:\n  if n == "1\\n": {}\n  print('
  answers += '\'["harmless", "x", 2]\', flush=True)'
  for end in ('import os; os.abort()', 'import time; time.sleep(60)'):
    monkeypatch.setattr(drive, 'LONGEST', 0.2 if 'sleep' in end else 30.0)
    with drive.Child([sys.executable, '-c', answers.format(end)]) as child:
      assert child.attempt(1).kind == 'traceback'
      monkeypatch.setattr(drive, 'LONGEST', 30.0)
      assert child.attempt(2) == outcome.Outcome('harmless', 'x', 2)


def test_the_table_fits_and_says_what_must_not_be() -> None:
  tally = outcome.Tally('simulations', 10_000)
  tally.add(7, outcome.Outcome('silent', 'word ' * 50, 3))
  tally.add(8, outcome.Outcome('found', ''))
  lines = [*outcome.table([tally])]
  assert all(len(line) <= outcome.WIDTH for line in lines)
  assert lines[1].split() == [
    'simulations',
    '10,000',
    *'4122'[:0],
    '4',
    '1',
    '2',
    '1',
    '0',
    '0',
  ]
  assert any('4 of 10,000 in the time there was' in line for line in lines)
  assert any('silent: --only=simulations:7' in line for line in lines)
