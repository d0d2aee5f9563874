"""The statistics of a table against hand-computed numbers."""

import csv
import dataclasses
import math
import pathlib

import numpy as np
import pytest

from experiments.table import table as tables
from experiments.table import table_files, table_terminal
from helpers.tables import (
  judged_table,
  record_of,
  records_of,
  row_of,
  terminal_text,
)
from train.core.metric import VAL_LOSS
from train.tasks.texts.translation import BLEU

pytestmark = pytest.mark.usefixtures('quick_compilation')


def test_interval_of_three_seeds_by_hand() -> None:
  records = records_of({'base': [1.0, 2.0, 3.0]})
  table = tables.make_table(records, ['base'], 'base')
  row = table.rows[0]
  # Standard deviation 1: half = t(0.975, 2) / sqrt(3) = 4.302653 / 1.732051.
  assert row.mean == 2.0
  assert row.interval is not None
  assert row.interval.low == pytest.approx(2 - 2.484138, abs=1e-6)
  assert row.interval.high == pytest.approx(2 + 2.484138, abs=1e-6)
  assert row.interval.half() == pytest.approx(2.484138, abs=1e-6)
  assert (row.seeds, row.parameters, row.seconds) == (3, 1234, 2.0)


def test_confidence_sets_the_quantile() -> None:
  table = tables.make_table(
    records_of({'base': [1.0, 3.0]}), ['base'], 'base', alpha=0.1
  )
  # Standard deviation sqrt(2), so half = t(0.95, 1) = 6.313752.
  assert table.rows[0].interval is not None
  assert table.rows[0].interval.half() == pytest.approx(6.313752, abs=1e-6)


