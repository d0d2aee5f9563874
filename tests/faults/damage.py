"""Damages files of a finished working directory, and looks at what comes of it.

What a command then says must be what it said before, or a refusal that names
what is damaged: never another figure in silence, never a traceback.
"""

import contextlib
import dataclasses
import io
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from helpers import commands
from train.files.durable import read_intact_lines

# What every repetition writes anew, and what nobody reads.
ANEW = ('table.*', 'report.html', 'flags.txt', '.lock')
# A line of `trials.jsonl`.
RECORD: dict[str, Any] = {
  'row': 'base',
  'trial': '0123456789ab',
  'seed': 0,
  'status': 'ok',
  'metrics': {'val_loss': 2.5123456789, 'best_step': 6},
  'clock': {'seconds': 1.5},
  'steps': 6,
  'tokens': 192,
  'digest': 'ab' * 32,
  'parameters': 10,
  'flops_per_token': 100,
  'config': {'steps': '6'},
}


@dataclasses.dataclass(frozen=True)
class Reading:
  """What a command came to.

  Attributes:
    code: its exit code; -1 where it raised.
    said: what it printed, without what depends on the clock.
    errors: what it said on stderr, and its exception.
  """

  code: int
  said: str
  errors: str


@dataclasses.dataclass(frozen=True)
class Finding:
  """A command that misled after a damage: in silence, or by a traceback."""

  path: str
  damage: str
  command: str
  kind: str
  detail: str

  def __str__(self) -> str:
    return f'{self.path} {self.damage}, {self.command}: {self.kind}'


Command = Callable[[Path], Reading]


def launched(*argv: str, says: Callable[[str], str] = str) -> Reading:
  """Returns what `python launch.py ARGV` came to, run in this process."""
  out, err = io.StringIO(), io.StringIO()
  try:
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
      code = commands.run(*argv)
  except Exception as e:
    return Reading(-1, '', f'{err.getvalue()}{type(e).__name__}: {e}')
  return Reading(code, says(out.getvalue()), err.getvalue())


def evaluated(trial: str) -> Command:
  """Returns the command that evaluates a trial."""
  return lambda workdir: launched(f'--evaluate={workdir}:{trial}')


def generated(trial: str) -> Command:
  """Returns the command that lets a trial write."""
  return lambda workdir: launched(
    f'--generate={workdir}:{trial}', '--new_tokens=8'
  )


def repeated(*argv: str) -> Command:
  """Returns the command that trained it, once more."""

  def repeat(workdir: Path) -> Reading:
    return launched(
      *argv, f'--workdir={workdir}', says=lambda out: figures(workdir)
    )

  return repeat


def figures(workdir: Path) -> str:
  """Returns what a table and a record say, but for the clock."""
  table = json.loads((workdir / 'table.json').read_text())
  for row in table['rows']:
    del row['seconds']
  # A warning says it too, which is what is looked for.
  table['before'] = [x for x in table['before'] if 'is damaged' not in x]
  last = {
    r['trial']: {k: r[k] for k in r if k != 'clock'}
    for r in read_intact_lines(workdir / 'trials.jsonl')
  }
  return json.dumps([table, last], sort_keys=True)


def flip(data: bytes, draw: random.Random) -> tuple[bytes, str]:
  """Returns bytes with one bit changed, and which."""
  bit = draw.randrange(len(data) * 8)
  changed = bytearray(data)
  changed[bit // 8] ^= 1 << bit % 8
  return bytes(changed), f'bit {bit} flipped'


def cut(data: bytes, draw: random.Random) -> tuple[bytes, str]:
  """Returns the beginning of bytes, and how long it is."""
  size = draw.randrange(len(data))
  return data[:size], f'cut to {size} bytes'


Damage = Callable[[bytes, random.Random], tuple[bytes, str]]


def files(workdir: Path) -> list[Path]:
  """Returns the files that can be damaged, relative to the directory."""
  return sorted(
    path.relative_to(workdir)
    for path in workdir.rglob('*')
    if path.is_file()
    and path.stat().st_size
    and not any(path.match(pattern) for pattern in ANEW)
  )


def misled(
  whole: Path,
  scratch: Path,
  where: Sequence[Path],
  damages: Sequence[Damage],
  readers: dict[str, Command],
  draw: random.Random,
) -> Iterator[Finding]:
  """Damages files one after the other; yields where a command misled.

  Args:
    whole: a finished working directory; it is not changed.
    scratch: where a copy of it may lie, which is removed again.
    where: the files, relative to it; one may be named several times.
    damages: what to do to each.
    readers: commands by their names, those that write last.
    draw: of the places.
  """
  truth = {name: _read(whole, scratch, read) for name, read in readers.items()}
  for path in where:
    for damage in damages:
      changed, how = damage((whole / path).read_bytes(), draw)
      copied(whole, scratch)
      (scratch / path).write_bytes(changed)
      for name, read in readers.items():
        found = read(scratch)
        kind = verdict(found, truth[name])
        if kind is not None:
          detail = f'{found.code} {found.said[:300]} {found.errors[-300:]}'
          yield Finding(str(path), how, name, kind, detail)
  shutil.rmtree(scratch, ignore_errors=True)


def _read(whole: Path, scratch: Path, read: Command) -> Reading:
  copied(whole, scratch)
  found = read(scratch)
  assert found.code == 0, found
  return found


def copied(whole: Path, scratch: Path) -> None:
  """Makes a copy of a directory, whatever was there."""
  shutil.rmtree(scratch, ignore_errors=True)
  shutil.copytree(whole, scratch, symlinks=True, copy_function=shutil.copy)


def verdict(found: Reading, truth: Reading) -> str | None:
  """Returns how a command misled; none if it did not."""
  if found.code == -1 or 'Traceback' in found.errors:
    return 'traceback'
  if found.code == 0 and found.said != truth.said:
    return 'silent'
  if found.code != 0 and not found.errors.strip():
    return 'no word'
  return None
