"""What is compiled is counted, by what it is for."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from train.devices.compilations import Compilations
from train.devices.program_cache import kept_programs


@pytest.fixture
def compilations() -> Compilations:
  return Compilations()


def compile_one() -> None:
  jax.clear_caches()
  jax.jit(lambda x: x * 5)(jnp.float32(3))


@pytest.mark.usefixtures('folder')
def test_each_purpose_has_its_seconds(compilations: Compilations) -> None:
  with compilations.purpose('evaluation'):
    compile_one()
  compile_one()
  first = compilations.take()
  assert set(first) == {'compiled evaluation', 'compiled the rest'}
  assert all(seconds > 0 for seconds in first.values())
  assert compilations.take() == {}
  compilations.close()
  compile_one()
  assert compilations.take() == {}


@pytest.mark.usefixtures('folder')
def test_what_was_kept_is_loaded(compilations: Compilations) -> None:
  with kept_programs(pytest.fail):
    for expected in ('compiled step', 'loaded step'):
      compilation_cache.reset_cache()
      with compilations.purpose('step'):
        compile_one()
      assert expected in compilations.take()
  compilations.close()
