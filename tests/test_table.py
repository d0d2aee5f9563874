"""The statistics of a table against hand-computed numbers, and its files."""

import csv
import dataclasses
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import rich.console

from experiments import formats, table_files, table_terminal
from experiments import table as tables
from train import files
from train.figure import VAL_LOSS
from train.tasks.translation import BLEU

pytestmark = pytest.mark.usefixtures('quick_compilation')


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
    _records({'base': [1.0, 3.0]}), ['base'], 'base', alpha=0.1
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
  assert row.note == 'difference over the 2 seeds of both'


def test_no_seed_in_common_gives_no_difference() -> None:
  records = [_record('base', 0, 1.0), _record('row', 1, 2.0)]
  row = _only(tables.summarise(records, ['base', 'row'], 'base'), 'row')
  assert row.mean == 2.0
  assert row.difference is None
  assert (row.verdict, row.reason) == ('undecided', 'no paired seed')


def test_one_seed_gives_a_difference_without_interval() -> None:
  table = tables.summarise(
    _records({'base': [1.0], 'row': [1.5]}), ['base', 'row'], 'base'
  )
  row = _only(table, 'row')
  assert (row.interval, row.difference_interval) == (None, None)
  assert row.difference == 0.5
  assert (row.verdict, row.reason) == ('undecided', '1 paired seed')


