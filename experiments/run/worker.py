"""A worker process of --workers, which trains the trials that it leases.

It reports to its parent process over a channel, and writes no record itself.
When the channel closes, the parent has ended; the worker then saves and ends.
"""

import collections
import contextlib
import dataclasses
import errno
import json
import multiprocessing.connection
import pathlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType
from typing import Any, NamedTuple

import jax

from experiments.messages.advice import one_line
from experiments.messages.signals import stop_signals
from experiments.planning.inputs import PlannedTrial, make_trial
from experiments.planning.loader import Loader
from experiments.run.queue import Lease, Queue
from experiments.run.runner import Runner
from model.core.field import FieldError
from train.code.project import current_project
from train.config.config import Config
from train.core.errors import DataError
from train.devices.allocator import keep_freed_memory
from train.devices.cores import pin, split_cpu
from train.devices.parallel import parse_layout
from train.devices.program_cache import kept_programs
from train.files.durable import read_json_lines, write_lines
from train.files.strict import check_type
from train.flags.schema import override, to_flags
from train.trial import (
  Failure,
  Interrupted,
  Options,
  Progress,
  Trial,
  TrialOutcome,
)

STOP = b'stop'  # on the channel; any other word: there may be trials to lease


@dataclasses.dataclass(frozen=True)
class WorkerArguments:
  """The arguments of a worker, as JSON values.

  Attributes:
    workdir: folder of the queue, the descriptions and the runs.
    owner: name of the worker in the queue.
    channel: file descriptor of a `Connection` to the parent.
    lease_seconds: as in `Queue`.
    options: flags of `Options`.
    layout: how trials lie on its devices, as in --lanes.
    devices: number of devices that the CPU appears as.
    cores: CPU cores to run on.
    rerun: value of --rerun.
  """

  workdir: str
  owner: str
  channel: int
  lease_seconds: float
  options: Mapping[str, str]
  layout: str
  devices: int
  cores: Sequence[int]
  rerun: bool


class BeginMessage(NamedTuple):
  """Message: a trial has begun or resumed."""

  trial: str


class ProgressMessage(NamedTuple):
  """Message: the trials of this worker have made progress."""

  figures: Progress


class EndMessage(NamedTuple):
  """Message: a trial has ended, with its outcome for the record."""

  trial: str
  outcome: TrialOutcome


class WarningMessage(NamedTuple):
  """Message: a problem that stops no trial."""

  text: str


class DiskErrorMessage(NamedTuple):
  """Message: the worker ends, since the disk is full or cannot be written."""

  code: int
  text: str


Message = (
  BeginMessage
  | ProgressMessage
  | EndMessage
  | WarningMessage
  | DiskErrorMessage
)


def queue_path(workdir: pathlib.Path) -> pathlib.Path:
  """Returns the path of the queue of a working directory."""
  return workdir / 'queue.sqlite'


def write_descriptions(
  workdir: pathlib.Path, stage: Sequence[PlannedTrial]
) -> None:
  """Writes workers.jsonl, from which workers rebuild trials that they lease."""
  lines = [
    {
      'trial': planned.trial.id,
      'row': planned.row,
      'pause': planned.trial.pause,
      'flags': to_flags(planned.trial.config),
    }
    for planned in stage
  ]
  write_lines(workdir / 'workers.jsonl', lines)


@dataclasses.dataclass(frozen=True)
class TrialDescription:
  """A line of workers.jsonl: the description of a planned trial."""

  trial: str
  row: str
  pause: int | None
  flags: Mapping[str, str]


def _read_descriptions(workdir: pathlib.Path) -> dict[str, TrialDescription]:
  """Returns the trials in workers.jsonl, by id."""
  found: dict[str, TrialDescription] = {}

  def take(value: Any) -> None:
    mine = check_type(TrialDescription, value)
    found[mine.trial] = mine

  path = workdir / 'workers.jsonl'
  if faults := read_json_lines(path, take).said(path):
    raise OSError(errno.EIO, faults[0])
  return found


def run_worker(duty: str) -> int:
  """Works until it is told to stop; returns the exit code."""
  mine = WorkerArguments(**json.loads(duty))
  current_project()  # Reads the sources, which equal the modules now.
  pin(mine.cores)
  keep_freed_memory()
  split_cpu(mine.devices)
  worker = _Worker(mine)
  with kept_programs(worker.warn):
    return worker.run()


