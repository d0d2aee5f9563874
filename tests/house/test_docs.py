"""The commands of the documentation are accepted as they stand."""

import ast
import pathlib
import re
import shlex
import subprocess

import pytest
from absl import flags

import launch
from experiments.cli import main as cli
from helpers.commands import captions

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob('*.md')), *sorted(ROOT.glob('docs/*.md'))]
MAX_README = 200  # lines


def _commands() -> list[str]:
  """Returns each `python launch.py ...` of the pages and of docstrings."""
  modules = sorted((ROOT / 'experiments' / 'questions').glob('*.py'))
  docs = [ast.get_docstring(ast.parse(path.read_text())) for path in modules]
  # A guide's commands need its diffs: `test_guides.py` runs them.
  pages = [path.read_text() for path in PAGES]
  docs += [page for page in pages if '```diff' not in page]
  docs += [launch.__doc__]
  text = '\n'.join(filter(None, docs))
  # As a shell reads them: a line that ends in a backslash goes on in the next.
  text = re.sub(r'\\\n *', '', text)
  found = re.findall(r'(?<!/)python (launch\.py[^`\n]*)', text)
  # What follows two spaces is a remark, not an argument.
  return sorted({re.split(r' {2,}', command)[0].strip() for command in found})


@pytest.mark.parametrize('command', _commands())
def test_command_is_accepted(
  command: str,
  tmp_path: pathlib.Path,
  monkeypatch: pytest.MonkeyPatch,
  capsys: pytest.CaptureFixture[str],
) -> None:
  """Placeholders are filled in, and --plan is added: nothing is trained."""
  text = tmp_path / 'text.txt'
  text.write_text('to be or not to be, that is the question. ' * 200)
  words = [
    word.replace('FILE_OR_DIR', str(text))
    .replace('FILE', str(text))
    .replace('[', '')
    .replace(']', '')
    for word in shlex.split(command)
    if word != '...'
  ]
  if re.search(r'HASH|WORKDIR|NAME|--flagfile|--evaluate|--generate', command):
    pytest.skip('names a run that the reader has, and this test has not')
  if 'shakespeare' in command or 'nanogpt' in command:
    words.append(f'--task.path={text}')
    words = [w for w in words if w != '--task.corpus=shakespeare']
    words.append('--task.corpus=none')
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr('train.data.tables.multi30k.fetch_text', captions)
  if not {'--list', '--digest'} & {*words}:
    words.append('--plan')
  code = cli.main(words, flags.FlagValues(), launch.__doc__ or '')
  printed = capsys.readouterr()
  assert code == 0, printed.err
  assert not (tmp_path / 'runs').exists()


def test_there_are_commands() -> None:
  """The pattern above finds them, to their last word."""
  assert len(_commands()) >= 10
  long = [c for c in _commands() if '--batch_size=146' in c]
  assert len(long) == 2  # of the README, and of its experiment
  for command in long:
    assert '\\' not in command
    assert '--seeds=3' in command


def test_the_readme_is_short() -> None:
  lines = (ROOT / 'README.md').read_text().splitlines()
  assert len(lines) <= MAX_README


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: pathlib.Path) -> None:
  # Of code, what looks like a link is none.
  text = re.sub(
    r'^```.*?^```|`[^`\n]*`', '', page.read_text(), flags=re.M | re.S
  )
  for link in re.findall(r'\]\(([^)\s]*)\)', text):
    path, _, part = link.partition('#')
    if link.startswith(('http://', 'https://')):
      continue
    there = page.parent / path if path else page
    assert there.exists(), f'{page.name}: {link}'
    if part:
      titles = re.findall(r'^#+ (.*)', there.read_text(), re.M)
      assert part in [title.lower().replace(' ', '-') for title in titles]


def _history() -> list[str]:
  """Returns the ids of all commits; none where git does not have them all."""

  def git(*words: str) -> str:
    return subprocess.run(
      ['git', *words], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()

  try:
    own = pathlib.Path(git('rev-parse', '--show-toplevel')) == ROOT
    if not own or git('rev-parse', '--is-shallow-repository') == 'true':
      return []
    return git('rev-list', 'HEAD').split()
  except (OSError, subprocess.CalledProcessError):
    return []


def test_commits_that_pages_name_exist() -> None:
  known = _history()
  if not known:
    pytest.skip('no git, or not the whole history')
  for page in PAGES:
    for name in re.findall(r'commit\s+`(\w+)`', page.read_text()):
      assert any(one.startswith(name) for one in known), f'{page.name}: {name}'


def test_pages_are_listed() -> None:
  """In the README's links, the guides in CONTRIBUTING too."""
  readme, contributing = (
    (ROOT / name).read_text() for name in ('README.md', 'CONTRIBUTING.md')
  )
  for page in PAGES:
    if page.parent != ROOT:
      assert f'](docs/{page.name})' in readme, page.name
    if '```diff' in page.read_text():
      assert f'](docs/{page.name})' in contributing, page.name
