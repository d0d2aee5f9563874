"""The sources of the project, as the tests of style read them."""

import ast
import dataclasses
import functools
import io
import shutil
import subprocess
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclasses.dataclass(frozen=True)
class Source:
  """One text file: its path from the root, with slashes, and its text."""

  path: str
  text: str

  @functools.cached_property
  def tree(self) -> ast.Module:
    return ast.parse(self.text, self.path)

  @property
  def package(self) -> str:
    """'model' for model/layers/norm.py, 'launch' for launch.py."""
    return self.path.partition('/')[0].removesuffix('.py')

  @property
  def is_python(self) -> bool:
    return self.path.endswith('.py')


@functools.cache
def tracked() -> tuple[Source, ...]:
  """Every text file that git tracks, or would add."""
  listed = subprocess.run(
    ['git', 'ls-files', '-z', '--cached', '--others', '--exclude-standard'],
    cwd=ROOT,
    check=True,
    capture_output=True,
    text=True,
  )
  found = []
  for path in sorted(set(listed.stdout.split('\0')) - {''}):
    if (ROOT / path).is_file():
      data = (ROOT / path).read_bytes()
      if b'\0' not in data:
        found.append(Source(path, data.decode()))
  return tuple(found)


def copy_project(folder: Path, *more: str) -> None:
  """Copies what runs and tests to a folder, and other files that are named."""
  ignored = shutil.ignore_patterns('__pycache__')
  for name in ('model', 'train', 'experiments', 'tests'):
    shutil.copytree(ROOT / name, folder / name, ignore=ignored)
  for name in ('launch.py', 'pyproject.toml', *more):
    if (ROOT / name).is_dir():
      shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    else:
      shutil.copy(ROOT / name, folder)


def imports(source: Source) -> Iterator[tuple[int, str]]:
  """Every (line, top-level package) that is imported, wherever it stands."""
  for node in ast.walk(source.tree):
    match node:
      case ast.Import(names=names):
        yield from ((node.lineno, x.name.partition('.')[0]) for x in names)
      case ast.ImportFrom(module=str(module), level=0):
        yield node.lineno, module.partition('.')[0]
      case ast.ImportFrom():
        yield node.lineno, source.package


def functions(tree: ast.AST) -> Iterator[Function]:
  """Every function and method, nested ones too."""
  return (node for node in ast.walk(tree) if isinstance(node, Function))


def comments(source: Source) -> Iterator[tuple[int, str]]:
  """Every (line, comment); a string that looks like one is none."""
  for token in tokenize.generate_tokens(io.StringIO(source.text).readline):
    if token.type == tokenize.COMMENT:
      yield token.start[0], token.string


def mentions(tree: ast.AST) -> Counter[str]:
  """Counts the names that are read; an import alone reads nothing."""
  found: Counter[str] = Counter()
  for node in ast.walk(tree):
    match node:
      case ast.Name(id=name, ctx=ast.Load()) | ast.Attribute(attr=name):
        found[name] += 1
      case ast.alias(name=name, asname=str()):
        found[name.rpartition('.')[2]] += 1
  return found
