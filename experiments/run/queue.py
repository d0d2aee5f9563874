"""The queue of trials that workers lease, in an SQLite database.

The record is trials.jsonl.  The database is filled from it when a run begins,
so that nothing is lost if it is deleted or damaged.  It must be on a local
disk, as its write-ahead log needs shared memory.
"""

import contextlib
import errno
import pathlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from train.files.durable import refuse_link, unused_path

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
  """A trial to queue.

  Attributes:
    trial: id of the trial.
    program: number of its program, the same for trials that share one.
    done: whether the trial has already run.
  """

  trial: str
  program: int
  done: bool


class Lease(NamedTuple):
  """A trial that one worker alone may run; `attempt` counts from 1."""

  trial: str
  program: int
  attempt: int


class DamagedDatabase(OSError):
  """The database file is damaged."""


class Queue:
  """The trials of a stage, each waiting, leased, done or failed.

  May be used only by the thread that made it.  Every method raises OSError if
  the database cannot be read or written, and DamagedDatabase if it is damaged.

  Args:
    path: the database, which `open_queue` made.
    lease_seconds: how long a lease lasts after the last `beat` of its owner.
    clock: seconds since the machine started, the same in all processes; not the
      time of day, which may be set back.
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
      # Entries lost in a power cut are filled again from trials.jsonl.
      self._db.execute('PRAGMA synchronous = NORMAL')
      stack.pop_all()

  def fill(self, jobs: Sequence[Job]) -> None:
    """Replaces all trials by these, to be leased in this order."""
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
    """Leases waiting trials of one program to a worker, and returns them.

    Chooses the program that the fewest others run, as each worker compiles it.
    A trial that was given back is leased alone: it may have caused its worker
    to die, and must not take other trials with it.

    Args:
      owner: name of the worker.
      most: largest number of trials.
      program: number of the program to lease from, which excludes trials that
        were given back; None to choose one.
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
    """Extends the leases of a worker, which shows that it is alive."""
    with self._writing():
      self._db.execute(
        'UPDATE trials SET expires = ? WHERE owner = ?',
        (self._clock() + self._lease, owner),
      )

  def expired(self) -> list[str]:
    """Returns the workers whose leases have expired.

    They may be alive: kill them before their trials are given back.
    """
    with self._problems():
      now = self._clock()
      # An expiry beyond any lease is from before a restart of the machine.
      rows = self._db.execute(
        'SELECT DISTINCT owner FROM trials '
        'WHERE expires NOT BETWEEN ? AND ? ORDER BY owner',
        (now, now + self._lease),
      )
      return [owner for (owner,) in rows]

  def give_back(self, owner: str, attempts: int) -> tuple[list[str], list[str]]:
    """Ends the leases of a worker that has ended.

    Returns:
      The trials that wait again, and those that have failed because they were
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
    """Ends the lease of a recorded trial; returns False if it had none."""
    with self._writing():
      cursor = self._db.execute(
        'UPDATE trials SET state = ?, owner = NULL, expires = NULL '
        'WHERE trial = ? AND owner = ?',
        (state, trial, owner),
      )
      return cursor.rowcount == 1

  def states(self) -> dict[str, int]:
    """Returns the number of trials by state."""
    with self._problems():
      return dict(
        self._db.execute('SELECT state, count(*) FROM trials GROUP BY state')
      )

  def close(self) -> None:
    """Closes the database."""
    self._db.close()

  def begin(self) -> None:
    """Creates an empty table; raises DamagedDatabase if the file is damaged."""
    with self._problems():
      (found,) = self._db.execute('PRAGMA quick_check(1)').fetchone()
      if found != 'ok':
        raise DamagedDatabase(
          errno.EIO, f'{self._path.name}: {found.splitlines()[-1]}'
        )
      self._db.executescript(SCHEMA)

  @contextlib.contextmanager
  def _problems(self) -> Iterator[None]:
    """Converts errors of SQLite to OSError or DamagedDatabase."""
    try:
      yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
      raise
    except sqlite3.DatabaseError as e:
      code = e.sqlite_errorcode & 0xFF  # higher bits are details
      damaged = code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
      full = code == sqlite3.SQLITE_FULL
      raise (DamagedDatabase if damaged else OSError)(
        errno.ENOSPC if full else errno.EIO, f'{self._path.name}: {e}'
      ) from e

  @contextlib.contextmanager
  def _writing(self) -> Iterator[None]:
    """Wraps an atomic transaction, for which other writers wait."""
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
  """Returns an empty queue; a damaged file is moved aside.

  No other process may have it open.  Any error counts as damage, since SQLite's
  errors depend on which bit is wrong: some in the header look like a disk that
  cannot be written.

  Args:
    path: the database.
    lease_seconds: as in `Queue`.
    warn: called with one line if the file is moved aside.
  """
  for end in ('', '-wal', '-shm'):
    refuse_link(path.with_name(path.name + end))
  try:
    return _emptied(path, lease_seconds)
  except OSError as e:
    if e.errno == errno.ENOSPC or not path.is_file():
      raise
    target = unused_path(path.with_name(f'{path.name}.damaged'))
    path.rename(target)
    for end in ('-wal', '-shm'):  # or SQLite would apply them to the new file
      path.with_name(path.name + end).unlink(missing_ok=True)
    warn(f'{e.strerror}: moved to {target}, and rebuilt from trials.jsonl')
    return _emptied(path, lease_seconds)


def _emptied(path: pathlib.Path, lease_seconds: float) -> Queue:
  queue = Queue(path, lease_seconds)
  try:
    queue.begin()
  except BaseException:
    queue.close()
    raise
  return queue
