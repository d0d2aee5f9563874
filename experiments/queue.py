"""Which worker has which trial: states and leases in SQLite, nothing else.

trials.jsonl is the truth.  The database is filled from it when a run begins, so
that it may be deleted or damaged and nothing is lost.  It must lie on a disk of
this machine: its write-ahead log is shared memory.
"""

import contextlib
import errno
import pathlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from train.files import refuse_link, unused

BUSY_SECONDS = 60.0  # how long to wait for another process to write

SCHEMA = """
BEGIN IMMEDIATE;
DROP TABLE IF EXISTS trials;
CREATE TABLE trials (
  trial TEXT PRIMARY KEY,
  place INTEGER NOT NULL,
  program INTEGER NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('waiting', 'leased', 'done', 'failed')),
  attempts INTEGER NOT NULL DEFAULT 0,
  owner TEXT,
  expires REAL,
  CHECK ((state = 'leased') = (owner IS NOT NULL)),
  CHECK ((state = 'leased') = (expires IS NOT NULL))
);
COMMIT;
"""


class Job(NamedTuple):
  """A trial as the queue knows it.

  Attributes:
    trial: its id.
    program: a number that the trials of one program share.
    done: whether it need not run.
  """

  trial: str
  program: int
  done: bool


class Lease(NamedTuple):
  """A trial that an owner has for itself, for the `attempt`-th time."""

  trial: str
  program: int
  attempt: int


class Damaged(OSError):
  """The file is no whole database."""


