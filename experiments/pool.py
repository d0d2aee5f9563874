"""Runs the trials of a plan in several processes of this machine.

The queue says who has which trial.  This process alone adds to the record, and
settles a trial in the queue when the disk has its record.  Workers hold the
lock of the directory with it: while one of them lives, even after this process
was killed, nobody else begins there.
"""

import contextlib
import dataclasses
import json
import multiprocessing.connection
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments import advice
from experiments.inputs import Planned
from experiments.layout import describe_choice, write_choice
from experiments.plan import Plan
from experiments.queue import Job, open_queue
from experiments.recorder import Recorder
from experiments.terminal import Terminal
from experiments.worker import (
  STOP,
  WORD,
  Began,
  Broken,
  Duty,
  Ended,
  Message,
  Moved,
  Warned,
  describe,
  queue_path,
)
from train.cores import shares
from train.schema import to_flags
from train.trial import Interrupted, Progress

LAUNCH = pathlib.Path(__file__).resolve().parent.parent / 'launch.py'
LEASE_SECONDS = 60.0  # after so much silence a worker is ended
ATTEMPTS = 3  # workers that a trial may cost
# The kernel kills so, XLA and malloc end so, where memory is too little.
_OF_MEMORY = (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV)
SAVE_SECONDS = 300.0  # that workers may take to save, when all is to stop


@dataclasses.dataclass
class _Member:
  """A worker as this process sees it."""

  place: int
  process: subprocess.Popen[bytes]
  channel: multiprocessing.connection.Connection
  figures: Progress | None = None
  silent: bool = False

  @property
  def owner(self) -> str:
    """Returns its name in the queue."""
    return _owner(self.place)

  def likely(self) -> str:
    """Returns what a signal at its end tells of memory, in brackets."""
    if self.silent or -self.process.returncode not in _OF_MEMORY:
      return ''
    return f' (likely {advice.MEMORY})'

  def ending(self) -> str:
    """Returns how it ended; waits for that."""
    code = self.process.wait()
    if self.silent:
      how = 'gave no sign of life and was ended'
    elif code < 0:
      how = f'was killed by {_name(-code)}'
    else:
      how = f'ended with exit code {code}'
    return f'{self.owner} (process {self.process.pid}) {how}'

  def tell(self, word: bytes) -> None:
    """Sends a word, if it still listens."""
    with contextlib.suppress(OSError):
      self.channel.send_bytes(word)


def _name(number: int) -> str:
  """Returns the name of a signal."""
  try:
    return signal.Signals(number).name
  except ValueError:  # of a real-time signal
    return f'signal {number}'


def _owner(place: int) -> str:
  return f'worker {place + 1}'


