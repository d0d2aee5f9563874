"""The rows that --ablate and --sweep make."""

from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.experiment import BASE
from experiments.planning.plan import Plan
from experiments.questions.discover import discover
from helpers.commands import run

pytestmark = pytest.mark.usefixtures('quick_compilation')


@pytest.fixture
def rows(
  here: Path,
  capsys: pytest.CaptureFixture[str],
  monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., list[str]]:
  """Returns a function from arguments to the names of the rows they make."""
  plans: list[Plan] = []

  def execute(plan: Plan, *_: object) -> int:
    plans.append(plan)
    return 0

  monkeypatch.setattr('experiments.run.engine.run_plan', execute)

  def make(*argv: str) -> list[str]:
    assert run(*argv, '--workdir=new') == 0
    capsys.readouterr()
    assert not list(here.iterdir())
    return [row.name for row in plans.pop().rows]

  return make


def test_rows_are_ablations_then_the_product_of_the_axes(
  rows: Callable[..., list[str]],
) -> None:
  names = rows(
    '--sweep=learning_rate=1e-4 3e-4',
    '--ablate=scale=none norm=rmsnorm',
    '--sweep=position=rope none',
  )
  assert names == [
    BASE,
    'scale=none norm=rmsnorm',
    'learning_rate=1e-4 position=rope',
    'learning_rate=1e-4 position=none',
    'learning_rate=3e-4 position=rope',
    'learning_rate=3e-4 position=none',
  ]


def test_equal_rows_are_merged_into_the_first(
  rows: Callable[..., list[str]],
) -> None:
  sweep = '--sweep=learning_rate=0.001 1e-3 .001 2e-3 0.002 .002'
  assert rows('--learning_rate=1e-3', sweep) == [BASE, 'learning_rate=2e-3']
  twice = ['--ablate=steps=5', '--ablate=steps=5 position=rope']
  assert rows('--position=rope', *twice) == [BASE, 'steps=5']


def test_a_sweep_of_a_sub_flag_goes_with_its_choice(
  rows: Callable[..., list[str]],
) -> None:
  # 1e4 is the default of the base.
  sweep = '--sweep=position.theta=1e3 1e4 1e5'
  assert rows('--position=rope', sweep) == [
    BASE,
    'position.theta=1e3',
    'position.theta=1e5',
  ]


def test_without_ablations_the_rows_are_those_of_the_experiment(
  rows: Callable[..., list[str]],
) -> None:
  experiment = discover()['ladder']
  assert rows() == [row.name for row in experiment.rows]
  assert rows(f'--only={BASE}') == [BASE]
