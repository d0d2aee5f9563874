"""Rows from --ablate, --sweep, --zip, presets and random search."""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from experiments.experiment import BASE, Row
from experiments.questions.discover import discover
from experiments.rows.rows import RowRequests, configure, expand_rows
from experiments.rows.sweeps import sweep_points
from helpers.commands import run
from model.core.field import FieldError
from train.config.config import Config
from train.flags.schema import override

ROWS = (
  Row(BASE, {}),
  Row('modern', {'position': 'rope', 'norm': 'rmsnorm', 'scale': 'none'}),
  Row('raw', {'projections': 'raw'}),
)
OTHER = override(
  Config(), {'position': 'sinusoidal', 'num_layers': '3', 'clip': 'none'}
)


def changed(
  requests: RowRequests, base: Config = OTHER
) -> dict[str, dict[str, str]]:
  """Returns `{name: changes}` of the rows, without the base."""
  rows = expand_rows(base, ROWS, requests)
  return {row.name: dict(row.changes) for row in rows[1:]}


# What holds for all. ----------------------------------------------------------

MANY = (
  RowRequests(),
  RowRequests(
    ablate=('scale=none', 'scale=none', 'norm=rmsnorm residual=post')
  ),
  RowRequests(sweep=('steps=5 600 7', 'position=none rope', 'clip=none 1')),
  RowRequests(
    zip=('num_heads=1 2 4; head_dim=64 32 16',), sweep=('steps=5 6',)
  ),
  RowRequests(ablate_from='modern', add_one='modern', ablate=('norm=rmsnorm',)),
  RowRequests(
    sweep=('learning_rate=log(1e-5,1)', 'steps=int(1,9)', 'clip=lin(0,2)'),
    zip=('position=none rope; norm=none rmsnorm',),
    trials=40,
  ),
)


@pytest.mark.parametrize('requests', MANY, ids=range(len(MANY)))
@pytest.mark.parametrize('base', [Config(), OTHER], ids=['default', 'other'])
def test_rows_are_valid_different_and_replay_by_flags(
  base: Config, requests: RowRequests
) -> None:
  rows = expand_rows(base, ROWS, requests)
  assert rows[0] == Row(BASE, {})
  configs = [override(base, row.changes) for row in rows]
  assert len(set(configs)) == len({row.name for row in rows}) == len(rows) > 2
  again = expand_rows(base, ROWS, requests)
  assert [configure(base, row) for row in again] == configs
  # A row as flags makes that row, and no other.
  for row, config in zip(rows[1:], configs[1:], strict=True):
    text = ' '.join(f'{k}={v}' for k, v in row.changes.items())
    alone = expand_rows(base, ROWS, RowRequests(ablate=(text,)))
    assert [configure(base, row) for row in alone] == [base, config]


def test_experiments_keep_their_rows() -> None:
  for experiment in discover().values():
    rows = expand_rows(experiment.base, experiment.rows, RowRequests())
    assert [row.name for row in rows] == [row.name for row in experiment.rows]


def test_rows_of_an_experiment_that_flags_make_equal_are_left_out() -> None:
  base = override(Config(), {'projections': 'raw'})
  names = [row.name for row in expand_rows(base, ROWS, RowRequests())]
  assert names == [row.name for row in ROWS if row.name != 'raw']