class Pool:
  """Workers, which lease the trials of one stage after another.

  Args:
    plan: with a layout, which is that of each worker.
    recorder: of how trials end.
    terminal: of what is going on.
    stop_requested: says whether to save and stop.
    lock: file descriptor that holds the directory.
  """

  def __init__(
    self,
    plan: Plan,
    recorder: Recorder,
    terminal: Terminal,
    stop_requested: Callable[[], bool],
    lock: int,
  ):
    assert plan.choice is not None
    self._plan, self._choice = plan, plan.choice
    self._recorder, self._terminal = recorder, terminal
    self._stop_requested, self._lock = stop_requested, lock
    self._cores = shares(plan.command.workers)
    self._members: list[_Member] = []
    self._left: dict[str, Planned] = {}
    path = queue_path(plan.workdir)
    self._queue = open_queue(path, LEASE_SECONDS, terminal.warn)
    self._looked = time.monotonic()

  def all_of(self, stage: Sequence[Planned]) -> None:
    """Runs what is not settled.

    Raises:
      Interrupted: it was asked to stop; `close` waits until all is saved.
      OSError: the disk is full or cannot be written.
    """
    groups = self._recorder.unsettled(stage)
    if not groups:
      return
    if not self._members:
      write_choice(self._plan.workdir, self._choice)
      text = describe_choice(self._choice)
      self._terminal.say(f'{len(self._cores)} workers, each: {text}')
    self._left = {p.trial.id: p for group in groups for p in group}
    describe(self._plan.workdir, list(self._left.values()))
    jobs = [Job(p.trial.id, 0, True) for p in stage if self._settled(p)]
    for program, group in enumerate(groups):
      jobs += [Job(planned.trial.id, program, False) for planned in group]
    self._queue.fill(jobs)
    for place in range(len(self._members), len(self._cores)):
      if place < len(self._left):
        self._start(place)
    self._call()
    while self._left:
      if self._stop_requested():
        raise Interrupted
      self._hear()
      self._end_the_silent()

  def close(self) -> None:
    """Has the workers save and end, and waits for them."""
    for member in self._members:
      member.tell(STOP)
    deadline = time.monotonic() + SAVE_SECONDS
    while self._members and time.monotonic() < deadline:
      # What a full disk does not take now is trained again from its last save.
      with contextlib.suppress(OSError):
        self._hear(closing=True)
    for member in self._members:
      member.process.kill()
      member.process.wait()
    self._queue.close()

  def _settled(self, planned: Planned) -> bool:
    return planned.trial.id not in self._left

  # Workers. -------------------------------------------------------------------

  def _start(self, place: int) -> None:
    """Starts a worker on its share of the cores."""
    mine, theirs = multiprocessing.Pipe()
    layout = self._choice.layout
    duty = Duty(
      workdir=str(self._plan.workdir),
      owner=_owner(place),
      channel=theirs.fileno(),
      lease_seconds=LEASE_SECONDS,
      options=to_flags(self._plan.options),
      layout=layout.text,
      devices=len(layout.devices),
      cores=self._cores[place],
      rerun=self._plan.command.rerun,
    )
    words = [str(LAUNCH), WORD, json.dumps(dataclasses.asdict(duty))]
    process = subprocess.Popen(
      [sys.executable, *words],
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
      pass_fds=(theirs.fileno(), self._lock),
      process_group=0,  # Ctrl-C is for this process, which tells the others.
    )
    theirs.close()
    self._members.append(_Member(place, process, mine))

  def _call(self) -> None:
    """Wakes the workers that wait: there may be trials to lease."""
    for member in self._members:
      member.tell(b'')

  def _end_the_silent(self) -> None:
    """Ends workers whose leases have expired; that they do is heard."""
    if time.monotonic() - self._looked < LEASE_SECONDS / 10:
      return
    self._looked = time.monotonic()
    expired = self._queue.expired()
    for member in self._members:
      if member.owner in expired:
        member.silent = True
        member.process.kill()

  def _gone(self, member: _Member, closing: bool) -> None:
    """Gives the trials of a worker that has ended to the others."""
    self._members.remove(member)
    member.channel.close()
    reason = member.ending()
    again, failed = self._queue.give_back(member.owner, ATTEMPTS)
    if closing:
      return
    why = member.likely()
    self._terminal.warn(f'{reason}{why}; {len(again)} trials go to others')
    for trial in failed:
      self._fail(trial, f'{reason}, as {ATTEMPTS - 1} before{why}')
    if self._left and (again or failed):
      self._start(member.place)
    elif not self._members:  # It began nothing, and no other could.
      for trial in list(self._left):
        self._fail(trial, f'no worker is left: {reason}')
    self._call()

  # What they tell. ------------------------------------------------------------

  def _hear(self, closing: bool = False) -> None:
    """Takes the next message of each worker that has one; waits a moment."""
    channels = {member.channel: member for member in self._members}
    for channel in multiprocessing.connection.wait(list(channels), 0.2):
      assert isinstance(channel, multiprocessing.connection.Connection)
      member = channels[channel]
      try:
        message = channel.recv()
      except (EOFError, OSError):
        self._gone(member, closing)
      else:
        self._take(member, message)

  def _take(self, member: _Member, message: Message) -> None:
    match message:
      case Began(trial):
        planned = self._left[trial]
        self._terminal.begin(f'{planned.row} {planned.seed}')
      case Moved(figures):
        member.figures = figures
        self._terminal.advance(_together([m.figures for m in self._members]))
      case Ended(trial, outcome):
        member.figures = None
        self._end(trial, outcome)
        state = 'failed' if outcome['status'] == 'failed' else 'done'
        self._queue.settle(trial, member.owner, state)
      case Warned(text):
        self._terminal.warn(text)
      case Broken(code, text):
        raise OSError(code, text)

  def _fail(self, trial: str, error: str) -> None:
    self._end(trial, {'status': 'failed', 'error': error})

  def _end(self, trial: str, outcome: Mapping[str, Any]) -> None:
    self._recorder.end(self._left.pop(trial), outcome)


def _together(figures: Sequence[Progress | None]) -> Progress:
  """Returns the progress of all workers as one, with the mean loss."""
  there = [own for own in figures if own is not None]
  return Progress(
    step=sum(own.step for own in there),
    steps=sum(own.steps for own in there),
    loss=sum(own.loss for own in there) / len(there),
    tokens_per_second=sum(own.tokens_per_second for own in there),
  )