def test_failed_and_diverged_are_noted_and_hide_nothing() -> None:
  records = [
    *_records({'base': [1.0, 2.0]}),
    _record(
      'row', 0, status='diverged', extra={'metrics': {'diverged_at': 37}}
    ),
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


@pytest.mark.parametrize(
  ('train', 'held', 'said'),
  [
    (3.3672945, 3.3672947, True),  # log 29, of 29 symbols
    (math.log(2), math.log(2), True),
    (3.3672, 3.3673, False),
    (0.0, 0.0, False),  # all right, with certainty
    (None, 3.4, False),
  ],
)
def test_a_network_that_is_dead_is_named(
  train: float | None, held: float, said: bool
) -> None:
  """Two of them are equal, which says nothing of what they differ in."""
  own = {'metrics': {'val_loss': held, 'train_loss': train}}
  rows = [_record(r, n, extra=own) for r in ('base', 'row') for n in (0, 1)]
  table = tables.summarise(rows, ['base', 'row'], 'base')
  note = '2 whose outputs are all alike, whatever is read: seed 0, seed 1'
  assert [row.note for row in table.rows] == [note if said else ''] * 2


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


_SPREAD = [0.0, 0.1, -0.1, 0.2, 0.05]


def _judged() -> tables.Table:
  """One row for each verdict, in this order, after the base."""
  base = [2.0 + x for x in _SPREAD]
  noise = [0.001, -0.001, 0.002, 0.0, -0.002]
  values = {
    'base': base,
    'b': [x - 0.5 + e for x, e in zip(base, noise, strict=True)],
    'w': [x + 0.5 + e for x, e in zip(base, noise, strict=True)],
    'e': [x + e for x, e in zip(base, noise, strict=True)],
    'u': [x + 50 * e for x, e in zip(base, noise, strict=True)],
  }
  records = [
    record
    | {
      'flops_per_token': 4_870_000 if record['row'] != 'w' else 12_345_678,
      'tuned': {'learning_rate': 1e-3 if record['row'] != 'b' else 3e-4},
    }
    for record in _records(values)
  ]
  return tables.summarise(records, list(values), 'base')


def test_verdicts_of_a_table() -> None:
  table = _judged()
  verdicts = [row.verdict for row in table.rows]
  assert verdicts == [None, 'better', 'worse', 'equivalent', 'undecided']
  assert [row.reason for row in table.rows] == [''] * 5
  # The margin is a share of the base's mean, 2.05.
  assert table.absolute_margin == pytest.approx(0.0205)
  row = _only(table, 'u')
  assert row.p is not None
  assert row.smallest_effect is not None
  assert row.seeds_needed is not None
  # Four rows: the measured effect that is found at 0.05 / 4 is large, ...
  assert row.smallest_effect > table.absolute_margin
  # ... and the seeds that would find the margin are more than there are.
  assert row.seeds_needed > 5
  assert f'About {row.seeds_needed} seeds' in table_files.statement(table)
  assert '±0.0205, 1 % of base' in table_files.statement(table)
  assert 'Holm over 4 rows, 5 %' in table_files.statement(table)


def test_margin_and_direction_are_arguments() -> None:
  records = _records(
    {'base': [1.0, 2.0, 3.0], 'row': [1.30, 2.29, 3.31]},
  )
  rows = ['base', 'row']
  reward = dataclasses.replace(VAL_LOSS, lower_is_better=False)
  higher = tables.summarise(records, rows, 'base', reward)
  assert _only(higher, 'row').verdict == 'better'
  wide = tables.summarise(records, rows, 'base', margin=0.5, alpha=1e-4)
  assert wide.absolute_margin == 1.0
  row = _only(wide, 'row')
  assert row.p_tost is not None
  assert row.p_tost < 1e-3
  assert wide.confidence == 1 - 1e-4


def test_the_verdict_is_that_of_the_figure_that_is_asked_for() -> None:
  """A row with a worse loss and better translations, and one of neither."""
  names = VAL_LOSS.name, BLEU.name
  figures = {
    'base': ([2.0, 2.1, 2.2], [30.0, 31.0, 32.0]),
    'row': ([2.2, 2.3, 2.4001], [33.0, 34.0, 35.001]),
    'same': ([2.0, 2.1, 2.2], [30.01, 30.98, 32.01]),
  }
  records = [
    _record(row, seed, extra={'metrics': dict(zip(names, pair, strict=True))})
    for row, columns in figures.items()
    for seed, pair in enumerate(zip(*columns, strict=True))
  ]
  by_loss = tables.summarise(records, list(figures), 'base')
  by_bleu = tables.summarise(records, list(figures), 'base', BLEU)
  assert _only(by_loss, 'row').verdict == 'worse'
  assert _only(by_bleu, 'row').verdict == 'better'
  assert _only(by_bleu, 'same').verdict == 'equivalent'
  for table, name, other in (
    (by_loss, 'val_loss', 'bleu'),
    (by_bleu, 'bleu', 'val_loss'),
  ):
    assert table.metric == name
    assert table.figures == [other]  # beside it, the loss is still to be seen
  assert by_bleu.absolute_margin == pytest.approx(0.31)
  assert _only(by_bleu, 'row').difference == pytest.approx(3.0003, abs=1e-4)
  title = table_terminal.render(by_bleu).title
  assert str(title) == 'bleu (higher is better)'


def test_a_diverged_trial_is_a_result() -> None:
  records = [
    *_records({'base': [1.0, 2.0, 3.0, 4.0]}),
    *(_record('gone', seed, status='diverged') for seed in range(4)),
    # Better, but for the seed that it lost.
    _record('lucky', 0, status='diverged'),
    *(_record('lucky', seed, seed + 0.5 + seed / 99) for seed in (1, 2, 3)),
    # A crash is no outcome.
    {'row': 'crashed', 'seed': 0, 'status': 'failed', 'error': 'x'},
    *(_record('crashed', seed, seed + 0.5 + seed / 99) for seed in (1, 2, 3)),
    # Ended, but with a loss that JSON has no number for.
    *(_record('null', seed) for seed in range(4)),
  ]
  for record in records:
    if record['row'] == 'null':
      record['metrics'] = {'val_loss': None}
  rows = ['base', 'gone', 'lucky', 'crashed', 'null']
  table = tables.summarise(records, rows, 'base')
  found = {row.row: (row.verdict, row.reason) for row in table.rows}
  # Of four rows, four seeds cannot tell: p would have to be 0.0125.
  reason = (
    'no paired seed; 4 of 4 diverged, base 0 of 4: p 0.029; '
    '4 rows need 0.013, so 5 seeds'
  )
  assert found['gone'] == found['null'] == ('undecided', reason)
  verdict, reason = found['lucky']
  assert verdict == 'undecided'
  assert reason.startswith(
    'not called better: 1 seed diverged here, not with the base (t test: p '
  )
  assert reason.endswith('; of divergence: p 1)')
  assert found['crashed'] == ('better', '')
  alone = tables.summarise(records, ['base', 'gone'], 'base')
  gone = _only(alone, 'gone')
  reason = '4 of 4 diverged, base 0 of 4: p 0.029'
  assert (gone.verdict, gone.reason) == ('worse', reason)
  assert (gone.p_paired, gone.p_diverged) == (None, gone.p)


def test_a_table_shows_both_tests_and_what_its_seeds_trust(
  tmp_path: pathlib.Path,
) -> None:
  records = [
    *_records({'base': [1.0, 2.0, 3.0, 4.0], 'row': [1.5, 2.6]}),
    *(_record('row', seed, status='diverged') for seed in (2, 3)),
  ]
  table = tables.summarise(records, ['base', 'row'], 'base')
  table_files.write(table, tmp_path)
  markdown = (tmp_path / 'table.md').read_text()
  assert '| p (t) | p (diverged) | p (Holm) | verdict |' in markdown
  assert '| 0.058 | 0.429 | 0.058 | undecided |' in markdown
  with (tmp_path / 'table.csv').open(newline='') as file:
    line = list(csv.DictReader(file))[1]
  assert float(line['p_paired']) == pytest.approx(0.0577, abs=1e-4)
  assert float(line['p_diverged']) == pytest.approx(3 / 7)
  printed = ' '.join(_printed(table).split())
  for part in (
    '2 of 4 diverged, base 0 of 4: p 0.43; one row needs 0.025, so 11 seeds',
    "and Fisher's exact test of how many diverged",
    'Fewer than 5 seeds have to trust the noise to have one mode.',
  ):
    assert part in printed, part
    assert part in markdown, part
  quiet = tables.summarise(
    _records({'base': [1.0] * 5, 'row': [2.0] * 5}), ['base', 'row'], 'base'
  )
  table_files.write(quiet, tmp_path)
  markdown = (tmp_path / 'table.md').read_text()
  assert '| p (Holm) | verdict |' in markdown
  for word in ('p (t)', 'Fisher', 'one mode'):
    assert word not in markdown


def test_a_verdict_can_be_withheld(tmp_path: pathlib.Path) -> None:
  records = _records({'base': [1.0, 2.0, 3.0], 'row': [2.0, 3.1, 3.9]})
  table = tables.summarise(
    records, ['base', 'row'], 'base', withheld={'row': 'edge of the grid'}
  )
  row = _only(table, 'row')
  assert (row.verdict, row.reason) == ('undecided', 'edge of the grid')
  assert 'row: edge of the grid' in _printed(table)
  table_files.write(table, tmp_path)
  for suffix in ('json', 'csv', 'md', 'tex'):
    assert 'edge of the grid' in (tmp_path / f'table.{suffix}').read_text()


def test_every_file_shows_verdict_cost_and_choice(
  tmp_path: pathlib.Path,
) -> None:
  table = _judged()
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
  printed = _printed(_judged())
  assert max(map(len, printed.splitlines())) <= 80
  for verdict in ('better', 'worse', 'equivalent', 'undecided'):
    assert sum(verdict in line for line in printed.splitlines()) >= 1, verdict
  (line,) = [x for x in printed.splitlines() if 'equivalent ' in x[-14:]]
  assert line.split()[0] == 'e'


def test_a_table_without_rows_to_compare() -> None:
  table = tables.summarise(_records({'base': [1.0, 2.0]}), ['base'], 'base')
  assert table_files.statement(table) == (
    'Intervals: Student t over the seeds, 95 %.'
  )
  empty = tables.summarise([], ['base', 'row'], 'base')
  assert empty.absolute_margin is None
  assert _only(empty, 'row').verdict == 'undecided'
  assert 'no trial' in _printed(empty)


def test_p_values_shares_and_units() -> None:
  assert [formats.p_value(p) for p in (None, 0.0, 9e-4, 0.0123, 1.0)] == [
    '–',
    '<0.001',
    '<0.001',
    '0.012',
    '1.000',
  ]
  assert [formats.percent(x) for x in (0.01, 0.005, 1 - 0.05)] == [
    '1 %',
    '0.5 %',
    '95 %',
  ]
  assert formats.unit([None, 2e6, 3e9]) == ('G', 1e9)
  assert formats.unit([None]) == formats.unit([12.0]) == ('', 1.0)


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
  assert formats.number(value, signed) == expected


def test_numbers_in_tex() -> None:
  assert formats.tex_number('-1.2e-06') == r'$-1.2\times 10^{-6}$'
  assert formats.tex_number('1.2e+05') == r'$1.2\times 10^{5}$'
  assert formats.tex_number('12,345') == '$12{,}345$'


def _printed(table: tables.Table) -> str:
  console = rich.console.Console(width=80)
  with console.capture() as capture:
    console.print(table_terminal.render(table))
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
