"""A worker: a process of --workers, which trains what it leases.

It tells the process that started it what comes of it, over a channel whose end
says that the other is gone.  Then it saves and ends: it never outlives it long,
and adds nothing to the record itself.
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

from experiments.experiment import Row
from experiments.inputs import Planned, planned
from experiments.loader import Loader
from experiments.queue import Lease, Queue
from experiments.runner import Runner, one_line
from experiments.signals import stop_signals
from model.field import FieldError
from train.config import Config
from train.cores import pin, split_cpu
from train.files import all_lines, write_lines
from train.parallel import parse_layout
from train.project import current
from train.schema import override, to_flags
from train.strict import check
from train.task import DataError
from train.trial import Interrupted, Options, Progress

WORD = '--internal_worker'  # in place of flags, before a Duty
STOP = b'stop'  # on the channel; anything else: there may be trials to lease


@dataclasses.dataclass(frozen=True)
class Duty:
  """What a worker is told when it begins; JSON values.

  Attributes:
    workdir: where the queue, the descriptions and the runs are.
    owner: its name in the queue.
    channel: a file descriptor, of a `Connection`.
    lease_seconds: as of `Queue`.
    options: flags of `Options`.
    layout: how trials lie on its devices.
    devices: how many the CPU appears as.
    cores: those that it runs on.
    rerun: as --rerun says.
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


class Began(NamedTuple):
  """A trial has begun, or goes on."""

  trial: str


class Moved(NamedTuple):
  """The trials of this worker have come further."""

  figures: Progress


class Ended(NamedTuple):
  """A trial has ended: its part of the record."""

  trial: str
  outcome: Mapping[str, Any]


class Warned(NamedTuple):
  """Something is wrong, and nothing ends by it."""

  text: str


class Broken(NamedTuple):
  """The disk is full or cannot be written: the worker ends."""

  code: int
  text: str


Message = Began | Moved | Ended | Warned | Broken


def queue_path(workdir: pathlib.Path) -> pathlib.Path:
  """Returns where the queue of a working directory lies."""
  return workdir / 'queue.sqlite'


def describe(workdir: pathlib.Path, stage: Sequence[Planned]) -> None:
  """Writes what workers must know of trials that they may lease."""
  lines = [
    {
      'trial': planned.trial.id,
      'row': planned.row,
      'seed': planned.seed,
      'point': dict(planned.point),
      'pause': planned.trial.pause,
      'flags': to_flags(planned.trial.config),
    }
    for planned in stage
  ]
  write_lines(workdir / 'workers.jsonl', lines)


@dataclasses.dataclass(frozen=True)
class Described:
  """A line of workers.jsonl: a trial as it was planned."""

  trial: str
  row: str
  seed: int
  point: Mapping[str, str]
  pause: int | None
  flags: Mapping[str, str]


def _described(workdir: pathlib.Path) -> dict[str, Described]:
  """Returns what `describe` wrote."""
  found: dict[str, Described] = {}

  def take(value: Any) -> None:
    mine = check(Described, value)
    found[mine.trial] = mine

  path = workdir / 'workers.jsonl'
  if faults := all_lines(path, take).said(path):
    raise OSError(errno.EIO, faults[0])
  return found


def main(duty: str) -> int:
  """Works until it is told to stop; returns the exit code."""
  mine = Duty(**json.loads(duty))
  current()  # Its files are now what its modules are.
  pin(mine.cores)
  split_cpu(mine.devices)
  return _Worker(mine).run()


class _Worker:
  """Leases trials and trains them; listens, and says that it lives."""

  def __init__(self, duty: Duty):
    self._duty, self._workdir = duty, pathlib.Path(duty.workdir)
    self._channel = multiprocessing.connection.Connection(duty.channel)
    self._loader = Loader(duty.workdir, anew=duty.rerun)
    self._known: dict[str, Described] = {}
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
      self._send(Broken(e.errno or errno.EIO, e.strerror or str(e)))
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
        self._known = _described(self._workdir)
        runner.run(self._trials(queue, leases))
      else:
        # Not for ever: a signal handler must not touch the event.
        self._wake.wait(0.5)

  def _trials(self, queue: Queue, leases: Sequence[Lease]) -> Iterator[Planned]:
    """Yields what was leased, then as lanes get free more of its program."""
    waiting, first = collections.deque(leases), leases[0]
    while waiting:
      lease = waiting.popleft()
      try:
        yield self._planned(lease.trial)
      except (FieldError, DataError) as e:
        outcome = {'status': 'failed', 'error': one_line(e)}
        self._send(Ended(lease.trial, outcome))
      if not waiting and first.attempt == 1 and not self._stopping:
        waiting += queue.claim(self._duty.owner, 1, first.program)

  def _planned(self, trial: str) -> Planned:
    """Returns a trial as it was planned, its inputs loaded here."""
    line = self._known[trial]
    config = override(Config(), line.flags)
    row = Row(line.row, {})
    made = planned(
      row, line.point, config, line.seed, self._loader, self._workdir
    )
    if made.trial.id != trial:
      raise DataError('what it reads has changed since the command began')
    return dataclasses.replace(
      made, trial=dataclasses.replace(made.trial, pause=line.pause)
    )

  # The other process. ---------------------------------------------------------

  def _listen(self) -> None:
    """Waits for words; that the other process is gone is one too."""
    try:
      while self._channel.recv_bytes() != STOP:
        self._wake.set()
    except (EOFError, OSError):
      pass
    self._stopping = True
    self._wake.set()

  def _beat(self) -> None:
    """Prolongs the leases for as long as this process runs."""
    path, seconds = queue_path(self._workdir), self._duty.lease_seconds
    with contextlib.suppress(OSError):  # Its silence says that it is broken.
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
    except OSError:  # nobody is there any more
      self._stopping = True

  # What the runner tells. -----------------------------------------------------

  def begin(self, planned: Planned) -> None:
    """A trial begins, or goes on."""
    self._send(Began(planned.trial.id))

  def progress(self, figures: Progress) -> None:
    """The trials that run have come further."""
    self._send(Moved(figures))

  def end(self, planned: Planned, outcome: Mapping[str, Any]) -> None:
    """A trial has ended, well or not: its part of the record."""
    self._send(Ended(planned.trial.id, outcome))

  def warn(self, text: str) -> None:
    """Something is wrong, and nothing ends by it."""
    self._send(Warned(text))

  def stop_requested(self) -> bool:
    """Returns whether to save and stop."""
    return self._stopping
