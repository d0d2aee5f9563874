"""Runs the trials of a plan in several worker processes of this machine.

The queue assigns trials to workers.  Only this process adds to the record, and
it settles a trial in the queue once its record is on the disk.  Workers inherit
the lock of the directory: as long as one of them lives, even after this process
was killed, no other command can run there.
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
from collections.abc import Sequence

from experiments.command import WORKER_FLAG
from experiments.messages import advice
from experiments.messages.terminal import Terminal
from experiments.planning.inputs import PlannedTrial
from experiments.planning.layout import describe_choice, write_choice
from experiments.planning.plan import Plan
from experiments.run.queue import Job, open_queue
from experiments.run.recorder import Recorder
from experiments.run.worker import (
  STOP,
  BeginMessage,
  DiskErrorMessage,
  EndMessage,
  Message,
  ProgressMessage,
  WarningMessage,
  WorkerArguments,
  queue_path,
  write_descriptions,
)
from train.devices.cores import split_cores
from train.flags.schema import to_flags
from train.trial import Failure, Interrupted, Progress, TrialOutcome

LAUNCH = pathlib.Path(__file__).resolve().parents[2] / 'launch.py'
LEASE_SECONDS = 60.0  # a worker that is silent for longer is killed
ATTEMPTS = 3  # a trial fails when so many workers have died with it
# Too little memory ends a process by these: from the kernel, XLA or malloc.
_OF_MEMORY = (signal.SIGKILL, signal.SIGABRT, signal.SIGSEGV)
SAVE_SECONDS = 300.0  # most time for workers to save when the run stops


@dataclasses.dataclass
class _Member:
  """A worker process and the channel to it."""

  place: int
  process: subprocess.Popen[bytes]
  channel: multiprocessing.connection.Connection
  figures: Progress | None = None
  silent: bool = False

  @property
  def owner(self) -> str:
    """Returns the name of the worker in the queue."""
    return _owner(self.place)

  def likely(self) -> str:
    """Returns a hint in brackets if the worker likely ran out of memory."""
    if self.silent or -self.process.returncode not in _OF_MEMORY:
      return ''
    return f' (likely {advice.MEMORY})'

  def ending(self) -> str:
    """Waits for the process to end, and returns in words how it did."""
    code = self.process.wait()
    if self.silent:
      how = 'gave no sign of life and was ended'
    elif code < 0:
      how = f'was killed by {_name(-code)}'
    else:
      how = f'ended with exit code {code}'
    return f'{self.owner} (process {self.process.pid}) {how}'

  def tell(self, word: bytes) -> None:
    """Sends a word; ignores that the worker may have ended."""
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


class WorkerPool:
  """Worker processes that lease the trials of one stage after another.

  Args:
    plan: the plan, whose layout each worker uses.
    recorder: receives the events of trials, and decides whether to stop.
    terminal: shows warnings.
    lock: file descriptor of the lock of the directory.
  """

  def __init__(
    self,
    plan: Plan,
    recorder: Recorder,
    terminal: Terminal,
    lock: int,
  ):
    assert plan.choice is not None
    self._plan, self._choice = plan, plan.choice
    self._recorder, self._terminal, self._lock = recorder, terminal, lock
    self._cores = split_cores(plan.command.workers)
    self._members: list[_Member] = []
    self._left: dict[str, PlannedTrial] = {}
    path = queue_path(plan.workdir)
    self._queue = open_queue(path, LEASE_SECONDS, terminal.warn)
    self._checked = time.monotonic()

  def run_all(self, stage: Sequence[PlannedTrial]) -> None:
    """Runs the trials that are not settled.

    Raises:
      Interrupted: it was asked to stop; `close` waits until all is saved.
      OSError: the disk is full or cannot be written.
    """
    groups = self._recorder.unsettled_groups(stage)
    if not groups:
      return
    if not self._members:
      write_choice(self._plan.workdir, self._choice)
      text = describe_choice(self._choice)
      self._terminal.say(f'{len(self._cores)} workers, each: {text}')
    self._left = {p.trial.id: p for group in groups for p in group}
    write_descriptions(self._plan.workdir, list(self._left.values()))
    jobs = [Job(p.trial.id, 0, True) for p in stage if self._settled(p)]
    for program, group in enumerate(groups):
      jobs += [Job(planned.trial.id, program, False) for planned in group]
    self._queue.fill(jobs)
    for place in range(len(self._members), len(self._cores)):
      if place < len(self._left):
        self._start(place)
    self._wake_all()
    while self._left:
      if self._recorder.stop_requested():
        raise Interrupted
      self._receive()
      self._kill_silent()

  def close(self) -> None:
    """Tells the workers to save and end, and waits for them."""
    for member in self._members:
      member.tell(STOP)
    deadline = time.monotonic() + SAVE_SECONDS
    while self._members and time.monotonic() < deadline:
      # If the disk is full, trials later resume from their last checkpoints.
      with contextlib.suppress(OSError):
        self._receive(closing=True)
    for member in self._members:
      member.process.kill()
      member.process.wait()
    self._queue.close()

  def _settled(self, planned: PlannedTrial) -> bool:
    return planned.trial.id not in self._left

  # Workers. -------------------------------------------------------------------

  def _start(self, place: int) -> None:
    """Starts a worker on its share of the cores."""
    mine, theirs = multiprocessing.Pipe()
    layout = self._choice.layout
    duty = WorkerArguments(
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
    words = [str(LAUNCH), WORKER_FLAG, json.dumps(dataclasses.asdict(duty))]
    process = subprocess.Popen(
      [sys.executable, *words],
      stdin=subprocess.DEVNULL,
      stdout=subprocess.DEVNULL,
      pass_fds=(theirs.fileno(), self._lock),
      process_group=0,  # Ctrl-C must reach this process only; it tells them.
    )
    theirs.close()
    self._members.append(_Member(place, process, mine))

  def _wake_all(self) -> None:
    """Wakes waiting workers, since there may be trials to lease."""
    for member in self._members:
      member.tell(b'')

  def _kill_silent(self) -> None:
    """Kills workers whose leases have expired; `_receive` notices their end."""
    if time.monotonic() - self._checked < LEASE_SECONDS / 10:
      return
    self._checked = time.monotonic()
    expired = self._queue.expired()
    for member in self._members:
      if member.owner in expired:
        member.silent = True
        member.process.kill()

  def _on_exit(self, member: _Member, closing: bool) -> None:
    """Removes a worker that has ended, and gives its trials to others."""
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
    elif not self._members:  # It had leased no trial, and none are left to try.
      for trial in list(self._left):
        self._fail(trial, f'no worker is left: {reason}')
    self._wake_all()

  # Messages of workers. -------------------------------------------------------

  def _receive(self, closing: bool = False) -> None:
    """Handles a message of each worker that has one; waits up to 0.2 s."""
    channels = {member.channel: member for member in self._members}
    for channel in multiprocessing.connection.wait(list(channels), 0.2):
      assert isinstance(channel, multiprocessing.connection.Connection)
      member = channels[channel]
      try:
        message = channel.recv()
      except (EOFError, OSError):
        self._on_exit(member, closing)
      else:
        self._handle(member, message)

  def _handle(self, member: _Member, message: Message) -> None:
    match message:
      case BeginMessage(trial):
        self._recorder.begin(self._left[trial].trial)
      case ProgressMessage(figures):
        member.figures = figures
        self._recorder.progress(_combine([m.figures for m in self._members]))
      case EndMessage(trial, outcome):
        member.figures = None
        self._end(trial, outcome)
        state = 'failed' if outcome.status == 'failed' else 'done'
        self._queue.settle(trial, member.owner, state)
      case WarningMessage(text):
        self._recorder.warn(text)
      case DiskErrorMessage(code, text):
        raise OSError(code, text)

  def _fail(self, trial: str, error: str) -> None:
    self._end(trial, Failure('failed', error))

  def _end(self, trial: str, outcome: TrialOutcome) -> None:
    self._recorder.end(self._left.pop(trial).trial, outcome)


def _combine(figures: Sequence[Progress | None]) -> Progress:
  """Returns the sum of the progress of all workers, with their mean loss."""
  known = [own for own in figures if own is not None]
  return Progress(
    step=sum(own.step for own in known),
    steps=sum(own.steps for own in known),
    loss=sum(own.loss for own in known) / len(known),
    tokens_per_second=sum(own.tokens_per_second for own in known),
  )
