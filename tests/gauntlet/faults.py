"""What befalls a run from outside: disks, pipes, signals, and its like."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from gauntlet.outcome import Attempt, Outcome
from gauntlet.whole import PATIENCE, Done, argv, changed, finish, said, whole
from helpers.processes import Unavailable, end, mount, outcome, running, start
from helpers.source import ROOT

FOLDER = 'faults'
LONGEST = 15.0  # seconds after which a run of these parts has ended, mostly


def attempts(home: Path) -> Attempt:
  """Returns the attempts: one fault each, every kind in its turn."""
  expected = outcome(whole(home))
  kinds = [*FAULTS]

  def attempt(seed: int) -> Outcome:
    name = kinds[seed % len(kinds)]
    draw = random.Random(f'faults:{seed}')
    place = home / FOLDER
    with _folder(place):
      try:
        bad, about = FAULTS[name](home, place, draw)
      except Unavailable as e:
        return Outcome('found', f'{name}: {e}', 0)
      if bad:
        return Outcome('traceback', f'{name}: {about}')
      workdir = place / 'run'
      done = finish(argv(home, f'--workdir={workdir}'))
      if done[0] != 0 or 'Traceback' in done[2]:
        return Outcome('traceback', f'{name}, then: {said(done)}')
      if why := changed(workdir, expected):
        return Outcome('silent', f'{name}: {about}; then {why}')
    return Outcome('found', f'{name}: {about}')

  return attempt


# Does something to a run in the folder `run` of a place; returns whether what
# came of it must not be, and what it was.
Fault = Callable[[Path, Path, random.Random], tuple[bool, str]]


@contextlib.contextmanager
def _folder(place: Path) -> Iterator[None]:
  """Makes a folder, and removes it with all that is mounted there."""
  clear(place)
  place.mkdir()
  try:
    yield
  finally:
    clear(place)


def clear(place: Path) -> None:
  """Removes a folder, though a process that was ended left a disk there."""
  while os.path.ismount(place):
    subprocess.run(['umount', '-l', str(place)], check=True)
  subprocess.run(['rm', '-rf', str(place)], check=True)


def _bytes(folder: Path) -> int:
  files = [p for p in folder.rglob('*') if p.is_file()]
  return sum(-(-p.stat().st_size // 4096) * 4096 for p in files)


def _refused(done: Done, word: str) -> tuple[bool, str]:
  """Returns whether a process failed to say a word in one line, and what."""
  code, _, err = done
  good = code in (1, 2) and len(err.splitlines()) == 1 and word in err
  return not good, said(done)


def full_disk(home: Path, place: Path, draw: random.Random) -> tuple[bool, str]:
  """The disk has less room than a run takes; later it has more."""
  room = _bytes(whole(home))
  share = draw.uniform(0.02, 0.98)
  mount(place, f'size={int(share * room) // 1024}k')
  done = finish(argv(home, f'--workdir={place / "run"}'))
  mount(place, f'size={8 * room // 1024}k')
  bad, about = _refused(done, 'make room')
  return bad and done[0] != 0, f'{share:.0%} of the room: {about}'


def short_files(
  home: Path, place: Path, draw: random.Random
) -> tuple[bool, str]:
  """No file may grow beyond a size, as where a quota is."""
  sizes = [p.stat().st_size for p in whole(home).rglob('*') if p.is_file()]
  size = int(draw.choice(sorted(sizes)) * draw.uniform(0.5, 1))
  words = argv(home, f'--workdir={place / "run"}')
  done = end(start(words, largest_file=size), PATIENCE)
  bad, about = _refused(done, str(place / 'run'))
  return bad and done[0] != 0, f'at most {size} bytes: {about}'


def read_only(home: Path, place: Path, draw: random.Random) -> tuple[bool, str]:
  """A disk that cannot be written, empty or with a run that has ended."""
  workdir = place / 'run'
  mount(place, 'size=64m')
  if draw.random() < 0.5:
    subprocess.run(['cp', '-r', str(whole(home)), str(workdir)], check=True)
  mount(place, 'ro')
  done = finish(argv(home, f'--workdir={workdir}'))
  mount(place, 'rw')
  return _refused(done, f'--workdir={workdir}')


def closed_pipe(
  home: Path, place: Path, draw: random.Random
) -> tuple[bool, str]:
  """Who reads what a run prints, ends: it goes on without."""
  with running(argv(home, f'--workdir={place / "run"}')) as process:
    assert process.stdout is not None
    lines = draw.randrange(10)
    for _ in range(lines):
      process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    err = process.stderr.read()
    done = process.wait(PATIENCE), '', err
  return done[0] != 0 or 'Traceback' in err, f'{lines} lines: {said(done)}'


def full_terminal(
  home: Path, place: Path, draw: random.Random
) -> tuple[bool, str]:
  """Nothing can be printed, on stdout, on stderr or on both."""
  full = draw.choice(['stdout', 'stderr', 'both'])
  words = argv(home, f'--workdir={place / "run"}')
  with open('/dev/full', 'w') as nowhere:
    done = subprocess.run(
      [sys.executable, str(ROOT / 'launch.py'), *words],
      stdout=subprocess.PIPE if full == 'stderr' else nowhere,
      stderr=subprocess.PIPE if full == 'stdout' else nowhere,
      text=True,
      timeout=PATIENCE,
      check=False,
    )
  out = done.returncode, done.stdout or '', done.stderr or ''
  ends = Path(place / 'run/table.json').exists()
  return not ends or 'Traceback' in out[2], f'{full}: {said(out)}'


def two_processes(
  home: Path, place: Path, draw: random.Random
) -> tuple[bool, str]:
  """The same command twice at a time: one works, the other is refused."""
  words = argv(home, f'--workdir={place / "run"}')
  with running(words) as one:
    time.sleep(draw.uniform(0, LONGEST / 2))
    with running(words) as other:
      ends = [end(other, PATIENCE), end(one, PATIENCE)]
  about = '; '.join(map(said, ends))
  refused = [done for done in ends if done[0] == 2]
  wrong = [done for done in refused if _refused(done, 'works there')[0]]
  fine = [done for done in ends if done[0] == 0]
  return bool(wrong) or len(refused) + len(fine) < 2 or not fine, about


def _signal(number: signal.Signals) -> Fault:
  """Returns the fault of a signal at any moment."""

  def interrupt(
    home: Path, place: Path, draw: random.Random
  ) -> tuple[bool, str]:
    seconds = draw.uniform(0, LONGEST)
    with running(argv(home, f'--workdir={place / "run"}')) as process:
      time.sleep(seconds)
      process.send_signal(number)
      done = end(process, PATIENCE)
    # Before Python has begun to handle it, it ends the process.
    known = done[0] in (0, 128 + number, -number)
    about = f'after {seconds:.2f} s: {said(done)}'
    return not known or 'Traceback' in done[2], about

  return interrupt


FAULTS: dict[str, Fault] = {
  'full disk': full_disk,
  'SIGTERM': _signal(signal.SIGTERM),
  'closed pipe': closed_pipe,
  'two processes': two_processes,
  'SIGINT': _signal(signal.SIGINT),
  'short files': short_files,
  'read-only disk': read_only,
  'SIGHUP': _signal(signal.SIGHUP),
  'full terminal': full_terminal,
}
