"""What all tests share: options of pytest, and fixtures."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before they are imported, so that what they assert says what it compared.
pytest.register_assert_rewrite('helpers', 'peers', 'spec')

import session.environment  # noqa: F401, E402  # sets it, before jax
from session.compilations import Compilations  # noqa: E402  # as above
from session.costs import Costs  # noqa: E402  # as above
from session.turns import is_of  # noqa: E402  # as above


def pytest_addoption(parser: pytest.Parser) -> None:
  parser.addoption('--costs', help='file for the CPU seconds of each test')
  parser.addoption(
    '--turn', help='K/N: of slow tests only the K-th of N parts, K from 0 on'
  )
  parser.addoption('--part', help='K/N: the same of all tests')


def pytest_configure(config: pytest.Config) -> None:
  if path := config.getoption('--costs'):
    config.pluginmanager.register(Costs(Path(path)))


def pytest_collection_modifyitems(
  config: pytest.Config, items: list[pytest.Item]
) -> None:
  """Leaves out tests whose turn it is not; cases of a test stay together.

  They share what is compiled.
  """
  turn, part = config.getoption('--turn'), config.getoption('--part')
  kept, others = [], []
  for item in items:
    test = item.nodeid.partition('[')[0]
    slow = item.get_closest_marker('slow') is not None
    wanted = is_of(test, part) and (not slow or is_of(test, turn))
    (kept if wanted else others).append(item)
  if others:
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
  run to the last bit, such as `train/test_lanes.py`.
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