def test_a_row_that_is_asked_for_and_is_another_is_named(
  capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
  """A table without it says nothing of it."""
  text = tmp_path / 'a.txt'
  text.write_text('to be or not to be\n' * 40)
  given = ['--experiment=train', f'--task.path={text}', '--plan']
  assert run(*given, '--ablate=position=learned', '--ablate=num_heads=2') == 0
  out, _ = capsys.readouterr()
  assert 'left out, the same as another row: position=learned\n' in out


def test_rows_asked_for_come_in_the_order_of_the_flags() -> None:
  requests = RowRequests(
    ablate=('scale=none',),
    ablate_from='norm=rmsnorm residual=post',
    add_one='dtype=bfloat16 remat=true',
    sweep=('steps=1 2',),
    zip=('num_heads=1 2; head_dim=4 8',),
  )
  assert list(changed(requests)) == [
    'scale=none',
    'preset',
    'without norm=rmsnorm',
    'without residual=post',
    'dtype=bfloat16',
    'remat=true',
    'steps=1 num_heads=1 head_dim=4',
    'steps=1 num_heads=2 head_dim=8',
    'steps=2 num_heads=1 head_dim=4',
    'steps=2 num_heads=2 head_dim=8',
  ]


# Presets. ---------------------------------------------------------------------


def test_leave_one_out_goes_back_to_the_base() -> None:
  theta = {'position': 'rope', 'position.theta': '10000.0'}
  rest = {'norm': 'rmsnorm', 'norm.eps': '1e-06'}
  rows = changed(RowRequests(ablate_from='modern'), Config())
  assert rows == {
    'preset': {'scale': 'none', **theta, **rest},
    'without position=rope': {'scale': 'none', **rest},
    'without norm=rmsnorm': {'scale': 'none', **theta},
    'without scale=none': {**theta, **rest},
  }


def test_add_one_adds_each_choice_to_the_base() -> None:
  rows = changed(RowRequests(add_one='modern'), Config())
  assert rows == {
    'position=rope': {'position': 'rope', 'position.theta': '10000.0'},
    'norm=rmsnorm': {'norm': 'rmsnorm', 'norm.eps': '1e-06'},
    'scale=none': {'scale': 'none'},
  }


def test_a_sub_flag_moves_with_its_choice() -> None:
  text = 'position.theta=500 norm=none position=rope'
  together = 'position.theta=500 position=rope'
  rope = {'position': 'rope', 'position.theta': '500.0'}
  base = Config()
  assert changed(RowRequests(ablate_from=text), base) == {
    'preset': {'norm': 'none', **rope},
    f'without {together}': {'norm': 'none'},
    'without norm=none': rope,
  }
  assert changed(RowRequests(add_one=text), base) == {
    together: rope,
    'norm=none': {'norm': 'none'},
  }
  # Where the base has the choice, its sub-flags are choices of their own.
  alone = 'optimizer.b1=0.8 optimizer.eps=1e-6'
  assert changed(RowRequests(add_one=alone), base) == {
    'optimizer.b1=0.8': {'optimizer.b1': '0.8'},
    'optimizer.eps=1e-6': {'optimizer.eps': '1e-06'},
  }


# Random search. ---------------------------------------------------------------

SEARCH = ('learning_rate=log(1e-4,1e-2)', 'position=rope none')


def search(
  trials: int, seed: int = 0, sweeps: Sequence[str] = SEARCH
) -> list[dict[str, str]]:
  """Returns the points of a random search."""
  return sweep_points(sweeps, (), trials, seed)


def test_more_trials_extend_fewer() -> None:
  long = search(32)
  assert all(search(n) == long[:n] for n in (1, 7, 31))
  assert search(32, seed=1) != long
  assert not {p['learning_rate'] for p in long} & {
    p['learning_rate'] for p in search(32, seed=1)
  }


def test_draws_are_pinned() -> None:
  """They are part of what a seed promises, on every version of NumPy."""
  assert [p['learning_rate'] for p in search(3)] == [
    '0.0002429',
    '0.00936',
    '0.000721',
  ]


def test_an_axis_keeps_its_values_beside_others() -> None:
  rates = [p['learning_rate'] for p in search(9)]
  for sweeps in ((SEARCH[0],), SEARCH[::-1], ('clip=lin(0,1)', *SEARCH)):
    found = search(9, sweeps=sweeps)
    assert [p['learning_rate'] for p in found] == rates


def test_ranges_are_filled_evenly() -> None:
  sweeps = (
    'learning_rate=log(1e-4,1e-2)',
    'clip=lin(-1,3)',
    'num_layers=int(2,5)',
    'norm=none rmsnorm',
  )
  zips = ('num_heads=1 2 4; head_dim=64 32 16',)
  found = sweep_points(sweeps, zips, 4000, 3)
  unit = {
    'log': [math.log10(float(p['learning_rate'])) / 2 + 2 for p in found],
    'lin': [(float(p['clip']) + 1) / 4 for p in found],
    'int': [(int(p['num_layers']) - 2) / 3 for p in found],
    'list': [float(p['norm'] == 'none') for p in found],
    'zip': [math.log2(int(p['num_heads'])) / 2 for p in found],
  }
  for name, values in unit.items():
    assert min(values) >= 0
    assert max(values) <= 1
    # Five standard errors of the widest of these distributions, a coin's.
    assert abs(np.mean(values) - 0.5) < 5 * 0.5 / math.sqrt(4000), name
  assert {p['num_layers'] for p in found} == {'2', '3', '4', '5'}
  assert all(int(p['num_heads']) * int(p['head_dim']) == 64 for p in found)
  between = np.corrcoef([unit[k] for k in ('log', 'lin', 'list', 'zip')])
  assert np.abs(between - np.eye(4)).max() < 5 / math.sqrt(4000)


def test_draws_have_four_digits_and_stay_between_the_ends() -> None:
  for point in search(50):
    digits = point['learning_rate'].partition('e')[0].replace('.', '')
    assert len(digits.lstrip('0')) <= 4
  # Rounding would leave this range on both sides.
  narrow = search(3, sweeps=['clip=lin(1.0004,1.0016)'])
  assert {p['clip'] for p in narrow} == {'1.0004', '1.001', '1.0016'}


def test_points_are_different() -> None:
  found = search(9, sweeps=['steps=int(1,9)'])
  assert sorted(p['steps'] for p in found) == list('123456789')


# Errors. ----------------------------------------------------------------------

# What is asked, and what the line must say.
WRONG = (
  (
    RowRequests(ablate=('positon=rope',)),
    ('--ablate', 'did you mean position?'),
  ),
  (RowRequests(ablate=('steps=1 steps=2',)), ('--ablate', 'steps', 'twice')),
  (RowRequests(ablate=('seed=3',)), ('--ablate=seed=3', '--seeds=N')),
  (RowRequests(ablate=(' ',)), ('--ablate', 'FIELD=VALUE')),
  (RowRequests(ablate=('norm=nne',)), ('--norm=nne', "(in row 'norm=nne')")),
  (RowRequests(sweep=('seed=1 2',)), ('--sweep', 'seed')),
  (RowRequests(sweep=('steps= ',)), ('--sweep', 'FIELD=VALUE')),
  (RowRequests(sweep=('steps=1', 'steps=2')), ('--sweep', 'swept twice')),
  (
    RowRequests(sweep=('steps=1',), zip=('steps=2; seq_len=2',)),
    ('--zip', 'steps is swept twice'),
  ),
  (
    RowRequests(zip=('num_heads=1 2 4; head_dim=64 32',)),
    ('--zip', 'num_heads has 3, head_dim has 2'),
  ),
  (RowRequests(zip=('num_heads=1 2',)), ('--zip', 'use --sweep')),
  (RowRequests(zip=('steps=1; steps=2',)), ('--zip', 'twice')),
  (RowRequests(zip=('steps=1; stps=2',)), ('--zip', 'did you mean steps?')),
  (RowRequests(zip=('steps=int(1,2); seq_len=2',)), ('--zip', '--sweep')),
  (RowRequests(zip=(';',)), ('--zip', 'FIELD=VALUE')),
  (RowRequests(ablate_from='modren'), ('modern|raw', 'did you mean modern?')),
  (RowRequests(add_one='base'), ('--add_one=base', 'modern|raw')),
  (RowRequests(add_one='norm=nne'), ('--norm=nne', "(in row 'norm=nne')")),
  (
    RowRequests(ablate_from='norm=none position=sinusoidal'),
    ('--ablate_from', 'position=sinusoidal', 'the base has', 'drop it'),
  ),
  (RowRequests(add_one='norm=layernorm'), ('--add_one', 'the base has')),
  (
    RowRequests(ablate_from='norm=none norm=rmsnorm'),
    ('--ablate_from', 'twice'),
  ),
  (RowRequests(ablate_from=''), ('--ablate_from', 'modern|raw')),
)
WRONG_SEARCH = (
  (('learning_rate=log(1e-4,1e-2)',), None, ('--sweep', 'add --trials=32')),
  (('learning_rate=1e-4 1e-2',), 4, ('--trials=4', 'drop it', 'log(')),
  ((), 4, ('--trials=4', 'drop it')),
  (('clip=lin(0,1)',), 0, ('--trials=0', 'at least 1')),
  (('clip=lgo(1,2)',), 4, ('--sweep', 'log(a,b)|lin', 'did you mean log?')),
  (('clip=lin(1,2,3)',), 4, ('--sweep', 'lin(a,b)')),
  (('clip=lin(1,2) 3',), 4, ('--sweep', 'alone')),
  (('clip=lin(a,2)',), 4, ('--sweep', 'numbers')),
  (('clip=lin(1,inf)',), 4, ('--sweep', 'finite')),
  (('clip=lin(2,1)',), 4, ('--sweep', 'swap')),
  (('clip=log(0,1)',), 4, ('--sweep', 'above 0')),
  (('steps=log(1,9)',), 4, ('steps is an integer', 'use int(1,9)')),
  (('steps=int(1,9.5)',), 4, ('--sweep', 'integers')),
  (('steps=int(1,3)',), 4, ('--trials=4', 'only 3', 'try --trials=3')),
  (('position=log(1,2)',), None, ('--position=log(1,2)', 'must be one of')),
  (('clip=lin(-9,-8)',), 1, ('--clip', 'at least 0', "(in row 'clip=-8.")),
)


@pytest.mark.parametrize(('requests', 'parts'), WRONG, ids=str)
def test_errors_name_the_flag_and_the_fix(
  requests: RowRequests, parts: Sequence[str]
) -> None:
  with pytest.raises(FieldError) as caught:
    expand_rows(OTHER, ROWS, requests)
  line = str(caught.value)
  assert line.startswith('--')
  assert all(part in line for part in parts), line


@pytest.mark.parametrize('flag', ['add_one', 'ablate_from'])
def test_where_no_row_changes_the_base_none_is_listed(flag: str) -> None:
  with pytest.raises(FieldError) as caught:
    expand_rows(Config(), (Row(BASE, {}),), RowRequests(**{flag: 'x'}))
  line = str(caught.value)
  assert line == f'--{flag}=x: must be FIELD=VALUE [FIELD=VALUE ...]'


@pytest.mark.parametrize(('sweep', 'trials', 'parts'), WRONG_SEARCH, ids=str)
def test_errors_of_a_search_name_the_flag_and_the_fix(
  sweep: tuple[str, ...], trials: int | None, parts: Sequence[str]
) -> None:
  test_errors_name_the_flag_and_the_fix(
    RowRequests(sweep=sweep, trials=trials), parts
  )


@pytest.mark.parametrize(
  'requests',
  [
    RowRequests(search_seed=3),
    RowRequests(search_seed=-1, trials=2, sweep=('clip=lin(0,1)',)),
  ],
  ids=['unused', 'negative'],
)
def test_search_seeds_that_do_nothing_are_refused(
  requests: RowRequests,
) -> None:
  with pytest.raises(FieldError, match='--search_seed='):
    expand_rows(OTHER, ROWS, requests)


def test_a_regular_expression_is_no_range() -> None:
  rows = changed(
    RowRequests(sweep=('freeze=^(embedding|unembedding)/',)), Config()
  )
  assert [*rows.values()] == [{'freeze': '^(embedding|unembedding)/'}]
