"""Short runs of the command line, their inputs, and what they refuse."""

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from helpers.commands import trials
from helpers.source import ROOT

# The smallest runs that still evaluate twice.
TINY = (
  '--num_layers=1',
  '--d_model=16',
  '--num_heads=2',
  '--seq_len=16',
  '--batch_size=2',
  '--steps=4',
  '--eval_every=2',
  '--warmup_steps=1',
  '--learning_rate=1e-3',
)


def shell(*argv: str) -> subprocess.CompletedProcess[str]:
  """Returns what the real `python launch.py ARGV` did."""
  return subprocess.run(
    [sys.executable, str(ROOT / 'launch.py'), *argv],
    capture_output=True,
    text=True,
    timeout=120,
    check=False,
  )


def numbers(workdir: str | Path) -> dict[tuple[str, int], tuple[Any, ...]]:
  """Returns what a replay must repeat, by row and seed."""
  return {
    (r['row'], r['seed']): (r['trial'], r['digest'], r['metrics'])
    for r in trials(workdir)
  }


def write_inputs(folder: Path) -> None:
  """Makes a folder with texts, good and bad."""
  folder.mkdir()
  draw = random.Random(0)
  words = ['to', 'be', 'or', 'not', 'that', 'is', 'the', 'question.\n']
  text = ' '.join(draw.choices(words, k=800))
  (folder / 'good.txt').write_text(text)
  (folder / 'other.txt').write_text(text[::-1])
  (folder / 'short.txt').write_text('too short')
  (folder / 'empty.txt').write_text('')
  (folder / 'binary.txt').write_bytes(b'text\0text' * 100)
  (folder / 'latin.txt').write_bytes('déjà vu '.encode('latin-1') * 100)
  (folder / 'hollow').mkdir()


def tree(folder: Path) -> dict[str, bytes | None]:
  """Returns every path below a folder, with the content of files."""
  return {
    str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None
    for p in sorted(folder.rglob('*'))
  }


def assert_refused(code: int, out: str, err: str, *parts: str) -> None:
  """Fails unless a command was refused in one line that says `parts`."""
  assert code == 2, (out, err)
  assert err.startswith('launch.py: '), err
  assert err.endswith('\n')
  assert len(err.splitlines()) == 1, err
  assert 'Traceback' not in out + err
  for part in parts:
    assert part in err