class _Worker:
  """Leases and trains trials; two threads listen and send heartbeats."""

  def __init__(self, duty: WorkerArguments):
    self._duty, self._workdir = duty, pathlib.Path(duty.workdir)
    self._channel = multiprocessing.connection.Connection(duty.channel)
    self._loader = Loader(duty.workdir, rerun=duty.rerun)
    self._known: dict[str, TrialDescription] = {}
    self._wake, self._stopping, self._signal = threading.Event(), False, 0
    for number in stop_signals():
      signal.signal(number, self._handle)

  def run(self) -> int:
    """Works until it is told to stop; returns the exit code."""
    for what in (self._listen, self._beat):
      threading.Thread(target=what, daemon=True).start()
    try:
      self._work()
    except Interrupted:
      pass
    except OSError as e:
      self._send(DiskErrorMessage(e.errno or errno.EIO, e.strerror or str(e)))
      return 1
    return 128 + self._signal if self._signal else 0

  def _work(self) -> None:
    layout = parse_layout(self._duty.layout, jax.local_devices())
    options = override(Options(), self._duty.options)
    runner = Runner(options, layout, self)
    queue = Queue(queue_path(self._workdir), self._duty.lease_seconds)
    while not self._stopping:
      self._wake.clear()
      if leases := queue.claim(self._duty.owner, layout.lanes):
        self._known = _read_descriptions(self._workdir)
        runner.run(self._trials(queue, leases))
      else:
        # With a timeout, as a signal handler must not set the event.
        self._wake.wait(0.5)

  def _trials(self, queue: Queue, leases: Sequence[Lease]) -> Iterator[Trial]:
    """Yields leased trials, and leases more of their program for free lanes."""
    waiting, first = collections.deque(leases), leases[0]
    while waiting:
      lease = waiting.popleft()
      try:
        yield self._trial(lease.trial)
      except (FieldError, DataError) as e:
        outcome = Failure('failed', one_line(e))
        self._send(EndMessage(lease.trial, outcome))
      if not waiting and first.attempt == 1 and not self._stopping:
        waiting += queue.claim(self._duty.owner, 1, first.program)

  def _trial(self, name: str) -> Trial:
    """Returns a trial as it was planned, with its data loaded here."""
    line = self._known[name]
    config = override(Config(), line.flags)
    made = make_trial(line.row, config, self._loader, self._workdir)
    if made.id != name:
      raise DataError('what it reads has changed since the command began')
    return dataclasses.replace(made, pause=line.pause)

  # The parent process. --------------------------------------------------------

  def _listen(self) -> None:
    """Wakes at each word of the parent; stops at STOP or when it has ended."""
    try:
      while self._channel.recv_bytes() != STOP:
        self._wake.set()
    except (EOFError, OSError):
      pass
    self._stopping = True
    self._wake.set()

  def _beat(self) -> None:
    """Extends the leases for as long as this process runs."""
    path, seconds = queue_path(self._workdir), self._duty.lease_seconds
    with contextlib.suppress(OSError):  # Then the parent notices the silence.
      queue = Queue(path, seconds)
      while True:
        queue.beat(self._duty.owner)
        time.sleep(seconds / 6)

  def _handle(self, number: int, frame: FrameType | None) -> None:
    del frame
    self._stopping, self._signal = True, self._signal or number

  def _send(self, message: Message) -> None:
    try:
      self._channel.send(message)
    except OSError:  # the parent has ended
      self._stopping = True

  # The listener of the loop. --------------------------------------------------

  def begin(self, trial: Trial) -> None:
    """Reports that a trial begins or resumes."""
    self._send(BeginMessage(trial.id))

  def progress(self, figures: Progress) -> None:
    """Reports the progress of the running trials."""
    self._send(ProgressMessage(figures))

  def end(self, trial: Trial, outcome: TrialOutcome) -> None:
    """Reports the outcome of a trial."""
    self._send(EndMessage(trial.id, outcome))

  def warn(self, text: str) -> None:
    """Reports a problem that stops no trial."""
    self._send(WarningMessage(text))

  def stop_requested(self) -> bool:
    """Returns whether to save and stop."""
    return self._stopping
