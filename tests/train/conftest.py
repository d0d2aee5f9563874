"""What the tests of training share: an accelerator, a finished trial."""

import pathlib

import jax
import pytest

from helpers.courses import LETTERS, TINY, run_tiny
from train.devices.parallel import SharedLayout
from train.trial import Result


@pytest.fixture(scope='session')
def accelerator() -> SharedLayout:
  if jax.default_backend() == 'cpu':
    pytest.skip('JAX finds no accelerator')
  return SharedLayout(tuple(jax.local_devices()))


@pytest.fixture(scope='module')
def finished(
  tmp_path_factory: pytest.TempPathFactory,
) -> tuple[pathlib.Path, Result]:
  folder = tmp_path_factory.mktemp('loop')
  (folder / 'text.txt').write_text(LETTERS * 20)
  return folder, run_tiny(folder, TINY | {'steps': '11'})
