"""The environment of the tests: to import this is to set it, before jax.

All of it is environment variables, so that the subprocesses which tests start
inherit it.
"""

import hashlib
import importlib.metadata
import os
import platform
from pathlib import Path

from helpers.source import ROOT

VIRTUAL_DEVICES = '--xla_force_host_platform_device_count'


def processor() -> str:
  """Names the instruction set: XLA's cached programs are machine code."""
  try:
    lines = Path('/proc/cpuinfo').read_text().splitlines()
  except OSError:
    return f'{platform.machine()} {platform.processor()}'
  # x86 says 'flags', ARM 'Features'; every core repeats them.
  return next((x for x in lines if x.lower().startswith(('flags', 'feat'))), '')


def _compilation_cache() -> Path:
  """A folder that only this jaxlib on this kind of processor reads."""
  folder = Path(os.environ.get('ABLAX_CACHE') or ROOT / '.cache').resolve()
  cpu = hashlib.sha256(processor().encode()).hexdigest()[:12]
  return folder / f'jax-{importlib.metadata.version("jaxlib")}-{cpu}'


def _set_environment() -> None:
  # Assigned, not defaulted: a machine with an accelerator tests the CPU too.
  os.environ['JAX_PLATFORMS'] = os.environ.get('ABLAX_TEST_PLATFORM') or 'cpu'
  flags = os.environ.get('XLA_FLAGS', '')
  if VIRTUAL_DEVICES not in flags:
    os.environ['XLA_FLAGS'] = f'{flags} {VIRTUAL_DEVICES}=8'.strip()
  # Else each process that a test starts compiles the sources of JAX, in 2 s.
  os.environ.pop('PYTHONDONTWRITEBYTECODE', None)
  for name, value in {
    'JAX_COMPILATION_CACHE_DIR': str(_compilation_cache()),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    'MPLBACKEND': 'Agg',
    # What a test trains or fetches is no affair of the user's own cache.
    'ABLAX_CACHE': str(ROOT / '.cache'),
  }.items():
    os.environ.setdefault(name, value)


_set_environment()
