"""A trained run from which tests load."""

import pytest

from helpers.loading import ROPE, TEXT, Ran, flags_of, launch, records_of


@pytest.fixture(scope='module')
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
  """Two rows with two seeds each."""
  folder = tmp_path_factory.mktemp('loading')
  text, workdir = folder / 'text.txt', folder / 'run'
  text.write_text(TEXT)
  more = [f'--ablate={ROPE}', '--seeds=2']
  assert launch(workdir, *flags_of(text, {}), *more) == 0
  records = records_of(workdir)
  assert set(records) == {(r, s) for r in ('base', ROPE) for s in (0, 1)}
  return Ran(workdir, text, records)
