"""Damages one file of a finished run, and reads it in every way there is."""

import hashlib
import random
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from faults import damage
from gauntlet.outcome import Attempt, Outcome
from gauntlet.whole import argv, whole


class View(NamedTuple):
  """What a command came to, and all that it left for people to look at."""

  reading: damage.Reading
  shown: str = ''


Reader = Callable[[Path], View]
# What people look at after a run: byte for byte as after the same one.
LOOKED_AT = ('report.html', 'table.*', 'selection.json')


def lost(data: bytes, draw: random.Random) -> tuple[None, str]:
  """Returns nothing: the file is deleted."""
  del data, draw
  return None, 'deleted'


def emptied(data: bytes, draw: random.Random) -> tuple[bytes, str]:
  """Returns no bytes."""
  del data, draw
  return b'', 'emptied'


def twice(data: bytes, draw: random.Random) -> tuple[bytes, str]:
  """Returns bytes with one line twice."""
  lines = data.splitlines(keepends=True)
  number = draw.randrange(len(lines))
  changed = [*lines[: number + 1], *lines[number:]]
  return b''.join(changed), f'line {number + 1} twice'


def short(data: bytes, draw: random.Random) -> tuple[bytes, str]:
  """Returns bytes without their last lines, cut where a line ends."""
  lines = data.splitlines(keepends=True)
  number = draw.randrange(len(lines))
  return b''.join(lines[:number]), f'cut after line {number}'


Damage = Callable[[bytes, random.Random], tuple[bytes | None, str]]
# Flips most: one bit is the hardest to see.
DAMAGES: tuple[Damage, ...] = (
  *(damage.flip,) * 5,
  *(damage.cut,) * 2,
  *(emptied, lost, twice, short),
)


def readers(words: list[str], elsewhere: Path) -> Mapping[str, Reader]:
  """Returns the commands that read a working directory.

  Args:
    words: of the command that trained it, which is repeated.
    elsewhere: where it may be merged into.
  """

  def only(command: damage.Command) -> Reader:
    return lambda workdir: View(command(workdir))

  def repeat(workdir: Path) -> View:
    found = damage.repeated(*words)(workdir)
    return View(found, looked_at(workdir) if found.code == 0 else '')

  def merge(workdir: Path) -> View:
    shutil.rmtree(elsewhere, ignore_errors=True)
    return View(damage.repeated(*words, f'--merge={workdir}')(elsewhere))

  def replay(workdir: Path) -> View:
    given = f'--flagfile={workdir / "flags.txt"}', f'--workdir={workdir}'
    return View(damage.launched(*given, '--plan', says=_timeless))

  return {
    'evaluate': only(damage.evaluated('base')),
    'evaluate one': only(damage.evaluated('position=none/1')),
    'generate': only(damage.generated('base')),
    'merge': merge,
    'replay': replay,
    'repeat': repeat,
  }


def _timeless(plan: str) -> str:
  """Returns a plan without its estimate: each run teaches it the time."""
  return re.sub(r'(about [\d.]+ minutes|under a minute) \([^)]*\)', '', plan)


def looked_at(workdir: Path) -> str:
  """Returns a digest of what people look at."""
  total = hashlib.sha256()
  for pattern in LOOKED_AT:
    for path in sorted(workdir.rglob(pattern)):
      total.update(f'{path.relative_to(workdir)}\n'.encode())
      total.update(path.read_bytes())
  return total.hexdigest()


def verdict(found: View, truth: View) -> Outcome:
  """Returns what a command after a damage came to."""
  reading, before = found.reading, truth.reading
  kind = damage.verdict(reading, before)
  about = f'exit {reading.code}: {" ".join(reading.errors[-300:].split())}'
  if kind == 'no word' and reading.said:
    kind = None  # it is said on stdout what is not here
  if kind is not None:
    return Outcome('silent' if kind == 'silent' else 'traceback', about)
  if reading.code == 2 and len(reading.errors.splitlines()) > 1:
    return Outcome('traceback', f'a refusal of several lines: {about}')
  if reading.code != 0 or reading.errors != before.errors:
    return Outcome('found', about)
  if found.shown != truth.shown:
    return Outcome('silent', 'a report or a table differs, without a word')
  return Outcome('harmless', about)


def attempts(home: Path) -> Attempt:
  """Returns the attempts: one damage each to a file of a run that ended."""
  reads = readers(argv(home), home / 'elsewhere')
  return damages(whole(home), home / 'damaged', reads)


def damages(
  source: Path, scratch: Path, reads: Mapping[str, Reader]
) -> Attempt:
  """Returns attempts that damage one file each, and read it in two ways.

  Args:
    source: a working directory; it is not changed.
    scratch: where a copy of it may lie.
    reads: commands by their names; the last writes, and is always run.
  """
  *others, last = reads
  truth = {}
  for name, read in reads.items():
    for _ in range(2):  # the first may say what it makes anew
      damage.copied(source, scratch)
      truth[name] = read(scratch)
    assert truth[name].reading.code == 0, truth[name]

  def attempt(seed: int) -> Outcome:
    draw = random.Random(f'flips:{seed}')
    path = draw.choice(_files(source))
    names = [*([draw.choice(others)] if others else []), last]
    changed, how = draw.choice(DAMAGES)((source / path).read_bytes(), draw)
    damage.copied(source, scratch)
    if changed is None:
      (scratch / path).unlink()
    else:
      (scratch / path).write_bytes(changed)
    came = {name: verdict(reads[name](scratch), truth[name]) for name in names}
    name = min(came, key=lambda name: _ORDER.index(came[name].kind))
    kind, about, _ = came[name]
    return Outcome(kind, f'{path} {how}, {name}: {about}')

  return attempt


_ORDER = ('traceback', 'silent', 'found', 'harmless')  # the worst first


def _files(workdir: Path) -> list[Path]:
  """Returns the files that hold anything, relative to the directory."""
  return sorted(
    path.relative_to(workdir)
    for path in workdir.rglob('*')
    if path.is_file() and path.stat().st_size
  )
