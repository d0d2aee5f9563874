"""The guides: their diffs apply, and the commands that they name run.

Each guide, a page of `docs/`, changes the project by unified diffs.  A copy of
the project is changed so, and does what the page says.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.source import ROOT, copy_project

# Each guide, and what is new when it has been followed.
GUIDES = {
  'add-a-variant': 'swiglu',
  'add-a-task': 'recall',
  'reproduce-a-paper': 'multi_query',
}


def blocks(guide: str, language: str) -> list[str]:
  """Returns the fenced blocks of a page in a language; '' for commands."""
  page = (ROOT / 'docs' / f'{guide}.md').read_text()
  found = re.findall(r'^```(.*)\n((?:.*\n)*?)```$', page, re.MULTILINE)
  return [text for name, text in found if name == language]


def commands(guide: str, start: str) -> list[list[str]]:
  """Returns the commands of a page that begin so, as words."""
  lines = '\n'.join(blocks(guide, '')).splitlines()
  # What follows two spaces is a remark, not an argument.
  texts = [re.split(r' {2,}', line)[0] for line in lines]
  return [shlex.split(text) for text in texts if text.startswith(start)]


def copy(folder: Path) -> None:
  """Makes a copy of the project, without what runs and tests leave behind."""
  copy_project(folder, 'docs', 'results', 'README.md', 'RESULTS.md')
  run(folder, 'git', 'init', '-q')


def follow(folder: Path, guide: str) -> None:
  """Applies the diffs of a page, as a reader does."""
  for diff in blocks(guide, 'diff'):
    run(folder, 'git', 'apply', '--whitespace=error', '-', given=diff)


def run(folder: Path, *words: str, given: str | None = None) -> str:
  """Returns what a command prints in a folder, where it must not fail."""
  done = subprocess.run(
    words,
    cwd=folder,
    input=given,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    check=False,
  )
  assert done.returncode == 0, f'{shlex.join(words)}:\n{done.stdout}'
  return done.stdout


def test_what_the_guides_add_is_listed(tmp_path: Path) -> None:
  copy(tmp_path)
  for guide, name in GUIDES.items():
    assert blocks(guide, 'diff'), guide
    assert commands(guide, 'python launch.py'), guide
    assert not [*tmp_path.glob(f'*/**/{name}.py')], f'{name} is there already'
    follow(tmp_path, guide)
  listed = run(tmp_path, sys.executable, 'launch.py', '--list')
  for name in GUIDES.values():
    assert re.search(rf'\b{name}\b', listed), name
  assert 'is broken' not in listed


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize('guide', GUIDES)
def test_its_commands_run(guide: str, tmp_path: Path) -> None:
  """Trained for a few steps: `--smoke` has a size of seconds."""
  copy(tmp_path)
  follow(tmp_path, guide)
  for _, *words in commands(guide, 'python -m pytest'):
    run(tmp_path, sys.executable, *words)
  for _, *words in commands(guide, 'python launch.py'):
    if '--help' not in str(words) and '--digest' not in words:
      large = ('--steps', '--seeds', '--result')
      words = [word for word in words if not word.startswith(large)]
      words += ['--seeds=1', '--smoke']
    run(tmp_path, sys.executable, *words)