def test_intervals_cover_at_their_confidence() -> None:
  draws = np.random.default_rng(0).normal(size=(4, 500))
  rows = [f'r{i}' for i in range(draws.shape[1])]
  table = tables.make_table(
    records_of({row: list(draws[:, i]) for i, row in enumerate(rows)}),
    rows,
    'r0',
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
  table = tables.make_table(
    records_of({'base': [0.0, 10.0, 20.0], 'row': [1.0, 11.1, 20.9]}),
    ['base', 'row'],
    'base',
  )
  row = row_of(table, 'row')
  assert row.difference == pytest.approx(1.0)
  assert row.difference_interval is not None
  # Differences 1, 1.1, 0.9: standard deviation 0.1.
  assert row.difference_interval.half() == pytest.approx(0.2484138, abs=1e-6)
  base = row_of(table, 'base')
  assert base.is_base
  assert base.difference is None


def test_difference_uses_the_seeds_of_both() -> None:
  records = [
    *(record_of('base', seed, float(seed)) for seed in (0, 1, 2)),
    *(record_of('row', seed, seed + 0.5) for seed in (1, 2, 3, 4)),
  ]
  row = row_of(tables.make_table(records, ['base', 'row'], 'base'), 'row')
  assert row.mean == pytest.approx(3.0)
  assert row.difference == pytest.approx(0.5)
  assert row.difference_interval == tables.Interval(0.5, 0.5)
  assert row.note == 'difference over the 2 seeds of both'


def test_no_seed_in_common_gives_no_difference() -> None:
  records = [record_of('base', 0, 1.0), record_of('row', 1, 2.0)]
  row = row_of(tables.make_table(records, ['base', 'row'], 'base'), 'row')
  assert row.mean == 2.0
  assert row.difference is None
  assert (row.verdict, row.reason) == ('undecided', 'no paired seed')


def test_one_seed_gives_a_difference_without_interval() -> None:
  table = tables.make_table(
    records_of({'base': [1.0], 'row': [1.5]}), ['base', 'row'], 'base'
  )
  row = row_of(table, 'row')
  assert (row.interval, row.difference_interval) == (None, None)
  assert row.difference == 0.5
  assert (row.verdict, row.reason) == (
    'undecided',
    '1 paired seed: no test, a verdict needs at least 2 (--seeds=5)',
  )


def test_failed_and_diverged_are_noted_and_hide_nothing() -> None:
  records = [
    *records_of({'base': [1.0, 2.0]}),
    record_of(
      'row', 0, status='diverged', extra={'metrics': {'diverged_at': 37}}
    ),
    record_of('row', 1, 3.0),
    {'row': 'row', 'seed': 2, 'status': 'failed', 'error': 'out of\nmemory'},
    {'row': 'gone', 'seed': 0, 'status': 'failed'},
  ]
  table = tables.make_table(records, ['base', 'row', 'gone', 'none'], 'base')
  row = row_of(table, 'row')
  assert (row.seeds, row.diverged, row.failed) == (1, 1, 1)
  assert row.values == {1: 3.0}
  assert row.difference == 1.0
  assert row.note == (
    '1 failed: seed 2: out of memory; 1 diverged: seed 0 at step 37'
  )
  gone = row_of(table, 'gone')
  assert gone.note == '1 failed: seed 0: no message'
  assert (gone.mean, gone.seconds, gone.parameters) == (None, None, None)
  assert row_of(table, 'none').note == 'no trial'


def test_a_metric_that_is_not_finite_is_no_value() -> None:
  records = [
    record_of('base', 0, 1.0),
    record_of('base', 1, math.inf),
    record_of('base', 2),
  ]
  row = tables.make_table(records, ['base'], 'base').rows[0]
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
  rows = [record_of(r, n, extra=own) for r in ('base', 'row') for n in (0, 1)]
  table = tables.make_table(rows, ['base', 'row'], 'base')
  note = '2 with the same output for every input: seed 0, seed 1'
  assert [row.note for row in table.rows] == [note if said else ''] * 2


def test_last_record_wins() -> None:
  records = [
    record_of('base', 0, status='failed', extra={'error': 'lost device'}),
    record_of('base', 1, 5.0),
    record_of('base', 0, 4.0),
    record_of('base', 1, 6.0),
  ]
  row = tables.make_table(records, ['base'], 'base').rows[0]
  assert (row.failed, row.note) == (0, '')
  assert row.values == {0: 4.0, 1: 6.0}


def test_base_must_be_a_row() -> None:
  with pytest.raises(ValueError, match="base='x' is not one of the rows"):
    tables.make_table([], ['a'], 'x')


def test_verdicts_of_a_table() -> None:
  table = judged_table()
  verdicts = [row.verdict for row in table.rows]
  assert verdicts == [None, 'better', 'worse', 'equivalent', 'undecided']
  assert [row.reason for row in table.rows] == [''] * 5
  # The margin is a share of the base's mean, 2.05.
  assert table.absolute_margin == pytest.approx(0.0205)
  row = row_of(table, 'u')
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
  records = records_of(
    {'base': [1.0, 2.0, 3.0], 'row': [1.30, 2.29, 3.31]},
  )
  rows = ['base', 'row']
  reward = dataclasses.replace(VAL_LOSS, lower_is_better=False)
  higher = tables.make_table(records, rows, 'base', reward)
  assert row_of(higher, 'row').verdict == 'better'
  wide = tables.make_table(records, rows, 'base', margin=0.5, alpha=1e-4)
  assert wide.absolute_margin == 1.0
  row = row_of(wide, 'row')
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
    record_of(row, seed, extra={'metrics': dict(zip(names, pair, strict=True))})
    for row, columns in figures.items()
    for seed, pair in enumerate(zip(*columns, strict=True))
  ]
  by_loss = tables.make_table(records, list(figures), 'base')
  by_bleu = tables.make_table(records, list(figures), 'base', BLEU)
  assert row_of(by_loss, 'row').verdict == 'worse'
  assert row_of(by_bleu, 'row').verdict == 'better'
  assert row_of(by_bleu, 'same').verdict == 'equivalent'
  for table, name, other in (
    (by_loss, 'val_loss', 'bleu'),
    (by_bleu, 'bleu', 'val_loss'),
  ):
    assert table.metric == name
    assert table.figures == [other]  # beside it, the loss is still to be seen
  assert by_bleu.absolute_margin == pytest.approx(0.31)
  assert row_of(by_bleu, 'row').difference == pytest.approx(3.0003, abs=1e-4)
  title = table_terminal.render(by_bleu).title
  assert str(title) == 'bleu (higher is better)'


