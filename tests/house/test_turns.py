"""Parts of the tests hold all of them, and each commit draws some."""

import itertools
import re
import subprocess
from hashlib import sha1

import pytest

from helpers.source import ROOT
from session.turns import is_of


@pytest.mark.parametrize('parts', [1, 2, 3, 8])
def test_each_test_has_one_turn(parts: int) -> None:
  names = [f'tests/test_{n}.py::test_{n}' for n in range(200)]
  found = [
    [name for name in names if is_of(name, f'{n}/{parts}')]
    for n in range(parts)
  ]
  assert sorted(itertools.chain(*found)) == sorted(names)
  assert all(len(own) > 100 / parts for own in found)
  assert all(is_of(name, None) for name in names)


def test_a_commit_draws_every_turn() -> None:
  """`.ci/run` reads digits of the commit: in range, and each number in turn."""
  script = (ROOT / '.ci' / 'run').read_text()
  (function,) = re.findall(r'^drawn\(\).*$', script, re.M)
  asked = re.findall(r'\$\(drawn (\d+) (\d+)\)', script)
  assert len(asked) == len(re.findall(r'\$\(drawn', script)) >= 5
  commits = ' '.join(sha1(bytes([n])).hexdigest() for n in range(50))
  calls = '; '.join(f'drawn {first} {below}' for first, below in asked)
  printed = subprocess.run(
    ['bash', '-euc', f'{function}\nfor commit in {commits}; do {calls}; done'],
    capture_output=True,
    text=True,
    check=True,
  ).stdout.split()
  for n, (first, below) in enumerate(asked):
    drawn = {int(x) for x in printed[n :: len(asked)]}
    if int(below) < 10:
      assert drawn == set(range(int(below))), first
    assert max(drawn) < int(below)
