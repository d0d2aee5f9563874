"""--tune and --halving: what is selected, on which seeds, and what it is worth.

The expected choices are computed here, from trials that run one by one.
"""

import html
import json
import math
import random
import re
import shlex
from pathlib import Path

import jax
import pytest

from experiments.rows import halving, tuning
from experiments.rows.tuning import FIRST_SEED
from experiments.statistics.verdicts import Verdict
from helpers import alone
from helpers.commands import run, trials
from model.core.field import FieldError
from session.compilations import Compilations
from train.config.config import Config
from train.core.metric import Metric
from train.devices.parallel import SharedLayout
from train.files.durable import read_intact_lines
from train.flags.schema import override
from train.programs.program import get_program
from train.tasks.texts.text import Text
from train.trial import Options, Trial

pytestmark = pytest.mark.usefixtures('quick_compilation')

TINY = (
  '--num_layers=1',
  '--d_model=16',
  '--num_heads=2',
  '--seq_len=16',
  '--batch_size=4',
  '--steps=24',
  '--eval_every=2',
  '--warmup_steps=1',
)
RATES = ('1e-5', '1e-2', '3e0')
# Without, each program would be compiled for all layouts, to time them.
LANES = '--lanes=devices:2'


@pytest.fixture(scope='module')
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A text of about 3 kB."""
  draw = random.Random(0)
  words = ['to', 'be', 'or', 'not', 'that', 'is', 'the', 'question.\n']
  path = tmp_path_factory.mktemp('text') / 'text.txt'
  path.write_text(' '.join(draw.choices(words, k=800)))
  return path


def final_loss(
  text: Path, folder: Path, seed: int, steps: int, changes: dict[str, str]
) -> float:
  """Returns the loss after so many steps of a trial that runs by itself."""
  flags = dict(flag.removeprefix('--').split('=') for flag in TINY)
  config = override(
    Config(),
    flags
    | {'task.path': str(text), 'tie_embeddings': 'false', 'seed': str(seed)}
    | changes,
  )
  assert isinstance(config.task, Text)
  trial = Trial('x', config, folder, config.task.load(), pause=steps)
  devices = jax.local_devices(backend='cpu')
  result = alone.run(trial, Options(), SharedLayout((devices[0],)))
  loss = result.metrics['val_loss']
  assert loss is not None
  return loss


# The rules. -------------------------------------------------------------------


def test_the_grid_is_a_product_of_numbers_in_order() -> None:
  assert tuning.grid(()) == ({},)
  points = tuning.grid(('learning_rate=3e-3 1e-3', 'weight_decay=0 0.1'))
  assert [tuple(point.values()) for point in points] == [
    ('1e-3', '0'),
    ('1e-3', '0.1'),
    ('3e-3', '0'),
    ('3e-3', '0.1'),
  ]


@pytest.mark.parametrize(
  ('texts', 'rule'),
  [
    (('learning_rate',), 'must be FIELD=VALUE'),
    (('learning_rat=1 2',), 'did you mean learning_rate'),
    (('learning_rate=1e-3',), 'needs two different values'),
    (('learning_rate=1e-3 0.001',), 'needs two different values'),
    (('learning_rate=1e-3 fast',), 'all of them numbers'),
    (('position=none rope',), 'use --sweep for choices'),
    (('clip=1 2', 'clip=3 4'), 'clip is tuned twice'),
    (('seed=1 2',), 'seed is the same in every row'),
  ],
)
def test_a_grid_that_is_none_is_refused(
  texts: tuple[str, ...], rule: str
) -> None:
  with pytest.raises(FieldError, match=rule):
    tuning.grid(texts)


def test_a_best_value_at_the_edge_is_not_trusted() -> None:
  def tuned(*losses: float) -> tuning.TuningResult:
    points = tuning.grid(('learning_rate=1 2 3',))
    return tuning.choose_best_point(list(zip(points, losses, strict=True)))

  inside = tuned(3.0, 1.0, math.inf)
  assert (inside.point, inside.problem) == ({'learning_rate': '2'}, '')
  low, high = tuned(1.0, 2.0, 3.0), tuned(3.0, 2.0, 1.0)
  assert 'smallest tried' in low.problem
  assert 'largest tried' in high.problem
  lost = tuned(math.inf, math.inf, math.inf)
  assert 'no value of --tune trained' in lost.problem
  rows = {'base': inside, 'a': low, 'b': inside}
  assert list(tuning.withheld_rows(rows, 'base')) == ['a']
  assert list(tuning.withheld_rows(rows | {'base': high}, 'base')) == [*rows]


def test_rungs_multiply_until_fewer_than_eta_are_left() -> None:
  assert halving.rungs(600, 1, 27, 3) == (22, 66, 200)
  assert halving.rungs(600, 10, 27, 3) == (20, 60, 200)
  assert halving.rungs(600, 100, 2, 2) == (300,)
  assert halving.rungs(600, 100, 2, 3) == ()
  with pytest.raises(FieldError, match='lower --eval_every'):
    halving.rungs(600, 300, 27, 3)


def test_the_best_of_a_figure_that_should_be_high() -> None:
  points = tuning.grid(('learning_rate=1 2 3',))
  high = Metric('x', 'any', lower_is_better=False)
  tried = list(zip(points, (30.0, 34.0, high.worst), strict=True))
  assert tuning.choose_best_point(tried, high).point == {'learning_rate': '2'}
  assert tuning.choose_best_point(tried[:2]).point == {'learning_rate': '1'}
  lost = tuning.choose_best_point(
    [(point, high.worst) for point in points], high
  )
  assert lost.problem == 'no value of --tune trained to its end'


def test_the_best_survive_and_ties_go_by_order() -> None:
  losses = {'a': 2.0, 'b': math.inf, 'c': 1.0, 'd': 2.0, 'e': 3.0, 'f': 9.0}
  assert halving.survivors(losses, 3) == ['a', 'c']
  assert halving.survivors(losses, 6) == ['c']
  assert halving.survivors({'a': 1.0, 'b': 2.0}, 3) == ['a']


@pytest.mark.parametrize(
  ('argv', 'rule'),
  [
    (('--tune_seeds=3',), '--tune_seeds=3: has no effect without --tune'),
    (
      ('--tune=learning_rate=1 2', '--ablate=learning_rate=3'),
      "is what row 'learning_rate=3' sets",
    ),
    (
      ('--tune=learning_rate=1 2', '--sweep=clip=1 2 3', '--halving=2'),
      'drop one of them',
    ),
    (('--sweep=steps=10 20 30', '--halving=2'), 'sets steps'),
    (('--ablate=clip=2', '--halving=2'), 'nothing to choose from 1 rows'),
    (('--tune=learning_rate=-1 2',), '--learning_rate=-1'),
    (
      ('--sweep=clip=1 2 3', '--halving=2', '--metric=best_val_loss'),
      'known at the end of a trial only',
    ),
  ],
)
def test_what_cannot_be_selected_is_refused(
  argv: tuple[str, ...],
  rule: str,
  text: Path,
  tmp_path: Path,
  capsys: pytest.CaptureFixture[str],
) -> None:
  workdir = tmp_path / 'run'
  words = (*TINY, f'--task.path={text}', f'--workdir={workdir}', *argv)
  assert run(*words) == 2
  err = capsys.readouterr().err
  assert len(err.splitlines()) == 1
  assert rule in err
  assert not workdir.exists()


# Whole runs. ------------------------------------------------------------------


@pytest.mark.slow
def test_each_row_takes_its_own_best_value(
  text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  workdir = tmp_path / 'run'
  words = [
    *TINY,
    f'--task.path={text}',
    f'--workdir={workdir}',
    '--seeds=2',
    '--ablate=position=none',
    f'--tune=learning_rate={" ".join(RATES)}',
    LANES,
  ]
  assert run(*words) == 0
  records = trials(workdir)
  assert len(records) == 2 * 3 * 2 + 2 * 2
  chosen = json.loads((workdir / 'selection.json').read_text())['tuned']
  for row, changes in (('base', {}), ('position=none', {'position': 'none'})):
    tried = {
      rate: sum(
        final_loss(
          text,
          tmp_path / row / rate / str(seed),
          seed,
          24,
          {**changes, 'learning_rate': rate},
        )
        for seed in (FIRST_SEED, FIRST_SEED + 1)
      )
      / 2
      for rate in RATES
    }
    best = min(tried, key=lambda rate: tried[rate])
    assert best == '1e-2', 'the grid is to have its best inside'
    assert chosen[row]['point'] == {'learning_rate': best}
    for point, loss in chosen[row]['tried']:
      assert loss == pytest.approx(tried[point['learning_rate']], abs=1e-5)
    verdict = [r for r in records if r['row'] == row and r['seed'] < 2]
    assert [r['config']['learning_rate'] for r in verdict] == ['0.01'] * 2
  table = json.loads((workdir / 'table.json').read_text())
  assert [row['tuned'] for row in table['rows']] == [
    {'learning_rate': 0.01}
  ] * 2
  assert table['selected'] == [
    f'Chosen by --tune by val_loss on seeds {FIRST_SEED}, {FIRST_SEED + 1}, '
    'which no verdict uses: base learning_rate=1e-2, position=none '
    'learning_rate=1e-2.'
  ]
  assert 'Sensitivity to learning_rate' in (workdir / 'report.html').read_text()

  before = (workdir / 'trials.jsonl').read_bytes()
  assert run(*words, '--tune_seeds=2') == 0
  assert (workdir / 'trials.jsonl').read_bytes() == before
  capsys.readouterr()


@pytest.mark.slow
def test_an_optimum_at_the_edge_withholds_the_verdict(
  text: Path, tmp_path: Path
) -> None:
  workdir = tmp_path / 'run'
  words = (
    *TINY,
    f'--task.path={text}',
    f'--workdir={workdir}',
    '--seeds=2',
    '--tune_seeds=1',
    '--ablate=d_model=32',
    '--tune=learning_rate=1e-5 1e-3',
    LANES,
  )
  assert run(*words) == 0
  table = json.loads((workdir / 'table.json').read_text())
  _, row = table['rows']
  undecided: Verdict = 'undecided'
  assert row['verdict'] == undecided
  assert row['reason'] == (
    'in the base, learning_rate=1e-3 is the largest tried: widen --tune'
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  'lanes',
  [
    'shared:1',
    *(
      pytest.param(layout, marks=pytest.mark.slow)
      for layout in ('map:3', 'devices:2')
    ),
  ],
)
def test_rows_stop_at_the_rungs_of_a_sequential_search(
  lanes: str, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  """The survivors are those that rows run one by one would give."""
  workdir = tmp_path / 'run'
  rates = ('1e-5', '1e-4', '1e-3', '1e-2', '3e-2', '1e0')
  words = (
    *TINY,
    f'--task.path={text}',
    f'--workdir={workdir}',
    f'--lanes={lanes}',
    '--seeds=2',
    '--tune_seeds=1',
    f'--sweep=learning_rate={" ".join(rates)}',
    '--halving=2',
  )
  assert run(*words) == 0
  alive, rungs = list(rates), (6, 12)
  for rung in rungs:
    losses = {
      rate: final_loss(
        text,
        tmp_path / f'{rate} {rung}',
        FIRST_SEED,
        rung,
        {'learning_rate': rate},
      )
      for rate in alive
    }
    alive = sorted(alive, key=lambda rate: losses[rate])[: len(alive) // 2]
  (last,) = alive
  records = trials(workdir)
  finished = {r['row'] for r in records if r['status'] == 'ok'}
  assert finished == {'base', f'learning_rate={last}'}
  paused = [r for r in records if r['status'] == 'paused']
  assert [r['steps'] for r in paused] == [6] * 6 + [12] * 3
  assert all(r['seed'] == FIRST_SEED for r in paused)
  retired = json.loads((workdir / 'selection.json').read_text())['retired']
  assert len(retired) == 5
  assert sum('step 6' in why for why in retired.values()) == 3

  before = (workdir / 'trials.jsonl').read_bytes()
  assert run(*words) == 0
  assert (workdir / 'trials.jsonl').read_bytes() == before
  capsys.readouterr()


@pytest.mark.slow
def test_rows_stop_by_the_figure_that_is_asked_for(
  text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
  workdir = tmp_path / 'run'
  words = (
    *TINY,
    f'--task.path={text}',
    f'--workdir={workdir}',
    '--seeds=1',
    '--tune_seeds=1',
    '--sweep=learning_rate=1e-5 3e-2',
    '--halving=2',
    '--metric=val_accuracy',
  )
  assert run(*words) == 0
  seen = {}
  for record in trials(workdir):
    if record['status'] == 'paused':
      lines = read_intact_lines(
        workdir / 'runs' / record['trial'] / 'metrics.jsonl'
      )
      (line,) = [
        x for x in lines if x['step'] == record['steps'] and 'val_loss' in x
      ]
      seen[record['row']] = line['val_accuracy']
  worst, best = sorted(seen, key=lambda row: seen[row])
  assert seen[worst] < seen[best]
  selection = json.loads((workdir / 'selection.json').read_text())
  assert list(selection['retired']) == [worst]
  table = json.loads((workdir / 'table.json').read_text())
  assert (table['metric'], table['lower_is_better']) == ('val_accuracy', False)
  assert 'val accuracy (higher is better)' in capsys.readouterr().out
  (said,) = table['selected']
  assert said.startswith(
    f'Left out, by val_accuracy on seeds {FIRST_SEED}, which no verdict uses: '
    f'{worst} (stopped at step '
  )
  assert said in (workdir / 'table.md').read_text()
  # Another comparison has no selection, and takes none away.
  (kept,) = workdir.glob('comparisons/*/selection.json')
  assert run(*words[: len(TINY) + 3], '--only=base') == 0
  assert not (workdir / 'selection.json').exists()
  assert json.loads(kept.read_text()) == selection


@pytest.mark.slow
def test_the_survivor_is_replayed_by_its_printed_command(
  text: Path, tmp_path: Path
) -> None:
  workdir = tmp_path / 'run'
  words = (
    *TINY,
    f'--task.path={text}',
    '--seeds=2',
    '--tune_seeds=1',
    '--sweep=learning_rate=1e-5 1e-2',
    '--halving=2',
  )
  assert run(*words, f'--workdir={workdir}') == 0
  (row,) = {
    r['row']
    for r in trials(workdir)
    if r['status'] == 'ok' and r['row'] != 'base'
  }
  lanes = json.loads((workdir / 'layout.json').read_text())['lanes']
  again = tmp_path / 'again'
  replay = (*words, f'--only={row}', f'--lanes={lanes}', f'--workdir={again}')
  assert run(*replay) == 0
  found = {r['trial']: r['digest'] for r in trials(workdir)}
  assert len(trials(again)) == 2
  assert all(found[r['trial']] == r['digest'] for r in trials(again))


@pytest.mark.slow
def test_a_run_compiles_as_many_programs_as_planned(
  text: Path,
  tmp_path: Path,
  compiled: Compilations,
  capsys: pytest.CaptureFixture[str],
) -> None:
  """Free axes share a program, through tuning and all."""
  words = (
    *TINY,
    f'--task.path={text}',
    f'--workdir={tmp_path / "run"}',
    '--seeds=2',
    '--tune_seeds=1',
    '--sweep=clip=0.5 1.5',
    '--ablate=position=none',
    '--ablate=d_model=32',
    '--tune=learning_rate=1e-3 1e-2 1e-1',
    LANES,
  )
  assert run(*words, '--plan') == 0
  out = ' '.join(capsys.readouterr().out.split())
  assert '5 rows, 2 seeds, 25 trials' in out
  assert '25 trials, 3 programs to compile' in out
  assert re.search(
    r'free, without a program of their own: .*learning_rate', out
  )
  get_program.cache_clear()
  compiled.listener.reset_mock()
  assert run(*words) == 0
  # Each is a chunk of steps and an evaluation, which JAX names alike.
  found = [name for name in compiled.names if name == 'jit(_fun)']
  assert len(found) == 2 * 3, compiled.names


@pytest.mark.slow
def test_each_printed_command_replays_its_row(
  text: Path, tmp_path: Path
) -> None:
  """Under vmap and with dropout, where bits depend on the layout."""
  workdir = tmp_path / 'run'
  words = [
    *TINY,
    f'--task.path={text}',
    f'--workdir={workdir}',
    '--seeds=2',
    '--tune_seeds=1',
    '--ablate=position=none',
    '--dropout_residual=0.1',
    '--tune=learning_rate=1e-3 1e-2 1e-1',
    '--lanes=vmap:2',
  ]
  assert run(*words) == 0
  page = html.unescape((workdir / 'report.html').read_text())
  found = re.findall(r'<dd><pre>(.*? --only=.*?)</pre>', page)
  assert len(found) == 2
  expected = {r['trial']: r['digest'] for r in trials(workdir)}
  for n, command in enumerate(found):
    folder = tmp_path / f'replay {n}'
    program, *rest = shlex.split(command)
    assert program == 'python'
    assert command.count('--workdir') == command.count('--lanes') == 1
    again = [
      word.replace('--workdir=NEW', f'--workdir={folder}') for word in rest
    ]
    assert run(*again[1:]) == 0
    assert len(trials(folder)) == 3 + 2
    assert all(expected[r['trial']] == r['digest'] for r in trials(folder))
