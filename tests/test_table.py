"""The statistics of a table against hand-computed numbers, and its files."""

import csv
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import rich.console

from experiments import formats, table_files
from experiments import table as tables
from train import files


def _record(
  row: str,
  seed: int,
  value: float | None = None,
  status: str = 'ok',
  seconds: float = 2.0,
  extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  return {
    'row': row,
    'trial': f'{row}-{seed}',
    'seed': seed,
    'status': status,
    'metrics': {} if value is None else {'val_loss': value},
    'clock': {'seconds': seconds},
    'steps': 10,
    'tokens': 100,
    'digest': '00',
    'config': {},
    'parameters': 1234,
    **(extra or {}),
  }


def _records(values: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
  return [
    _record(row, seed, value)
    for row, column in values.items()
    for seed, value in enumerate(column)
  ]


def _only(table: tables.Table, name: str) -> tables.RowSummary:
  (row,) = [row for row in table.rows if row.row == name]
  return row


def test_interval_of_three_seeds_by_hand() -> None:
  records = _records({'base': [1.0, 2.0, 3.0]})
  table = tables.summarise(records, ['base'], 'base')
  row = table.rows[0]
  # Standard deviation 1: half = t(0.975, 2) / sqrt(3) = 4.302653 / 1.732051.
  assert row.mean == 2.0
  assert row.interval is not None
  assert row.interval.low == pytest.approx(2 - 2.484138, abs=1e-6)
  assert row.interval.high == pytest.approx(2 + 2.484138, abs=1e-6)
  assert row.interval.half() == pytest.approx(2.484138, abs=1e-6)
  assert (row.seeds, row.parameters, row.seconds) == (3, 1234, 2.0)


def test_confidence_sets_the_quantile() -> None:
  table = tables.summarise(
    _records({'base': [1.0, 3.0]}), ['base'], 'base', confidence=0.9
  )
  # Standard deviation sqrt(2), so half = t(0.95, 1) = 6.313752.
  assert table.rows[0].interval is not None
  assert table.rows[0].interval.half() == pytest.approx(6.313752, abs=1e-6)


def test_intervals_cover_at_their_confidence() -> None:
  draws = np.random.default_rng(0).normal(size=(4, 500))
  rows = [f'r{i}' for i in range(draws.shape[1])]
  table = tables.summarise(
    _records({row: list(draws[:, i]) for i, row in enumerate(rows)}), rows, 'r0'
  )
  covered = np.mean(
    [
      row.interval.low <= 0 <= row.interval.high
      for row in table.rows
      if row.interval is not None
    ]
  )
  # Four standard errors of a share of 0.95 in 500 tables.
  assert abs(covered - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 500)


def test_difference_is_paired() -> None:
  # The seeds spread by 10, their differences by 0.1.
  table = tables.summarise(
    _records({'base': [0.0, 10.0, 20.0], 'row': [1.0, 11.1, 20.9]}),
    ['base', 'row'],
    'base',
  )
  row = _only(table, 'row')
  assert row.difference == pytest.approx(1.0)
  assert row.difference_interval is not None
  # Differences 1, 1.1, 0.9: standard deviation 0.1.
  assert row.difference_interval.half() == pytest.approx(0.2484138, abs=1e-6)
  base = _only(table, 'base')
  assert base.is_base
  assert base.difference is None


def test_difference_uses_the_seeds_of_both() -> None:
  records = [
    *(_record('base', seed, float(seed)) for seed in (0, 1, 2)),
    *(_record('row', seed, seed + 0.5) for seed in (1, 2, 3, 4)),
  ]
  row = _only(tables.summarise(records, ['base', 'row'], 'base'), 'row')
  assert row.mean == pytest.approx(3.0)
  assert row.difference == pytest.approx(0.5)
  assert row.difference_interval == tables.Interval(0.5, 0.5)
  assert row.note == 'difference over the seeds of both: 1, 2'


def test_no_seed_in_common_gives_no_difference() -> None:
  records = [_record('base', 0, 1.0), _record('row', 1, 2.0)]
  row = _only(tables.summarise(records, ['base', 'row'], 'base'), 'row')
  assert row.mean == 2.0
  assert row.difference is None
  assert 'no seed in common' in row.note


def test_one_seed_gives_a_difference_without_interval() -> None:
  table = tables.summarise(
    _records({'base': [1.0], 'row': [1.5]}), ['base', 'row'], 'base'
  )
  row = _only(table, 'row')
  assert (row.interval, row.difference_interval) == (None, None)
  assert row.difference == 0.5


def test_failed_and_diverged_are_noted_and_hide_nothing() -> None:
  records = [
    *_records({'base': [1.0, 2.0]}),
    _record('row', 0, math.nan, 'diverged', extra={'diverged_at': 37}),
    _record('row', 1, 3.0),
    {'row': 'row', 'seed': 2, 'status': 'failed', 'error': 'out of\nmemory'},
    {'row': 'gone', 'seed': 0, 'status': 'failed'},
  ]
  table = tables.summarise(records, ['base', 'row', 'gone', 'none'], 'base')
  row = _only(table, 'row')
  assert (row.seeds, row.diverged, row.failed) == (1, 1, 1)
  assert row.values == {1: 3.0}
  assert row.difference == 1.0
  assert row.note == (
    '1 failed: seed 2: out of memory; 1 diverged: seed 0 at step 37'
  )
  gone = _only(table, 'gone')
  assert gone.note == '1 failed: seed 0: no message'
  assert (gone.mean, gone.seconds, gone.parameters) == (None, None, None)
  assert _only(table, 'none').note == 'no trial'


def test_a_metric_that_is_not_finite_is_no_value() -> None:
  records = [
    _record('base', 0, 1.0),
    _record('base', 1, math.inf),
    _record('base', 2),
  ]
  row = tables.summarise(records, ['base'], 'base').rows[0]
  assert row.values == {0: 1.0}
  assert row.note == '2 without a finite val_loss: seed 1, seed 2'


def test_last_record_wins() -> None:
  records = [
    _record('base', 0, status='failed', extra={'error': 'lost device'}),
    _record('base', 1, 5.0),
    _record('base', 0, 4.0),
    _record('base', 1, 6.0),
  ]
  row = tables.summarise(records, ['base'], 'base').rows[0]
  assert (row.failed, row.note) == (0, '')
  assert row.values == {0: 4.0, 1: 6.0}


def test_base_must_be_a_row() -> None:
  with pytest.raises(ValueError, match="base='x' is not one of the rows"):
    tables.summarise([], ['a'], 'x')


def _example() -> tables.Table:
  records = _records(
    {
      'base': [1.0 / 3, 2.0 / 3],
      'a_b & 50% | <i>': [0.1, 0.7],
    }
  )
  failure = _record(
    'gone', 0, status='failed', extra={'error': 'x_1 #2 {~^\\}'}
  )
  return tables.summarise(
    [*records, failure], ['base', 'a_b & 50% | <i>', 'gone'], 'base'
  )


def test_json_round_trip(tmp_path: pathlib.Path) -> None:
  table = _example()
  table_files.write(table, tmp_path)
  read = json.loads((tmp_path / 'table.json').read_text())
  assert read['metric'] == 'val_loss'
  assert read['base'] == 'base'
  for row, line in zip(table.rows, read['rows'], strict=True):
    assert line['row'] == row.row
    assert line['mean'] == row.mean
    assert line['values'] == {str(k): v for k, v in row.values.items()}
    if row.difference_interval is not None:
      assert tables.Interval(**line['difference_interval']) == (
        row.difference_interval
      )


def test_csv_round_trip(tmp_path: pathlib.Path) -> None:
  table = _example()
  table_files.write(table, tmp_path)
  with (tmp_path / 'table.csv').open(newline='') as file:
    lines = list(csv.DictReader(file))
  for row, line in zip(table.rows, lines, strict=True):
    assert line['row'] == row.row
    assert line['note'] == row.note
    assert (float(line['mean']) if line['mean'] else None) == row.mean
    if row.difference_interval is not None:
      assert float(line['difference_low']) == row.difference_interval.low
      assert float(line['high']) == (row.interval and row.interval.high)


def test_json_has_no_nan() -> None:
  written = formats.json_text({'a': [math.nan, {'b': math.inf}], 'c': 1.0})
  assert json.loads(written) == {'a': [None, {'b': None}], 'c': 1.0}


def test_tex_is_escaped(tmp_path: pathlib.Path) -> None:
  table_files.write(_example(), tmp_path)
  written = (tmp_path / 'table.tex').read_text()
  assert r'a\_b \& 50\% | \textless{}i\textgreater{} & $2$' in written
  assert (
    r'x\_1 \#2 \{\textasciitilde{}\textasciicircum{}\textbackslash{}\}'
    in written
  )
  body = written.split(r'\midrule')[1].split(r'\bottomrule')[0]
  assert all(
    line.replace(r'\&', '').count('&') == 7
    for line in body.strip().splitlines()
  )


def test_markdown_keeps_its_columns(tmp_path: pathlib.Path) -> None:
  table_files.write(_example(), tmp_path)
  lines = (tmp_path / 'table.md').read_text().splitlines()
  assert r'| a_b & 50% \| &lt;i> | 2 |' in lines[3]
  assert all(line.replace(r'\|', '').count('|') == 9 for line in lines[:5])


def test_writing_leaves_no_temporary_file_and_survives_a_failure(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  table_files.write(_example(), tmp_path)
  expected = {f'table.{suffix}' for suffix in ('json', 'csv', 'md', 'tex')}
  assert {path.name for path in tmp_path.iterdir()} == expected
  before = (tmp_path / 'table.md').read_text()

  def refuse(source: pathlib.Path, target: pathlib.Path) -> None:
    raise OSError('disk full')

  monkeypatch.setattr(files.os, 'replace', refuse)
  with pytest.raises(OSError, match='disk full'):
    files.write_atomically(tmp_path / 'table.md', 'half')
  assert (tmp_path / 'table.md').read_text() == before
  assert {path.name for path in tmp_path.iterdir()} == expected


@pytest.mark.parametrize(
  ('value', 'signed', 'expected'),
  [
    (1.23456, False, '1.2346'),
    (0.5, True, '+0.5000'),
    (-0.5, True, '-0.5000'),
    (0.0, True, '0.0000'),
    (1.2e-6, False, '1.2e-06'),
    (None, False, '–'),
    (math.nan, False, '–'),
    (123456.0, False, '1.2e+05'),
  ],
)
def test_number(value: float | None, signed: bool, expected: str) -> None:
  assert formats.number(value, signed) == expected


def test_numbers_in_tex() -> None:
  assert formats.tex_number('-1.2e-06') == r'$-1.2\times 10^{-6}$'
  assert formats.tex_number('1.2e+05') == r'$1.2\times 10^{5}$'
  assert formats.tex_number('12,345') == '$12{,}345$'


def _printed(table: tables.Table) -> str:
  console = rich.console.Console(width=80)
  with console.capture() as capture:
    console.print(table_files.render(table))
  return capture.get()


def test_terminal_of_80_columns_shows_whole_names() -> None:
  name = 'normalizer=softmax1 scale=none'
  assert len(name) == 30
  table = tables.summarise(
    _records({'base': [1.0, 2.5, 2.0], name: [1.5, 2.0, 3.0]}),
    ['base', name],
    'base',
  )
  lines = _printed(table).splitlines()
  assert max(map(len, lines)) <= 80
  (line,) = [line for line in lines if name in line]
  row = _only(table, name)
  assert formats.number(row.mean) in line
  assert formats.number(row.difference, signed=True) in line
  assert row.interval is not None
  assert formats.number(row.interval.half()) in line
  assert any(
    'base' in line.split()[:1] and 'base' in line.split()[1:] for line in lines
  )


def test_markup_in_a_name_is_text() -> None:
  table = tables.summarise(
    _records({'[red]x[/]': [1.0]}), ['[red]x[/]'], '[red]x[/]'
  )
  assert '[red]x[/]' in _printed(table)
