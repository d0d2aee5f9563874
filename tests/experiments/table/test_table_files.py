"""A table in its files and on a terminal."""

import csv
import io
import json
import math
import pathlib

import pytest
from rich import console

from experiments.messages import formats
from experiments.messages.page import NameCell
from experiments.table import table as tables
from experiments.table import table_files
from helpers.tables import (
  judged_table,
  record_of,
  records_of,
  row_of,
  terminal_text,
)
from train.files import durable as files

pytestmark = pytest.mark.usefixtures('quick_compilation')


def _example() -> tables.AblationTable:
  records = records_of(
    {
      'base': [1.0 / 3, 2.0 / 3],
      'a_b & 50% | <i>': [0.1, 0.7],
    }
  )
  failure = record_of(
    'gone', 0, status='failed', extra={'error': 'x_1 #2 {~^\\}'}
  )
  return tables.make_table(
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


def test_every_file_shows_verdict_cost_and_choice(
  tmp_path: pathlib.Path,
) -> None:
  table = judged_table()
  table_files.write(table, tmp_path)
  read = json.loads((tmp_path / 'table.json').read_text())
  assert (read['alpha'], read['margin']) == (0.05, 0.01)
  with (tmp_path / 'table.csv').open(newline='') as file:
    lines = list(csv.DictReader(file))
  for row, inner, line in zip(table.rows, read['rows'], lines, strict=True):
    assert inner['verdict'] == row.verdict
    assert line['verdict'] == (row.verdict or '')
    for name in ('p', 'p_holm', 'p_tost', 'p_tost_holm', 'smallest_effect'):
      assert (float(line[name]) if line[name] else None) == inner[name]
    assert inner['tuned'] == row.tuned
    assert float(line['tuned_learning_rate']) == row.tuned['learning_rate']
    assert float(line['flops_per_token']) == row.flops_per_token
  markdown = (tmp_path / 'table.md').read_text()
  assert '| p (Holm) | verdict | detectable | learning rate |' in markdown
  assert '| +0.5000 ± 0.0020 | &lt;0.001 | worse |' in markdown
  assert '| MFLOPs/token | seconds |' in markdown
  assert '| 0.0003 | 1,234 | 4.87 | 2.0 |' in markdown
  assert '| 0.001 | 1,234 | 12.3 | 2.0 |' in markdown
  tex = (tmp_path / 'table.tex').read_text()
  assert r'& $+0.5000 \pm 0.0020$ & $<0.001$ & worse &' in tex
  assert '±' not in tex
  for written in (markdown, tex.replace('\\%', '%')):
    assert 'Verdicts: paired t test (Holm over 4 rows, 5 %)' in written
    assert 'Detectable: the true difference' in written


def test_verdicts_on_a_terminal_are_words() -> None:
  printed = terminal_text(judged_table())
  assert max(map(len, printed.splitlines())) <= 80
  for verdict in ('better', 'worse', 'equivalent', 'undecided'):
    assert sum(verdict in line for line in printed.splitlines()) >= 1, verdict
  (line,) = [x for x in printed.splitlines() if 'equivalent ' in x[-14:]]
  assert line.split()[0] == 'e'


def test_a_table_without_rows_to_compare() -> None:
  table = tables.make_table(records_of({'base': [1.0, 2.0]}), ['base'], 'base')
  assert table_files.statement(table) == (
    'Intervals: Student t over the seeds, 95 %.'
  )
  empty = tables.make_table([], ['base', 'row'], 'base')
  assert empty.absolute_margin is None
  assert row_of(empty, 'row').verdict == 'undecided'
  assert 'no trial' in terminal_text(empty)


def test_p_values_shares_and_units() -> None:
  assert [
    formats.format_p_value(p) for p in (None, 0.0, 9e-4, 0.0123, 1.0)
  ] == [
    '–',
    '<0.001',
    '<0.001',
    '0.012',
    '1.000',
  ]
  assert [formats.format_percent(x) for x in (0.01, 0.005, 1 - 0.05)] == [
    '1 %',
    '0.5 %',
    '95 %',
  ]
  assert formats.si_prefix([None, 2e6, 3e9]) == ('G', 1e9)
  assert formats.si_prefix([None]) == formats.si_prefix([12.0]) == ('', 1.0)


def test_json_has_no_nan() -> None:
  written = formats.json_text({'a': [math.nan, {'b': math.inf}], 'c': 1.0})
  assert json.loads(written) == {'a': [None, {'b': None}], 'c': 1.0}


def test_tex_is_escaped(tmp_path: pathlib.Path) -> None:
  table_files.write(_example(), tmp_path)
  written = (tmp_path / 'table.tex').read_text()
  assert r'a\_b \& 50\% \textbar{} \textless{}i\textgreater{} & $2$' in written
  assert (
    r'x\_1 \#2 \{\textasciitilde{}\textasciicircum{}\textbackslash{}\}'
    in written
  )
  body = written.split(r'\midrule')[1].split(r'\bottomrule')[0]
  assert all(
    line.replace(r'\&', '').count('&') == 9
    for line in body.strip().splitlines()
  )


def test_markdown_keeps_its_columns(tmp_path: pathlib.Path) -> None:
  table_files.write(_example(), tmp_path)
  lines = (tmp_path / 'table.md').read_text().splitlines()
  assert r'| a_b & 50% \| &lt;i> | 2 |' in lines[3]
  assert all(line.replace(r'\|', '').count('|') == 11 for line in lines[:5])


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
  assert formats.format_number(value, signed) == expected


def test_counts_and_times_in_words() -> None:
  assert formats.format_number_of(1, 'seed') == '1 seed'
  assert formats.format_number_of(1200, 'trial') == '1,200 trials'
  assert formats.format_expected(48.0) == 'under a minute'
  assert formats.format_expected(90.0) == 'about 1.5 minutes'


def test_numbers_in_tex() -> None:
  assert formats.format_tex_number('-1.2e-06') == r'$-1.2\times 10^{-6}$'
  assert formats.format_tex_number('1.2e+05') == r'$1.2\times 10^{5}$'
  assert formats.format_tex_number('12,345') == '$12{,}345$'


def test_terminal_of_80_columns_shows_whole_names() -> None:
  name = 'normalizer=softmax1 scale=none'
  assert len(name) == 30
  table = tables.make_table(
    records_of({'base': [1.0, 2.5, 2.0], name: [1.5, 2.0, 3.0]}),
    ['base', name],
    'base',
  )
  lines = terminal_text(table).splitlines()
  assert max(map(len, lines)) <= 80
  (line,) = [line for line in lines if name in line]
  row = row_of(table, name)
  assert formats.format_number(row.mean) in line
  assert formats.format_number(row.difference, signed=True) in line
  assert row.interval is not None
  assert formats.format_number(row.interval.half()) in line
  assert any(
    'base' in line.split()[:1] and 'base' in line.split()[1:] for line in lines
  )


def test_long_names_break_between_flags_and_words() -> None:
  name = 'feedforward=mlp feedforward.activation=relu'
  table = tables.make_table(
    records_of({'base': [1.0, 2.5], name: [1.5, 2.0]}), ['base', name], 'base'
  )
  lines = [
    line.strip().partition('  ')[0]
    for line in terminal_text(table).splitlines()
  ]
  assert {'feedforward=mlp', 'feedforward.activation=relu'} <= {*lines}
  narrow = io.StringIO()
  console.Console(file=narrow, width=15).print(NameCell(name))
  assert narrow.getvalue().split() == [
    'feedforward=mlp',
    'feedforward.',
    'activation=relu',
  ]


def test_markup_in_a_name_is_text() -> None:
  table = tables.make_table(
    records_of({'[red]x[/]': [1.0]}), ['[red]x[/]'], '[red]x[/]'
  )
  assert '[red]x[/]' in terminal_text(table)
