"""Counts what is compiled, through the public monitoring of JAX."""

from typing import Any
from unittest import mock


class Compilations:
  """The programs that are compiled from now on."""

  def __init__(self) -> None:
    # JAX calls a listener with keywords that differ from event to event.
    self.listener = mock.Mock()

  @property
  def names(self) -> list[str]:
    return [call.kwargs['fun_name'] for call in self._calls()]

  @property
  def seconds(self) -> list[float]:
    return [call.args[1] for call in self._calls()]

  def _calls(self) -> list[Any]:
    calls = self.listener.call_args_list
    return [c for c in calls if c.args[0].endswith('backend_compile_duration')]
