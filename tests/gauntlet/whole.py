"""Runs that nothing disturbed, kept where all parts find them."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from helpers.processes import Outcome, end, outcome, start, words, write_text

# How a run is laid out, by who runs it: workers take one trial at a time.
LAYOUTS = {'alone': '--workers=1', 'workers': '--lanes=shared:1'}
Done = tuple[int, str, str]  # exit code, stdout, stderr
PATIENCE = 600.0  # seconds after which a process hangs, on a busy machine


def argv(home: Path, *more: str) -> list[str]:
  """Returns the arguments of the run that all parts disturb: four trials."""
  text = home / 'text.txt'
  if not text.exists():
    write_text(home)
  return words(text, '--seeds=2', *more)


def whole(home: Path, layout: str = 'alone') -> Path:
  """Returns the working directory of a run that ended; do not change it."""
  workdir = home / f'whole-{layout}'
  if not workdir.exists():
    fresh = home / f'{workdir.name}-begun'
    own = argv(home, LAYOUTS[layout], f'--workdir={fresh}')
    done = finish(own)
    assert done[0] == 0, said(done)
    assert not done[2], said(done)
    os.rename(fresh, workdir)
  return workdir


def finish(words: Sequence[str]) -> Done:
  """Returns what a command line came to, in a process of its own."""
  return end(start(words), PATIENCE)


def changed(workdir: Path, expected: Outcome) -> str | None:
  """Returns what differs from a run that nothing disturbed, if anything."""
  found = outcome(workdir)
  return '; '.join(_differing(vars(found), vars(expected), '')) or None


def _differing(found: Any, expected: Any, where: str) -> Iterator[str]:
  """Yields where two values of JSON differ, and how."""
  if isinstance(found, dict) and isinstance(expected, dict):
    for key in {**expected, **found}:
      yield from _differing(found.get(key), expected.get(key), f'{where}/{key}')
  elif found != expected:
    yield f'{where} is {str(found)[:40]}, was {str(expected)[:40]}'


def said(done: Done) -> str:
  """Returns an exit code and the end of what a process said, in one line."""
  code, out, err = done
  return f'exit {code}: {" ".join((err or out)[-300:].split())}'
