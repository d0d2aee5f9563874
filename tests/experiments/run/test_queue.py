"""The queue: nobody holds what another holds, and nothing is lost."""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from experiments.run.queue import Job, Queue, open_queue
from helpers.source import ROOT
from train.core.errors import DataError

TIMEOUT = 120  # seconds that one process may take, on a busy machine
ATTEMPTS = 3


class Clock:
  """Seconds that pass when the test says so."""

  def __init__(self) -> None:
    self.now = 1e6

  def __call__(self) -> float:
    return self.now


def jobs(count: int, programs: int = 1) -> list[Job]:
  """Returns trials '0', '1' ..., whose programs take turns."""
  return [Job(str(n), n % programs, False) for n in range(count)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
  """Where the database of a test lies."""
  return tmp_path / 'queue.sqlite'


@contextlib.contextmanager
def opened(
  path: Path,
  found: Sequence[Job] = (),
  seconds: float = 60.0,
  warn: Callable[[str], None] = pytest.fail,
) -> Iterator[Queue]:
  """Opens the queue anew, with these trials."""
  queue = open_queue(path, seconds, warn)
  try:
    queue.fill(found)
    yield queue
  finally:
    queue.close()


# One process. -----------------------------------------------------------------


def test_leases_are_of_one_program_in_order_and_full(path: Path) -> None:
  with opened(path, [*jobs(7, 2), Job('done', 0, True)]) as queue:
    assert queue.states() == {'waiting': 7, 'done': 1}
    first = queue.claim('a', 3)
    assert [lease.trial for lease in first] == ['0', '2', '4']
    # Another program: its owner need not compile what the first compiles.
    second = queue.claim('b', 2)
    assert [lease.trial for lease in second] == ['1', '3']
    assert [lease.trial for lease in queue.claim('b', 1, 1)] == ['5']
    assert queue.claim('b', 1, 1) == []
    assert [lease.trial for lease in queue.claim('b', 9)] == ['6']
    assert queue.claim('c', 1) == []
    assert queue.states() == {'leased': 7, 'done': 1}


def test_only_the_owner_settles(path: Path) -> None:
  with opened(path, jobs(2)) as queue:
    assert [lease.trial for lease in queue.claim('a', 1)] == ['0']
    assert not queue.settle('0', 'b', 'done')
    assert not queue.settle('1', 'a', 'done')
    assert queue.settle('0', 'a', 'done')
    assert not queue.settle('0', 'a', 'failed')
    assert queue.states() == {'done': 1, 'waiting': 1}
    queue.claim('a', 1)
    assert queue.settle('1', 'a', 'failed')
    assert queue.states() == {'done': 1, 'failed': 1}
    assert queue.claim('a', 1) == []


def test_what_was_given_back_comes_last_and_alone(path: Path) -> None:
  """The trial that ends its owner fails; its neighbours do not."""
  with opened(path, jobs(4)) as queue:
    queue.claim('a', 3)
    assert queue.give_back('a', ATTEMPTS) == (['0', '1', '2'], [])
    assert queue.give_back('a', ATTEMPTS) == ([], [])
    assert [lease.trial for lease in queue.claim('b', 3)] == ['3']
    assert queue.claim('b', 3, 0) == []  # no place for it in a group
    for attempt in (2, 3):
      lost = queue.claim('b', 3)
      assert [(lease.trial, lease.attempt) for lease in lost] == [
        ('0', attempt)
      ]
      again, failed = queue.give_back('b', ATTEMPTS)
      if attempt == 2:
        assert (again, failed) == (['0', '3'], [])
      else:
        assert (again, failed) == ([], ['0'])
    assert [lease.trial for lease in queue.claim('c', 3)] == ['1']
    assert queue.states() == {'failed': 1, 'leased': 1, 'waiting': 2}


def test_a_lease_expires_by_a_clock_that_nobody_sets(
  path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
  with opened(path, jobs(2), 10.0):
    pass
  clock = Clock()
  queue = Queue(path, 10.0, clock)
  try:
    queue.fill(jobs(2))
    queue.claim('a', 1)
    clock.now += 8
    queue.claim('b', 1)
    assert queue.expired() == []
    clock.now += 3
    assert queue.expired() == ['a']
    queue.beat('a')
    assert queue.expired() == []
    # A clock that begins again, as when the machine restarts.
    clock.now = 1.0
    assert queue.expired() == ['a', 'b']
    queue.beat('b')
    assert queue.expired() == ['a']
  finally:
    queue.close()
  # The one that is used: nobody can set it back or forth.
  wall = time.time()
  with opened(path, jobs(1), 60.0) as queue:
    queue.claim('a', 1)
    for jump in (-1e9, 1e9):
      monkeypatch.setattr(time, 'time', lambda jump=jump: wall + jump)
      assert queue.expired() == []
      assert queue.claim('b', 1) == []


def test_filling_replaces_all(path: Path) -> None:
  """A new run begins with what trials.jsonl says, whoever held a lease."""
  with opened(path, jobs(3)) as queue:
    queue.claim('a', 2)
  with opened(path, [Job('0', 0, True), Job('9', 0, False)]) as queue:
    assert queue.states() == {'done': 1, 'waiting': 1}
    assert not queue.settle('1', 'a', 'done')
    assert [(x.trial, x.attempt) for x in queue.claim('b', 9)] == [('9', 1)]


@pytest.mark.parametrize('seed', range(20))
def test_a_random_life_keeps_the_rules(seed: int, path: Path) -> None:
  """Owners claim, beat, settle, end and fall silent at random."""
  draw, total = random.Random(seed), 12
  with opened(path, [], 10.0):
    pass
  clock = Clock()
  queue = Queue(path, 10.0, clock)
  held: dict[str, dict[str, int]] = {name: {} for name in 'abc'}
  attempts = {str(n): 0 for n in range(total)}
  ended: dict[str, str] = {}
  try:
    queue.fill(jobs(total, 3))
    for _ in range(2000):
      if len(ended) == total:
        break
      owner, clock.now = draw.choice('abc'), clock.now + draw.random()
      mine = held[owner]
      act = draw.choice(['claim', 'claim', 'beat', 'settle', 'end', 'silent'])
      if act == 'claim' and not mine:
        most = draw.randint(1, 4)
        leases = queue.claim(owner, most)
        assert len(leases) <= most
        assert len({lease.program for lease in leases}) <= 1
        assert len(leases) <= 1 or all(x.attempt == 1 for x in leases)
        for lease in leases:
          assert not any(lease.trial in other for other in held.values())
          assert lease.trial not in ended
          attempts[lease.trial] += 1
          assert lease.attempt == attempts[lease.trial] <= ATTEMPTS
          mine[lease.trial] = lease.attempt
      elif act == 'beat':
        queue.beat(owner)
        assert owner not in queue.expired()
      elif act == 'settle' and mine:
        trial = draw.choice(sorted(mine))
        state = draw.choice(['done', 'done', 'failed'])
        assert queue.settle(trial, owner, state)
        ended[trial] = state
        del mine[trial]
      elif act in ('end', 'silent'):
        gone = [owner] if act == 'end' else queue.expired()
        for name in gone:
          again, failed = queue.give_back(name, ATTEMPTS)
          assert {*again, *failed} == held[name].keys()
          assert all(attempts[trial] == ATTEMPTS for trial in failed)
          ended |= dict.fromkeys(failed, 'failed')
          held[name] = {}
      counts = {'waiting': total - len(ended), 'done': 0, 'failed': 0}
      for state in ended.values():
        counts[state] += 1
      counts['leased'] = sum(map(len, held.values()))
      counts['waiting'] -= counts['leased']
      assert queue.states() == {k: n for k, n in counts.items() if n}
    assert len(ended) == total
  finally:
    queue.close()


# Damage. ----------------------------------------------------------------------


def garble(data: bytes, draw: random.Random) -> bytes:
  """Returns the bytes of a file after some damage."""
  kind = draw.choice(['noise', 'cut', 'flips', 'text', 'zeros'])
  if kind == 'cut':
    return data[: draw.randrange(1, len(data))]
  if kind == 'text':
    return b'{"trial": "0"}\n' * draw.randint(1, 400)
  if kind == 'zeros':
    return bytes(len(data))
  changed = bytearray(data)
  at = range(len(data)) if kind == 'noise' else draw.sample(range(len(data)), 9)
  for n in at:
    changed[n] = draw.randrange(256)
  return bytes(changed)


@pytest.mark.parametrize('seed', range(40))
def test_damage_is_set_aside_and_made_anew(seed: int, path: Path) -> None:
  draw, said = random.Random(seed), list[str]()
  with opened(path, jobs(300)) as queue:
    queue.claim('a', 7)
  data = garble(path.read_bytes(), draw)
  path.write_bytes(data)
  if draw.random() < 0.5:  # what a kill leaves behind, damaged too
    path.with_name('queue.sqlite-wal').write_bytes(draw.randbytes(5000))
    path.with_name('queue.sqlite-shm').write_bytes(draw.randbytes(32768))
  with opened(path, jobs(300), warn=said.append) as queue:
    assert queue.states() == {'waiting': 300}
    assert len(queue.claim('a', 299)) == 299
    assert queue.settle('0', 'a', 'done')
    assert len(queue.give_back('a', ATTEMPTS)[0]) == 298
  aside = list(path.parent.glob('*.damaged-*'))
  assert len(aside) == len(said) <= 1
  if aside:
    assert aside[0].read_bytes() == data
    assert str(aside[0]) in said[0]
    assert len(said[0].splitlines()) == 1


@pytest.mark.parametrize('bit', [144, 149, 376, 383])
def test_a_bit_of_the_header_is_no_disk_that_cannot_be_written(
  bit: int, path: Path
) -> None:
  """SQLite calls such a file read-only, or of a format that it lacks."""
  with opened(path, jobs(3)) as queue:
    queue.claim('a', 1)
  data = bytearray(path.read_bytes())
  data[bit // 8] ^= 1 << bit % 8
  path.write_bytes(data)
  said: list[str] = []
  with opened(path, jobs(3), warn=said.append) as queue:
    assert len(queue.claim('a', 3)) == 3
  assert len(said) == 1


@pytest.mark.parametrize('end', ['', '-wal', '-shm'])
def test_no_link_is_followed(end: str, path: Path, tmp_path: Path) -> None:
  victim = tmp_path / 'victim'
  victim.write_bytes(b'')
  link = path.with_name(path.name + end)
  link.symlink_to(victim)
  with pytest.raises(DataError, match=f'{link}: is a link: remove it'):
    open_queue(path, 1.0, pytest.fail)
  assert victim.read_bytes() == b''


def test_no_database_is_set_aside_twice(path: Path) -> None:
  for n in range(2):
    said: list[str] = []
    path.write_text(f'precious {n}')
    with opened(path, jobs(1), warn=said.append) as queue:
      assert len(queue.claim('a', 1)) == 1
    assert len(said) == 1
    saved = path.with_name(f'queue.sqlite.damaged-{n}').read_text()
    assert saved == f'precious {n}'


def test_what_the_disk_refuses_is_an_error_of_the_disk(path: Path) -> None:
  with opened(path, jobs(5)) as queue:
    other = sqlite3.connect(path)
    (pages,) = other.execute('PRAGMA page_count').fetchone()
    other.close()
    queue._db.execute(f'PRAGMA max_page_count = {pages}')
    with pytest.raises(OSError, match='full') as problem:
      queue.fill(jobs(5000))
    assert problem.value.errno == 28
    assert queue.states() == {'waiting': 5}  # all or nothing
    assert len(queue.claim('a', 2)) == 2
  path.unlink()
  path.mkdir()
  with pytest.raises(OSError, match='unable to open'):
    open_queue(path, 1.0, pytest.fail)


# Several processes. -----------------------------------------------------------

# Takes trials until none is left.  For each that it holds it makes a link with
# its name, which must not be there; it prints what it has settled.
TAKER = """
import os, pathlib, sys, time
from experiments.run.queue import Queue

path, held, owner, most = *map(pathlib.Path, sys.argv[1:3]), *sys.argv[3:5]
queue = Queue(path, 60.0)
while True:
  leases = queue.claim(owner, int(most))
  for lease in leases:
    os.symlink(owner, held / lease.trial)
  for lease in leases:
    (held / lease.trial).unlink()
    assert queue.settle(lease.trial, owner, 'done')
    print(lease.trial, flush=True)
  if not leases and not queue.states().keys() & {'waiting', 'leased'}:
    break
  time.sleep(0 if leases else 0.001)
"""


def take(path: Path, held: Path, owner: str) -> subprocess.Popen[str]:
  """Starts a process that takes up to three trials at a time."""
  words = [sys.executable, '-P', '-c', TAKER, str(path), str(held), owner, '3']
  return subprocess.Popen(
    words,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
  )


def holds(held: Path, owner: str) -> list[str]:
  """Returns what an owner holds, by the links that it has made."""
  found = []
  for link in held.iterdir():
    with contextlib.suppress(FileNotFoundError):
      if os.readlink(link) == owner:
        found.append(link.name)
  return found


def wait_until(what: Callable[[], object], message: str) -> None:
  """Waits until something holds."""
  deadline = time.monotonic() + TIMEOUT
  while not what():
    assert time.monotonic() < deadline, message
    time.sleep(0.001)


@pytest.fixture
def held(tmp_path: Path) -> Path:
  """A folder with a link for each trial that some process holds."""
  folder = tmp_path / 'held'
  folder.mkdir()
  return folder


@pytest.mark.slow
def test_three_processes_never_hold_the_same_trial(
  path: Path, held: Path
) -> None:
  with opened(path, jobs(400, 5)) as queue:
    takers = [take(path, held, owner) for owner in 'abc']
    said = [taker.communicate(timeout=TIMEOUT) for taker in takers]
    assert [
      (t.returncode, err) for t, (_, err) in zip(takers, said, strict=True)
    ] == [(0, '')] * 3
    settled = [trial for out, _ in said for trial in out.split()]
    assert sorted(settled, key=int) == [str(n) for n in range(400)]
    assert queue.states() == {'done': 400}
    assert not list(held.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize('how', ['killed', 'stopped'])
def test_what_a_dead_or_silent_process_held_comes_back(
  how: str, path: Path, held: Path
) -> None:
  draw, settled = random.Random(0), list[str]()
  with opened(path, jobs(2000, 3)) as queue:
    for n in range(4):
      owner = f'owner {n}'
      mine = take(path, held, owner)
      wait_until(lambda o=owner: holds(held, o), f'{owner} took nothing')
      time.sleep(draw.uniform(0, 0.02))
      if how == 'stopped':
        mine.send_signal(signal.SIGSTOP)
        os.waitpid(mine.pid, os.WUNTRACED)  # The signal takes a while.
        # It is silent: later than a lease can last.
        later = Queue(path, 60.0, lambda: time.monotonic() + 61)
        assert later.expired() in ([owner], [])  # or between two leases
        later.close()
      mine.kill()
      out, err = mine.communicate(timeout=TIMEOUT)
      assert (mine.returncode, err) == (-signal.SIGKILL, '')
      settled += out.split()
      kept = holds(held, owner)
      again, failed = queue.give_back(owner, attempts=ATTEMPTS)
      assert set(kept) <= {*again, *failed}
      for trial in kept:
        (held / trial).unlink()
    last = take(path, held, 'last')
    out, err = last.communicate(timeout=TIMEOUT)
    assert (last.returncode, err) == (0, '')
    settled += out.split()
    assert len(set(settled)) == len(settled)
    assert queue.states() == {'done': 2000}
    assert 2000 - 4 <= len(settled) <= 2000  # a kill may silence one
    assert not list(held.iterdir())