class Queue:
  """The trials of a stage, each waiting, leased, done or failed.

  Belongs to the thread that made it.  Every method raises OSError if the
  database cannot be read or written, Damaged if it is none any more.

  Args:
    path: the database, which `open_queue` made.
    lease_seconds: how long a lease holds after the last `beat` of its owner.
    clock: seconds since the machine started, the same in all processes; a
      clock on the wall may be set back.
  """

  def __init__(
    self,
    path: pathlib.Path,
    lease_seconds: float,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._path, self._lease, self._clock = path, lease_seconds, clock
    with self._problems(), contextlib.ExitStack() as stack:
      self._db = sqlite3.connect(
        path, timeout=BUSY_SECONDS, isolation_level=None
      )
      stack.callback(self._db.close)
      self._db.execute('PRAGMA journal_mode = WAL')
      # What a power cut takes away is filled again from trials.jsonl.
      self._db.execute('PRAGMA synchronous = NORMAL')
      stack.pop_all()

  def fill(self, jobs: Sequence[Job]) -> None:
    """Begins anew with these trials, to be taken in this order."""
    with self._writing():
      self._db.execute('DELETE FROM trials')
      self._db.executemany(
        'INSERT INTO trials (trial, place, program, state) VALUES (?, ?, ?, ?)',
        [
          (job.trial, place, job.program, 'done' if job.done else 'waiting')
          for place, job in enumerate(jobs)
        ],
      )

  def claim(
    self, owner: str, most: int, program: int | None = None
  ) -> list[Lease]:
    """Leases trials of one program, which nobody else then gets.

    The program is one that few others are at, for each has to compile it.  A
    trial that was given back is leased alone: it may have been what ended its
    owner, and must not take others with it again.

    Args:
      owner: who takes them.
      most: how many.
      program: of this one, and never such as were given back.
    """
    with self._writing():
      if program is not None:
        found = self._db.execute(_FRESH, (program, most)).fetchall()
      elif best := self._db.execute(_PROGRAM).fetchone():
        found = self._db.execute(_FRESH, (*best, most)).fetchall()
      else:
        found = self._db.execute(_RETURNED).fetchall()
      leases = [Lease(*row) for row in found]
      self._db.executemany(
        "UPDATE trials SET state = 'leased', owner = ?, expires = ?, "
        'attempts = ? WHERE trial = ?',
        [
          (owner, self._clock() + self._lease, lease.attempt, lease.trial)
          for lease in leases
        ],
      )
    return leases

  def beat(self, owner: str) -> None:
    """Prolongs the leases of an owner, who lives."""
    with self._writing():
      self._db.execute(
        'UPDATE trials SET expires = ? WHERE owner = ?',
        (self._clock() + self._lease, owner),
      )

  def expired(self) -> list[str]:
    """Returns the owners that have not beaten for too long.

    They may live: end them before their trials are given back.
    """
    with self._problems():
      now = self._clock()
      # What expires later than any lease can is of a clock before a restart.
      rows = self._db.execute(
        'SELECT DISTINCT owner FROM trials '
        'WHERE expires NOT BETWEEN ? AND ? ORDER BY owner',
        (now, now + self._lease),
      )
      return [owner for (owner,) in rows]

  def give_back(self, owner: str, attempts: int) -> tuple[list[str], list[str]]:
    """Takes the leases of an owner that has ended.

    Returns:
      The trials that wait again, and those that have failed by now: they were
      leased `attempts` times.
    """
    with self._writing():
      rows = self._db.execute(
        'SELECT trial, attempts FROM trials WHERE owner = ? ORDER BY place',
        (owner,),
      ).fetchall()
      self._db.execute(
        "UPDATE trials SET state = iif(attempts < ?, 'waiting', 'failed'), "
        'owner = NULL, expires = NULL WHERE owner = ?',
        (attempts, owner),
      )
    again = [trial for trial, count in rows if count < attempts]
    return again, [trial for trial, count in rows if count >= attempts]

  def settle(
    self, trial: str, owner: str, state: Literal['done', 'failed']
  ) -> bool:
    """Ends a lease, when the record is on the disk; False if it is no more."""
    with self._writing():
      cursor = self._db.execute(
        'UPDATE trials SET state = ?, owner = NULL, expires = NULL '
        'WHERE trial = ? AND owner = ?',
        (state, trial, owner),
      )
      return cursor.rowcount == 1

  def states(self) -> dict[str, int]:
    """Returns how many trials are in each state that there is."""
    with self._problems():
      return dict(
        self._db.execute('SELECT state, count(*) FROM trials GROUP BY state')
      )

  def close(self) -> None:
    """Closes the database."""
    self._db.close()

  def begin(self) -> None:
    """Makes the table anew; raises Damaged unless all can be read."""
    with self._problems():
      (found,) = self._db.execute('PRAGMA quick_check(1)').fetchone()
      if found != 'ok':
        raise Damaged(errno.EIO, f'{self._path.name}: {found.splitlines()[-1]}')
      self._db.executescript(SCHEMA)

  @contextlib.contextmanager
  def _problems(self) -> Iterator[None]:
    """Raises what goes wrong with the file as what it is: of the disk."""
    try:
      yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
      raise
    except sqlite3.DatabaseError as e:
      code = e.sqlite_errorcode & 0xFF  # above are details
      damaged = code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
      full = code == sqlite3.SQLITE_FULL
      raise (Damaged if damaged else OSError)(
        errno.ENOSPC if full else errno.EIO, f'{self._path.name}: {e}'
      ) from e

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    """Does all or nothing; others wait, who want to write too."""
    with self._problems():
      self._db.execute('BEGIN IMMEDIATE')
      try:
        yield
        self._db.execute('COMMIT')
      except BaseException:
        if self._db.in_transaction:  # SQLite may have ended it itself
          self._db.execute('ROLLBACK')
        raise


_PROGRAM = """
SELECT program FROM trials GROUP BY program
HAVING sum(state = 'waiting' AND attempts = 0) > 0
ORDER BY
  sum(state = 'leased'),
  min(iif(state = 'waiting' AND attempts = 0, place, NULL))
LIMIT 1
"""
_FRESH = """
SELECT trial, program, attempts + 1 FROM trials
WHERE state = 'waiting' AND attempts = 0 AND program = ?
ORDER BY place LIMIT ?
"""
_RETURNED = """
SELECT trial, program, attempts + 1 FROM trials
WHERE state = 'waiting' AND attempts > 0
ORDER BY place LIMIT 1
"""


def open_queue(
  path: pathlib.Path, lease_seconds: float, warn: Callable[[str], None]
) -> Queue:
  """Returns a queue without trials; a file that is none is set aside.

  Nobody else may have it open.  Which error SQLite has for a damaged file hangs
  on the bit: one of the header reads as a disk that cannot be written.

  Args:
    path: the database.
    lease_seconds: as of `Queue`.
    warn: called with one line if a file is set aside.
  """
  for end in ('', '-wal', '-shm'):
    refuse_link(path.with_name(path.name + end))
  try:
    return _emptied(path, lease_seconds)
  except OSError as e:
    if e.errno == errno.ENOSPC or not path.is_file():
      raise
    target = unused(path.with_name(f'{path.name}.damaged'))
    path.rename(target)
    for end in ('-wal', '-shm'):  # or SQLite would apply them to the new file
      path.with_name(path.name + end).unlink(missing_ok=True)
    warn(f'{e.strerror}: moved to {target}, and made anew from trials.jsonl')
    return _emptied(path, lease_seconds)


def _emptied(path: pathlib.Path, lease_seconds: float) -> Queue:
  queue = Queue(path, lease_seconds)
  try:
    queue.begin()
  except BaseException:
    queue.close()
    raise
  return queue
