"""What --plan says: of each row what it will be, and how long it takes here."""

import json
import pathlib
import re
from collections.abc import Sequence
from typing import Any

import pytest
from absl import flags

from experiments.cli import listing
from experiments.cli import main as cli
from experiments.command import Command
from experiments.experiment import BASE, Experiment, Row
from experiments.planning import speed
from experiments.planning.plan import Plan, make_plan
from experiments.results import comparisons
from experiments.rows.rows import RowRequests
from helpers.commands import initial_size
from train.config.config import Config
from train.files.durable import cache_folder
from train.flags.schema import override
from train.trial import Options

TEXT = ''.join(f'{n} quick foxes jump over the lazy dogs.\n' for n in range(60))
TINY = {'seq_len': '16', 'd_model': '16', 'num_heads': '2', 'num_layers': '2'}


@pytest.fixture
def folder(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
  """Returns a folder with a text; the user's cache there knows no speeds."""
  monkeypatch.setenv('ABLAX_CACHE', str(tmp_path / 'cache'))
  (tmp_path / 'text.txt').write_text(TEXT)
  return tmp_path


def plan_of(
  folder: pathlib.Path,
  flags: dict[str, str],
  ablate: Sequence[str] = (),
  workdir: str | None = 'run',
) -> Plan:
  given = {'task.path': str(folder / 'text.txt')} if 'task' not in flags else {}
  base = override(Config(), TINY | given | flags)
  experiment = Experiment(
    'x', 'x', 'x', 'x', 'own', 'x', base, (Row(BASE, {}),), 2, {}
  )
  command = Command(workdir=workdir and str(folder / workdir))
  return make_plan(
    experiment, base, command, Options(), RowRequests(ablate=tuple(ablate))
  )


CLASSES = {'task': 'most_frequent', 'model': 'classifier'}


def test_names_of_directories_and_comparisons_stay(
  tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  """A flag that is added moves nothing that is there already."""
  monkeypatch.chdir(tmp_path)
  rows = ('norm=rmsnorm', 'position=rope position.theta=500')
  plan = plan_of(tmp_path, CLASSES, rows, None)
  assert str(plan.workdir) == 'runs/x-687e1665'
  home = 'norm-rmsnorm-position-rope-position-thet-87ba7d46'
  assert comparisons.comparison_folder(plan).name == home
  said = ('norm=rmsnorm norm.eps=1e-6', f'{rows[1]} qk_norm=none')
  again = plan_of(tmp_path, CLASSES | {'clip': '1'}, said, None)
  assert again.workdir == plan.workdir
  names = [planned.trial.id for planned in plan.trials]
  assert [planned.trial.id for planned in again.trials] == names


MATRIX = [
  (
    {},
    (
      'task.tokenizer=byte',
      'task.tokenizer=word',
      'tie_embeddings=false',
      'task.tokenizer=byte tie_embeddings=false',
      'projections=shared_kv',
      'position=t5',
      'd_model=32',
      'output=differential',
    ),
  ),
  (CLASSES, ('task.symbols=7', 'model.pooling=cls', 'norm=rmsnorm')),
]


@pytest.mark.parametrize(('flags', 'rows'), MATRIX, ids=['text', 'classes'])
def test_planned_rows_are_those_that_are_trained(
  folder: pathlib.Path,
  capsys: pytest.CaptureFixture[str],
  flags: dict[str, str],
  rows: Sequence[str],
) -> None:
  """With the vocabulary of the row's own task, not with that of the base."""
  plan = plan_of(folder, flags, rows)
  listing.show_plan(plan)
  said = re.findall(
    r'(?m)^(\S.*?)  +([\d,]+)  +[\d,]+  ', capsys.readouterr().out
  )
  trained = {p.row: f'{initial_size(p):,}' for p in plan.trials}
  assert set(trained) == {BASE, *rows}
  # A long name is folded: what stands in front of the number is its beginning.
  assert [number for _, number in said] == [trained[r.name] for r in plan.rows]


def test_what_is_said_of_a_plan(
  folder: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
  text = f'--task.path={folder / "text.txt"}'
  small = [f'--{flag}={value}' for flag, value in TINY.items()]
  argv = ['launch.py', '--experiment=train', text, *small, '--match=params']
  argv += ['--ablate=feedforward=none', f'--workdir={folder / "run"}', '--plan']
  assert cli.main(argv, flags.FlagValues(), '') == 0
  said = capsys.readouterr()
  assert '(2 rows, 1 seed, 2 trials)' in said.out
  words = ' '.join(said.out.split())
  assert '2 trials, 2 programs to compile' in words
  assert 'under a minute (rough' in words
  assert 'without compilation' in words
  (line,) = [one for one in said.err.splitlines() if '--match' in one]
  assert line.startswith("warning: --match: row 'feedforward=none': ")


# How long. --------------------------------------------------------------------


def outcome(steps: int, train: float, rest: float) -> dict[str, Any]:
  clock = {
    'seconds': 3.0 + train + rest,
    'compile_seconds': 3.0,
    'train_seconds': train,
  }
  return {'status': 'ok', 'steps': steps, 'clock': clock}


def test_a_trial_that_ended_tells_how_long_others_take(
  folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  # The best rate that is known is then that of the trial.
  monkeypatch.setattr(speed, 'flops_per_second', lambda: 1.0)
  flags = {'steps': '100', 'eval_every': '25'}
  plan = plan_of(folder, flags)
  assert not speed.estimate(plan.trials, plan.devices, 1).measured
  # Two trials side by side: 100 steps of 0.02 s and 4 evaluations of 0.5 s.
  first = plan.trials[0]
  speed.store_speed(first, outcome(100, 2.0, 2.0), plan.devices, alone=False)
  found = speed.estimate(plan.trials, plan.devices, 1)
  assert found.measured
  assert found.seconds == pytest.approx(3.0 + 2 * (2.0 + 2.0))
  # Half as many steps, the same evaluations; a program that has not run.
  other = plan_of(folder, {'steps': '50', 'eval_every': '25', 'd_model': '32'})
  ratio = speed._flops(other.trials[0]) / speed._flops(first)
  assert ratio > 2
  assert speed.estimate(other.trials, plan.devices, 1).seconds == (
    pytest.approx(3.0 + 2 * ratio * (1.0 + 1.0))
  )


def test_what_a_small_program_spends_besides_does_not_grow(
  folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  plan = plan_of(folder, {'steps': '100', 'eval_every': '100'})
  first = plan.trials[0]
  speed.store_speed(first, outcome(100, 2.0, 0.0), plan.devices, alone=False)
  rate = speed._flops(first) / 1e-4  # where no time is spent besides
  monkeypatch.setattr(
    speed, 'flops_per_second', lambda: rate / speed.EFFICIENCY
  )
  large = plan_of(
    folder, {'steps': '100', 'eval_every': '100', 'd_model': '128'}
  )
  ratio = speed._flops(large.trials[0]) / speed._flops(first)
  assert ratio > 10
  found = speed.estimate(large.trials, plan.devices, 1).seconds
  assert found == pytest.approx(3.0 + 2 * (2.0 + (ratio - 1) * 1e-2))


def test_a_smoke_run_tells_nothing(folder: pathlib.Path) -> None:
  plan = plan_of(folder, {'steps': '3'})
  speed.store_speed(plan.trials[0], outcome(3, 2.0, 2.0), plan.devices, False)
  assert not speed.estimate(plan.trials, plan.devices, 1).measured


def test_a_lone_trial_tells_of_several_and_the_reverse(
  folder: pathlib.Path,
) -> None:
  plan = plan_of(folder, {'steps': '100', 'eval_every': '100'})
  lone, gain = plan.trials[:1], speed.PARALLEL_EFFICIENCY * len(plan.devices)
  speed.store_speed(lone[0], outcome(100, 8.0, 0.0), plan.devices, alone=True)
  both = speed.estimate(plan.trials, plan.devices, 1)
  assert both.seconds == pytest.approx(3.0 + 2 * 8.0 / gain)
  assert speed.estimate(lone, plan.devices, 1).seconds == pytest.approx(11.0)
  # The last trial of a program is what counts.
  speed.store_speed(lone[0], outcome(100, 4.0, 0.0), plan.devices, alone=True)
  assert speed.estimate(lone, plan.devices, 1).seconds == pytest.approx(7.0)


@pytest.mark.parametrize(
  'damage',
  [
    b'',
    b'\xff\x00',
    b'null',
    b'[1]',
    b'[' * 100_000,
    b'[{"machine": 1}]',
    pytest.param(b'"seconds": null', id='a number that is none'),
    pytest.param(b'"seconds": -1.0', id='a negative time'),
  ],
)
def test_speeds_that_cannot_be_read_are_as_if_there_were_none(
  folder: pathlib.Path, damage: bytes
) -> None:
  plan = plan_of(folder, {'steps': '100'})
  speed.store_speed(plan.trials[0], outcome(100, 2.0, 2.0), plan.devices, False)
  path = cache_folder() / 'speed.json'
  whole = path.read_bytes()
  assert json.loads(whole)
  if damage.startswith(b'"'):
    damage = re.sub(rb'"seconds": [\d.]+', damage, whole)
    assert damage != whole
  path.write_bytes(damage)
  assert not speed.estimate(plan.trials, plan.devices, 1).measured
  # And the next trial that ends begins anew.
  speed.store_speed(plan.trials[0], outcome(100, 2.0, 2.0), plan.devices, False)
  assert path.read_bytes() == whole


def test_what_cannot_be_kept_is_no_failure(
  folder: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  plan = plan_of(folder, {'steps': '100'})
  (folder / 'file').write_text('')
  monkeypatch.setenv('ABLAX_CACHE', str(folder / 'file'))
  speed.store_speed(plan.trials[0], outcome(100, 2.0, 2.0), plan.devices, False)
