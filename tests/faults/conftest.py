"""A run that nothing disturbed, and what it came to."""

from pathlib import Path

import pytest

from helpers.processes import Outcome, end, outcome, start, words, write_text


@pytest.fixture(scope='module')
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
  """A text of about 3 kB."""
  return write_text(tmp_path_factory.mktemp('text'))


@pytest.fixture(scope='module')
def whole(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
  """The working directory of a run that nothing disturbed; do not change."""
  workdir = tmp_path_factory.mktemp('whole') / 'run'
  code, out, err = end(start(words(text, '--seeds=2', f'--workdir={workdir}')))
  assert (code, err) == (0, ''), out
  return workdir


@pytest.fixture(scope='module')
def expected(whole: Path) -> Outcome:
  """What the run that nothing disturbed came to."""
  found = outcome(whole)
  assert len(found.trials) == 4
  assert len({r['digest'] for r in found.trials.values()}) == 4
  # Every third step, and four evaluations.
  assert all(len(lines) == 17 for lines in found.figures.values())
  return found
