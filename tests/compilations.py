"""Counts what is compiled, through the public monitoring of JAX."""

from unittest import mock


class Compilations:
  """The programs that are compiled from now on."""

  def __init__(self) -> None:
    # JAX calls a listener with keywords that differ from event to event.
    self.listener = mock.Mock()

  @property
  def names(self) -> list[str]:
    calls = self.listener.call_args_list
    return [
      call.kwargs['fun_name']
      for call in calls
      if call.args[0].endswith('backend_compile_duration')
    ]