def test_a_diverged_trial_is_a_result() -> None:
  records = [
    *records_of({'base': [1.0, 2.0, 3.0, 4.0]}),
    *(record_of('gone', seed, status='diverged') for seed in range(4)),
    # Better, but for the seed that it lost.
    record_of('lucky', 0, status='diverged'),
    *(record_of('lucky', seed, seed + 0.5 + seed / 99) for seed in (1, 2, 3)),
    # A crash is no outcome.
    {'row': 'crashed', 'seed': 0, 'status': 'failed', 'error': 'x'},
    *(record_of('crashed', seed, seed + 0.5 + seed / 99) for seed in (1, 2, 3)),
    # Ended, but with a loss that JSON has no number for.
    *(record_of('null', seed) for seed in range(4)),
  ]
  for record in records:
    if record['row'] == 'null':
      record['metrics'] = {'val_loss': None}
  rows = ['base', 'gone', 'lucky', 'crashed', 'null']
  table = tables.make_table(records, rows, 'base')
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
  alone = tables.make_table(records, ['base', 'gone'], 'base')
  gone = row_of(alone, 'gone')
  reason = '4 of 4 diverged, base 0 of 4: p 0.029'
  assert (gone.verdict, gone.reason) == ('worse', reason)
  assert (gone.p_paired, gone.p_diverged) == (None, gone.p)


def test_a_table_shows_both_tests_and_what_its_seeds_trust(
  tmp_path: pathlib.Path,
) -> None:
  records = [
    *records_of({'base': [1.0, 2.0, 3.0, 4.0], 'row': [1.5, 2.6]}),
    *(record_of('row', seed, status='diverged') for seed in (2, 3)),
  ]
  table = tables.make_table(records, ['base', 'row'], 'base')
  table_files.write(table, tmp_path)
  markdown = (tmp_path / 'table.md').read_text()
  assert '| p (t) | p (diverged) | p (Holm) | verdict |' in markdown
  assert '| 0.058 | 0.429 | 0.058 | undecided |' in markdown
  with (tmp_path / 'table.csv').open(newline='') as file:
    line = list(csv.DictReader(file))[1]
  assert float(line['p_paired']) == pytest.approx(0.0577, abs=1e-4)
  assert float(line['p_diverged']) == pytest.approx(3 / 7)
  printed = ' '.join(terminal_text(table).split())
  for part in (
    '2 of 4 diverged, base 0 of 4: p 0.43; one row needs 0.025, so 11 seeds',
    "and Fisher's exact test of how many diverged",
    'With fewer than 5 seeds, verdicts assume noise with one mode.',
  ):
    assert part in printed, part
    assert part in markdown, part
  quiet = tables.make_table(
    records_of({'base': [1.0] * 5, 'row': [2.0] * 5}), ['base', 'row'], 'base'
  )
  table_files.write(quiet, tmp_path)
  markdown = (tmp_path / 'table.md').read_text()
  assert '| p (Holm) | verdict |' in markdown
  for word in ('p (t)', 'Fisher', 'one mode'):
    assert word not in markdown


def test_a_verdict_can_be_withheld(tmp_path: pathlib.Path) -> None:
  records = records_of({'base': [1.0, 2.0, 3.0], 'row': [2.0, 3.1, 3.9]})
  table = tables.make_table(
    records, ['base', 'row'], 'base', withheld={'row': 'edge of the grid'}
  )
  row = row_of(table, 'row')
  assert (row.verdict, row.reason) == ('undecided', 'edge of the grid')
  assert 'row: edge of the grid' in terminal_text(table)
  table_files.write(table, tmp_path)
  for suffix in ('json', 'csv', 'md', 'tex'):
    assert 'edge of the grid' in (tmp_path / f'table.{suffix}').read_text()
