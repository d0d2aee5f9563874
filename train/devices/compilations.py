"""What is compiled, and in how many seconds, through the monitoring of JAX."""

import contextlib
from collections.abc import Iterator

import jax

# Events of JAX: the first of a program that was in the cache, the second at the
# end, of loading too.
_LOADED = '/jax/compilation_cache/cache_hits'
_DONE = '/jax/core/compile/backend_compile_duration'
OTHER = 'the rest'


class Compilations:
  """Seconds in which programs were compiled or loaded, by what they are for.

  Counts from its creation until it is closed.  Programs of all threads count:
  those that write checkpoints or read data ahead compile none.
  """

  def __init__(self) -> None:
    self._seconds = dict[str, float]()
    self._purpose, self._was_loaded = OTHER, False
    jax.monitoring.register_event_listener(self._note)
    jax.monitoring.register_event_duration_secs_listener(self._add)

  @contextlib.contextmanager
  def purpose(self, name: str) -> Iterator[None]:
    """Counts what is compiled meanwhile under a name."""
    before, self._purpose = self._purpose, name
    try:
      yield
    finally:
      self._purpose = before

  def take(self) -> dict[str, float]:
    """Returns seconds since the last call, such as {'compiled evaluation': 2}.

    A program from the cache counts as `loaded`.
    """
    taken, self._seconds = self._seconds, {}
    return taken

  def close(self) -> None:
    """Counts no more."""
    jax.monitoring.unregister_event_listener(self._note)
    jax.monitoring.unregister_event_duration_listener(self._add)

  def _note(self, event: str, **kwargs: str | int) -> None:
    del kwargs
    self._was_loaded |= event == _LOADED

  def _add(self, event: str, duration_secs: float, **kwargs: str | int) -> None:
    del kwargs
    if event != _DONE:
      return
    how = 'loaded' if self._was_loaded else 'compiled'
    key, self._was_loaded = f'{how} {self._purpose}', False
    self._seconds[key] = self._seconds.get(key, 0.0) + duration_secs
