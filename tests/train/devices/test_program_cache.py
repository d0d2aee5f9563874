"""Compiled programs are kept, and a cache in any state is only a warning."""

import errno
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from train.devices import program_cache
from train.devices.program_cache import kept_programs, make_room

CACHE = 'jax_compilation_cache_dir'
# Events of JAX; without a cache there are none.
HIT, MISS = (f'/jax/compilation_cache/cache_{n}' for n in ('hits', 'misses'))


def compile_one() -> tuple[bool, list[str]]:
  """Compiles a program as a new process would.

  Returns:
    Whether all came from the cache, and the warnings.
  """
  said: list[str] = []
  compilation_cache.reset_cache()
  jax.clear_caches()

  def cube(x: jax.Array) -> jax.Array:
    return x * x * x

  note = mock.Mock()
  jax.monitoring.register_event_listener(note)
  with warnings.catch_warnings():
    warnings.simplefilter('error')  # all must come through `said`
    with kept_programs(said.append):
      assert jax.jit(cube)(jnp.float32(3)) == 27
  jax.monitoring.unregister_event_listener(note)
  events = [call.args[0] for call in note.call_args_list]
  return HIT in events and MISS not in events, said


def entries(folder: Path) -> list[Path]:
  """Returns the entries of the program."""
  return sorted(folder.glob('jit_cube-*'))


def test_a_program_is_loaded_the_second_time(folder: Path) -> None:
  assert compile_one() == (False, [])
  assert compile_one() == (True, [])
  assert folder.stat().st_mode & 0o077 == 0
  assert jax.config.values[CACHE] is None


def flip(path: Path) -> None:
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 4
  path.write_bytes(data)


def cut(path: Path) -> None:
  path.write_bytes(path.read_bytes()[:100])


@pytest.mark.parametrize('harm', [flip, cut, lambda p: p.write_bytes(b'')])
def test_a_damaged_entry_is_made_again(
  folder: Path, harm: Callable[[Path], object]
) -> None:
  compile_one()
  (entry,) = entries(folder)
  harm(entry)
  cached, said = compile_one()
  assert not cached
  (line,) = said
  assert str(folder) in line
  assert '\n' not in line
  assert compile_one() == (True, [])


def test_a_read_only_folder_is_said_once(
  folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  def read_only(dir: Path) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))

  monkeypatch.setattr(program_cache.tempfile, 'TemporaryFile', read_only)
  cached, said = compile_one()
  assert not cached
  (line,) = said
  assert 'not kept' in line
  assert 'Read-only file system' in line


def test_a_file_in_place_of_the_folder_is_said_once(folder: Path) -> None:
  folder.parent.mkdir(parents=True)
  folder.write_text('a file in its place')
  cached, said = compile_one()
  assert not cached
  (line,) = said
  assert 'compiled programs are not kept' in line


def test_a_full_disk_is_said_once(
  folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  def full(self: object, data: bytes) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

  from etils.epath import gpath

  monkeypatch.setattr(Path, 'write_bytes', full)
  monkeypatch.setattr(gpath.PosixGPath, 'write_bytes', full)
  cached, said = compile_one()
  assert not cached
  (line,) = said
  assert 'No space left on device' in line
  assert not entries(folder)


def test_what_was_not_used_for_longest_makes_room(tmp_path: Path) -> None:
  for n in range(5):
    path = tmp_path / str(n % 2) / f'{n}'
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(bytes(10))
    os.utime(path, (1000 - n, 500))
  make_room(tmp_path, 30)
  left = sorted(p.name for p in tmp_path.rglob('*') if p.is_file())
  assert left == ['0', '1', '2']


def test_a_folder_that_the_user_chose_stays(
  folder: Path, tmp_path: Path
) -> None:
  own = tmp_path / 'own'
  jax.config.update(CACHE, str(own))
  compile_one()
  assert jax.config.values[CACHE] == str(own)
  assert not folder.exists()


def test_another_processor_has_another_folder(
  folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  monkeypatch.setattr(program_cache, '_processor', lambda: 'flags: avx9')
  assert program_cache.programs_folder() != folder
