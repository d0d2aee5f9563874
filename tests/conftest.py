"""The environment of the tests, set before anything imports jax.

All of it is environment variables, so that the subprocesses which tests start
inherit it.
"""

import hashlib
import importlib.metadata
import os
import platform
import signal
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from compilations import Compilations
from costs import Costs

ROOT = Path(__file__).resolve().parent.parent
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


def pytest_addoption(parser: pytest.Parser) -> None:
  parser.addoption('--costs', help='file for the CPU seconds of each test')
  parser.addoption(
    '--turn', help='K/N: of slow tests only the K-th of N parts, K from 0 on'
  )


def pytest_configure(config: pytest.Config) -> None:
  if path := config.getoption('--costs'):
    config.pluginmanager.register(Costs(Path(path)))


def pytest_collection_modifyitems(
  config: pytest.Config, items: list[pytest.Item]
) -> None:
  """Leaves out slow tests whose turn it is not; cases of a test stay together.

  They share what is compiled.
  """
  if (turn := config.getoption('--turn')) is None:
    return
  part, parts = map(int, turn.split('/'))
  kept, others = [], []
  for item in items:
    test = item.nodeid.partition('[')[0]
    waits = item.get_closest_marker('slow') is not None
    waits = waits and zlib.crc32(test.encode()) % parts != part
    (others if waits else kept).append(item)
  config.hook.pytest_deselected(items=others)
  items[:] = kept


@pytest.fixture(scope='session')
def shakespeare() -> Path:
  """The path of tinyshakespeare.txt under $ABLAX_DATA."""
  folder = os.environ.get('ABLAX_DATA')
  if not folder:
    pytest.skip('ABLAX_DATA is not set: no tinyshakespeare.txt')
  path = Path(folder).resolve() / 'tinyshakespeare.txt'
  if not path.is_file():
    pytest.skip('ABLAX_DATA holds no tinyshakespeare.txt')
  return path


@pytest.fixture
def compiled() -> Iterator[Compilations]:
  """Returns the programs that are compiled during the test."""
  import jax  # after the environment is set

  found = Compilations()
  jax.monitoring.register_event_duration_secs_listener(found.listener)
  yield found
  jax.monitoring.unregister_event_duration_listener(found.listener)


@pytest.fixture(scope='module')
def quick_compilation() -> Iterator[None]:
  """Compiles in two thirds of the time what is then run once or twice.

  In processes that are started too.  Not for modules that compare what users
  run to the last bit, such as `test_lanes.py`.
  """
  import jax  # after the environment is set

  name = 'jax_disable_most_optimizations'
  before = jax.config.values[name]
  jax.config.update(name, True)
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv(name.upper(), '1')
    yield
  jax.config.update(name, before)


@pytest.fixture(autouse=True, scope='module')
def _forgotten_programs() -> Iterator[None]:
  """Lets go of what a module compiled: a process can map only so much memory.

  XLA aborts where the limit of the kernel is reached (vm.max_map_count), which
  is after some thousand programs.
  """
  yield
  if 'jax' in sys.modules:
    sys.modules['jax'].clear_caches()


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
  """Whoever runs the engine in his own process keeps his signal handlers."""
  numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
  before = [signal.getsignal(number) for number in numbers]
  yield
  assert [signal.getsignal(number) for number in numbers] == before
