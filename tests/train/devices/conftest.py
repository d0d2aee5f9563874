"""A cache of compiled programs of their own for tests."""

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from train.devices import program_cache

CACHE = 'jax_compilation_cache_dir'
RAISES = 'jax_raise_persistent_cache_errors'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
  """The folder of programs of a user who has chosen none."""
  monkeypatch.setenv('ABLAX_CACHE', str(tmp_path / 'cache'))
  before = {name: jax.config.values[name] for name in (CACHE, RAISES)}
  jax.config.update(CACHE, None)
  jax.config.update(RAISES, False)
  compilation_cache.reset_cache()
  yield program_cache.programs_folder()
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
