"""Runs of every kind come to what they came to when they were recorded.

`recorded.py` says which, and writes the record anew.  What stands beside it by
now, such as another figure in a table, is no matter.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

import recorded

pytestmark = [
  pytest.mark.slow,
  pytest.mark.usefixtures('shakespeare'),
  pytest.mark.timeout(1800),  # twenty programs are compiled for some
]

# Another processor adds in another order: float32 has 1.2e-7, and what differs
# in the first steps grows.  A choice that does something else is off by more.
NEAR = 1e-3
# What of a row is near then too; a p-value of a few seeds need not be.
FIRM = ('row', 'label', 'mean', 'parameters', 'seeds', 'targets', 'verdict')
# What of a trial that diverged is: at which step it overflows is rounding.
DIVERGED = ('status', 'parameters')

RECORD = json.loads(recorded.RECORD.read_text())
EXPERIMENTS = ('ladder', 'nanogpt', 'multi30k', 'translation', 'train')
DECODERS = ('decoder', 'lanes', 'judged', 'tuned')
FAMILIES = ('encoder', 'classifier', 'pairs')


def leaves(tree: Any, path: str = '') -> Iterator[tuple[str, Any]]:
  """Yields the leaves of what JSON holds, each with its path."""
  if not isinstance(tree, dict):
    yield path, tree
    return
  for key, value in tree.items():
    yield from leaves(value, f'{path}/{key}')


def check(name: str) -> None:
  """Fails unless a run comes to what was recorded of it."""
  now, then = recorded.recorded(name), RECORD[name]
  for part in ('trials', 'rows'):
    assert now[part].keys() == then[part].keys(), part
  found, wanted = dict(leaves(now)), dict(leaves(then))
  if RECORD['machine'] == recorded.machine():
    assert {path: found.get(path) for path in wanted} == wanted
    return
  for path, value in wanted.items():
    (_, part, name, *_), last = path.split('/'), path.rpartition('/')[2]
    if last == 'digest' or (part == 'rows' and last not in FIRM):
      continue
    diverged = wanted.get(f'/trials/{name}/status') == 'diverged'
    if part == 'trials' and diverged and last not in DIVERGED:
      continue
    if isinstance(value, float):
      value = pytest.approx(value, rel=NEAR, abs=NEAR)
    assert found.get(path) == value, path


def test_every_run_belongs_to_a_test() -> None:
  named = {*EXPERIMENTS, *DECODERS, *FAMILIES}
  assert named == {*recorded.RUNS} == {*RECORD} - {'machine'}


# In three, since each takes its turn.


@pytest.mark.parametrize('name', EXPERIMENTS)
def test_an_experiment_is_what_it_was(name: str) -> None:
  check(name)


@pytest.mark.parametrize('name', DECODERS)
def test_decoders_are_what_they_were(name: str) -> None:
  check(name)


@pytest.mark.parametrize('name', FAMILIES)
def test_a_family_is_what_it_was(name: str) -> None:
  check(name)
