"""Compiled programs, kept from one command to the next in the user's cache.

JAX keys an entry by the program, the flags of XLA and the version of jaxlib.
An entry for a CPU is machine code, which another processor may be unable to
run, so each kind of processor has a folder of its own.  Whatever is wrong with
the cache, it is only a warning, and the program is compiled.
"""

import contextlib
import hashlib
import importlib.metadata
import os
import pathlib
import platform
import re
import tempfile
import warnings
import zlib
from collections.abc import Callable, Iterator
from typing import TextIO

import jax

from train.files.durable import cache_folder

_LEAST_SECONDS = 'jax_persistent_cache_min_compile_time_secs'
MOST_BYTES = 2**30  # of all entries; what was not used for longest goes first
# JAX's warnings: 'Error reading ... cache entry for 'jit_f': Type: reason'.
_PROBLEM = re.compile(
  r'Error (reading|writing) persistent compilation cache entry for '
  r"'(.*?)': (.*)",
  re.DOTALL,
)


@contextlib.contextmanager
def kept_programs(warn: Callable[[str], None]) -> Iterator[None]:
  """Keeps what is compiled, and loads it instead of compiling it again.

  Does not change a choice of the user, JAX_COMPILATION_CACHE_DIR or
  JAX_ENABLE_COMPILATION_CACHE.

  Args:
    warn: called with at most a line for each kind of problem.
  """
  if not jax.config.values['jax_enable_compilation_cache']:
    yield
    return
  before = jax.config.values['jax_compilation_cache_dir']
  chosen = before is not None
  folder = pathlib.Path(before or '') if chosen else programs_folder()
  problem = None if chosen else _prepare(folder)
  if problem is not None:
    warn(f'compiled programs are not kept: {folder}: {problem}')
    yield
    return
  with warnings.catch_warnings():
    warnings.filterwarnings('always', message=_PROBLEM.pattern)
    _show_in_a_line(folder, warn)
    least = jax.config.values[_LEAST_SECONDS]
    if not chosen:
      jax.config.update('jax_compilation_cache_dir', str(folder))
      jax.config.update(_LEAST_SECONDS, 0.0)
    try:
      yield
    finally:
      if not chosen:
        jax.config.update('jax_compilation_cache_dir', None)
        jax.config.update(_LEAST_SECONDS, least)


def programs_folder() -> pathlib.Path:
  """Returns the folder of this jaxlib on this kind of processor."""
  cpu = hashlib.sha256(_processor().encode()).hexdigest()[:12]
  version = importlib.metadata.version('jaxlib')
  return cache_folder() / 'programs' / f'jaxlib-{version}-{cpu}'


def _processor() -> str:
  """Returns the names of the processor's instructions, as far as known."""
  try:
    lines = pathlib.Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    return f'{platform.machine()} {platform.processor()}'
  # x86 says 'flags', ARM 'Features'; every core repeats them.
  named = (x for x in lines if x.lower().startswith(('flags', 'feat')))
  return next(named, platform.machine())


def _prepare(folder: pathlib.Path) -> str | None:
  """Makes the folder and room in it; returns why it cannot be used, or None."""
  try:
    # Whoever may write programs there decides what this process does.
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
      pass
    make_room(folder.parent, MOST_BYTES)
  except OSError as e:
    return f'{e.strerror or e}'
  return None


def make_room(folder: pathlib.Path, most: int) -> None:
  """Removes the files that were not used for longest, until `most` bytes."""
  there = []
  for above, _, names in os.walk(folder):
    for name in names:
      with contextlib.suppress(FileNotFoundError):  # another process is as tidy
        path = os.path.join(above, name)
        found = os.stat(path)
        used = max(found.st_atime, found.st_mtime)
        there.append((used, found.st_size, path))
  left = sum(size for _, size, _ in there)
  for _, size, path in sorted(there):
    if left <= most:
      return
    with contextlib.suppress(FileNotFoundError):
      os.unlink(path)
    left -= size


def _show_in_a_line(folder: pathlib.Path, warn: Callable[[str], None]) -> None:
  """Shows JAX's warnings about the cache as ours, each kind once."""
  others, said = warnings.showwarning, set[str]()

  def show(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
  ) -> None:
    found = _PROBLEM.match(str(message))
    if found is None:
      others(message, category, filename, lineno, file, line)
      return
    doing, program, reason = found.groups()
    _remove_damaged(folder, program)
    if doing not in said:
      said.add(doing)
      what = 'be read' if doing == 'reading' else 'be written'
      why = ' '.join(reason.split())[:200]
      warn(f'{folder}: a compiled program could not {what} ({why}): compiled')

  warnings.showwarning = show


def _remove_damaged(folder: pathlib.Path, program: str) -> None:
  """Removes damaged entries of a program, which JAX would not replace.

  Entries end in the checksum of zlib, or are of another format and removed too.
  """
  for path in folder.glob(f'{program}-*'):
    with contextlib.suppress(OSError):
      try:
        zlib.decompress(path.read_bytes())
      except zlib.error:
        path.unlink()
