"""What each test costs: pytest --costs=FILE writes it, a JSON line a test.

CPU seconds, of the test and of processes that it started and waited for, do not
depend on what else the machine does; `compile` are the seconds within that XLA
compiled in the process of the test, or read from its cache.
"""

import json
import os
import pathlib
import sys
from collections.abc import Iterator

import pytest

from session.compilations import Compilations


class Costs:
  """Measures in the workers, writes in the process that started them."""

  def __init__(self, path: pathlib.Path) -> None:
    self._path = path
    self._compilations = Compilations()
    self._listens = False

  def _listen(self) -> None:
    if not self._listens and 'jax' in sys.modules:
      sys.modules['jax'].monitoring.register_event_duration_secs_listener(
        self._compilations.listener
      )
      self._listens = True

  def _now(self) -> tuple[float, float, int]:
    seconds = self._compilations.seconds
    return sum(os.times()[:4]), sum(seconds), len(seconds)

  @pytest.hookimpl(wrapper=True)
  def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
    self._listen()
    self._before = self._now()
    return (yield)

  @pytest.hookimpl(wrapper=True)
  def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
    result = yield
    spent = [b - a for a, b in zip(self._before, self._now(), strict=True)]
    item.user_properties.append(('costs', spent))
    return result

  def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
    if report.when != 'teardown' or 'PYTEST_XDIST_WORKER' in os.environ:
      return
    for name, spent in report.user_properties:
      if name == 'costs':
        cpu, compile_seconds, programs = spent
        line = {
          'test': report.nodeid,
          'cpu': round(cpu, 2),
          'compile': round(compile_seconds, 2),
          'programs': programs,
        }
        with self._path.open('a') as file:
          file.write(json.dumps(line) + '\n')
