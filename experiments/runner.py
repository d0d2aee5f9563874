"""Trials of one program side by side; a failure is that of one of them."""

import errno
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from experiments import advice
from experiments.inputs import Planned
from train import loop
from train.parallel import Layout, Shared
from train.trial import Hooks, Interrupted, Options, Progress, Result, Trial


class Listener(Protocol):
  """Who is told how trials come on."""

  def begin(self, planned: Planned) -> None:
    """A trial begins, or goes on."""
    ...

  def progress(self, figures: Progress) -> None:
    """The trials that run have come further."""
    ...

  def end(self, planned: Planned, outcome: Mapping[str, Any]) -> None:
    """A trial has ended, well or not: its part of the record."""
    ...

  def warn(self, text: str) -> None:
    """Something is wrong, and nothing ends by it."""
    ...

  def stop_requested(self) -> bool:
    """Returns whether to save and stop."""
    ...


class Runner:
  """Trains trials, and finds whose a failure is."""

  def __init__(self, options: Options, layout: Layout, listener: Listener):
    self._options, self._layout = options, layout
    self._alone = Shared(layout.devices[:1])
    self._listener = listener

  def run(self, trials: Iterator[Planned]) -> None:
    """Trains all trials, each from where it stands to its end.

    Raises:
      Interrupted: the listener asked to stop; all states are saved.
      OSError: the disk is full or cannot be written.
    """
    for first in trials:
      self._train(itertools.chain([first], trials), self._layout)

  def _train(self, trials: Iterator[Planned], layout: Layout) -> None:
    """Trains side by side; what a failure leaves, one after another."""
    if self._listener.stop_requested():
      raise Interrupted
    begun: dict[str, Planned] = {}
    ended: set[str] = set()

    def take() -> Iterator[Trial]:
      for planned in trials:
        begun[planned.trial.id] = planned
        self._listener.begin(planned)
        yield planned.trial

    def end(trial: Trial, result: Result) -> None:
      ended.add(trial.id)
      self._listener.end(begun[trial.id], result._asdict())

    hooks = Hooks(
      self._listener.progress,
      end,
      self._listener.warn,
      self._listener.stop_requested,
    )
    try:
      loop.run(take(), self._options, layout, hooks)
    except (Interrupted, OSError):
      raise
    except Exception as e:
      if (problem := _of_the_disk(e)) is not None:
        raise problem from e
      left = [planned for name, planned in begun.items() if name not in ended]
      self._after(e, left, alone=len(begun) == 1 or layout.lanes == 1)

  def _after(
    self, error: Exception, left: Sequence[Planned], alone: bool
  ) -> None:
    """Records a failure, or finds by running each alone whose it is."""
    text = one_line(error)
    if alone and left:
      (planned,) = left
      self._listener.end(planned, {'status': 'failed', 'error': text})
      return
    rows = ', '.join(dict.fromkeys(planned.row for planned in left))
    self._listener.warn(f'{rows or "all had ended"}: {text}: each alone now')
    for planned in left:
      self._train(iter([planned]), self._alone)


def one_line(error: Exception) -> str:
  """Returns the type and the first line of an error."""
  first = str(error).splitlines()[0] if str(error) else ''
  plain = f'{type(error).__name__}: {first}'[:300]
  return advice.of_memory(error) or plain


def _of_the_disk(error: Exception) -> OSError | None:
  """Returns the error of the disk that Orbax wrapped in one of its own."""
  for code in (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EIO,
    errno.EACCES,
    errno.ESTALE,
  ):
    if os.strerror(code) in str(error):
      return OSError(code, os.strerror(code))
  return None
