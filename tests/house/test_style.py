"""Mechanical rules of style, each with bad snippets that it must flag."""

import ast
import dataclasses
import itertools
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import pytest

from helpers.source import (
  ROOT,
  Function,
  Source,
  comments,
  functions,
  imports,
  mentions,
  tracked,
)
from house import shape_lint

HOUSE = ('model', 'train', 'experiments', 'launch')  # imports run to the left
# The first is a guide (300) with room for one idea that takes more.
MAX_FILE, MAX_FUNCTION = 400, 50
MAX_TEST_FILE = 600  # tests are lists of cases, which nobody reads at once
MAX_FILES = 15  # Python files in a folder, of those that git tracks
# What a function of the model may import when it is called, and nothing else.
EXTRAS = {'model/backends/kernels.py': ('absl', 'tokamax')}
Finding = tuple[int, str]  # line, what is wrong


@dataclasses.dataclass(frozen=True)
class Rule:
  """A check over all files, and bad files: it must flag each of them."""

  check: Callable[[Sequence[Source]], Iterator[str]]
  bad: dict[str, str]

  def __str__(self) -> str:
    return self.check.__name__


RULES: list[Rule] = []
Check = Callable[[Source], Iterable[Finding]]


def rule(bad: dict[str, str], tests: bool = False) -> Callable[[Check], Check]:
  """Registers a check of one file of the house; with `tests`, of those too."""
  over = {*HOUSE, 'tests'} if tests else {*HOUSE}

  def register(check: Check) -> Check:
    def check_all(sources: Sequence[Source]) -> Iterator[str]:
      for source in sources:
        if source.is_python and source.package in over:
          for line, message in check(source):
            yield f'{source.path}:{line}: {message}'

    check_all.__name__ = check.__name__
    RULES.append(Rule(check_all, bad))
    return check

  return register


@rule(
  {
    'model/a.py': 'from train import step',
    'train/a.py': 'def f():\n  import experiments.run.engine',
    'experiments/a.py': 'import launch\nfrom tests import tolerance',
  }
)
def imports_run_one_way(source: Source) -> Iterator[Finding]:
  above = {*HOUSE[HOUSE.index(source.package) + 1 :], 'tests'}
  for line, package in imports(source):
    if package in above:
      yield line, f'{source.package} imports {package}'


@rule(
  {
    'model/layers/norm.py': 'import optax',
    'model/attention/mask.py': 'from absl import flags',
    'model/core/field.py': 'import jax.numpy as jnp',  # --help pays for it
    'model/backends/kernels.py': 'import tokamax',  # all would need it
    'model/backends/base.py': 'def f() -> None:\n  import tokamax',
  }
)
def model_imports_little(source: Source) -> Iterator[Finding]:
  known = {'model', *sys.stdlib_module_names}
  if source.path != 'model/core/field.py':
    known |= {'jax', 'flax', 'numpy'}
  if source.package == 'model':
    within = {
      line: {*EXTRAS.get(source.path, ())}
      for node in functions(source.tree)
      for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    for line, package in imports(source):
      if package not in known | within.get(line, set()):
        yield line, f'imports {package}'


@rule({'train/loop.py': 'import orbax.checkpoint as ocp'})
def orbax_in_one_place(source: Source) -> Iterator[Finding]:
  for line, package in imports(source):
    if package == 'orbax' and source.path != 'train/files/checkpoint.py':
      yield line, 'orbax belongs in train/files/checkpoint.py'


_SECTION = re.compile(r'^(Attributes|Args):\n((?:  .*\n?|\n)+)', re.M)


@rule(
  {
    'model/a.py': 'class A:\n  """A.\n\n  Attributes:\n    y: a.\n  """',
    'tests/a.py': 'def f(x):\n  """F.\n\n  Args:\n    y: a.\n  """',
  },
  tests=True,
)
def documented_names_exist(source: Source) -> Iterator[Finding]:
  for node in ast.walk(source.tree):
    if not isinstance(node, ast.ClassDef | ast.FunctionDef):
      continue
    for section, text in _SECTION.findall(ast.get_docstring(node) or ''):
      listed = re.findall(r'^  \*{0,2}(\w+(?:, \w+)*):', text, re.M)
      names = {name for names in listed for name in names.split(', ')}
      there = _attributes(node) if section == 'Attributes' else _arguments(node)
      for name in sorted(names - there):
        yield node.lineno, f'{node.name} has no {name}, which it documents'


def _arguments(node: ast.ClassDef | ast.FunctionDef) -> set[str]:
  if isinstance(node, ast.ClassDef):
    found = [n for n in node.body if isinstance(n, ast.FunctionDef)]
    makers = [f for f in found if f.name == '__init__']
    return {*itertools.chain(*map(_arguments, makers))}
  given = node.args
  rest = [a for a in (given.vararg, given.kwarg) if a]
  every = given.posonlyargs + given.args + given.kwonlyargs + rest
  return {argument.arg for argument in every}


def _attributes(node: ast.AST) -> set[str]:
  found = set[str]()
  for part in ast.walk(node):
    match part:
      case ast.AnnAssign(target=ast.Name(id=name)):
        found.add(name)
      case ast.FunctionDef(name=name):
        found.add(name)
      case ast.Attribute(value=ast.Name(id='self'), attr=name):
        found.add(name)
      case _:
        pass
  return found


@rule(
  {
    'train/loop.py': 'step = jax.value_and_grad(loss)',
    'experiments/a.py': 'from jax import grad as g',
  }
)
def gradients_in_one_place(source: Source) -> Iterator[Finding]:
  if source.path in ('train/programs/step.py', 'train/programs/validation.py'):
    return
  for node in ast.walk(source.tree):
    match node:
      case ast.Attribute(value=ast.Name(id='jax'), attr=name):
        names = {name}
      case ast.ImportFrom(module='jax', names=aliases):
        names = {alias.name for alias in aliases}
      case _:
        continue
    if names & {'grad', 'value_and_grad'}:
      yield node.lineno, 'gradients belong in train/programs'


@rule(
  {'model/a.py': 'def f(**kwargs): pass', 'tests/a.py': 'lambda **k: k'},
  tests=True,
)
def no_keyword_catch_all(source: Source) -> Iterator[Finding]:
  if source.path == 'train/devices/compilations.py':
    return  # JAX calls a listener with keywords that differ from event to event
  for node in ast.walk(source.tree):
    match node:
      case ast.arguments(kwarg=ast.arg(arg=name, lineno=line)):
        yield line, f'**{name} as a parameter'


@rule(
  {
    'model/a.py': "getattr(config, 'steps', 10)",
    'train/a.py': "eval('1')",
    'launch.py': "exec('x = 1')",
  },
  tests=True,
)
def no_guessing_at_run_time(source: Source) -> Iterator[Finding]:
  for node in ast.walk(source.tree):
    match node:
      case ast.Call(func=ast.Name(id='getattr'), args=[_, _, _]):
        yield node.lineno, 'getattr with a default'
      case ast.Call(func=ast.Name(id='exec' | 'eval' as name)):
        yield node.lineno, f'{name}()'


@rule(
  {
    'model/a.py': 'x = 1  # type: ignore',
    'model/b.py': 'x = 1  # pyright: ignore[reportCallIssue]',
    'launch.py': 'import os  # noqa: F401',
  },
  tests=True,
)
def ignores_say_why(source: Source) -> Iterator[Finding]:
  ignore = re.compile(r'#\s*(?:type:\s*ignore|pyright:\s*ignore|noqa)\b(.*)')
  for line, text in comments(source):
    found = ignore.search(text)
    if found and not re.match(
      r'(\[[\w, -]+\]|: [\w, ]+)\s+#? ?\(?\w', found[1]
    ):
      yield line, 'needs a rule and a reason: ignore[rule]  # reason'


@rule({'model/a.py': '# TO' + 'DO: x', 'launch.py': '"""FIX' + 'ME"""'}, True)
def nothing_left_to_do(source: Source) -> Iterator[Finding]:
  for line, text in enumerate(source.text.splitlines(), 1):
    if re.search(r'\b(TO[D]O|FIX[M]E|XX[X])\b', text):
      yield line, 'unfinished'


@rule(
  {
    'model/a.py': 'x = 1\n' * (MAX_FILE + 1),
    'tests/a.py': 'x = 1\n' * (MAX_TEST_FILE + 1),
  },
  tests=True,
)
def files_hold_one_idea(source: Source) -> Iterator[Finding]:
  lines = len(source.text.splitlines())
  most = MAX_TEST_FILE if source.package == 'tests' else MAX_FILE
  if lines > most:
    yield most, f'{lines} lines in a file, at most {most}'


@rule(
  {
    'tests/a.py': 'import test_model',
    'tests/b.py': 'from train.optim.test_average import config',
    'tests/c.py': 'def f():\n  from model import test_cache',
  },
  tests=True,
)
def no_module_imports_a_test_module(source: Source) -> Iterator[Finding]:
  """What two of them need is a fixture of a conftest.py, or a helper."""
  for line, module in imported_modules(source):
    if any(part.startswith('test_') for part in module.split('.')):
      yield line, f'imports {module}: tests share what is in a helper'


@rule({'model/a.py': 'def f():\n' + '  x = 1\n' * MAX_FUNCTION})
def functions_hold_one_idea(source: Source) -> Iterator[Finding]:
  for node in functions(source.tree):
    lines = (node.end_lineno or 0) - node.lineno + 1
    if lines > MAX_FUNCTION:
      yield node.lineno, f'{lines} lines in {node.name}, at most {MAX_FUNCTION}'


@rule(
  {
    'model/a.py': 'def f(x) -> int: return x',
    'train/a.py': 'class A:\n  def g(self): pass',
  }
)
def signatures_are_typed(source: Source) -> Iterator[Finding]:
  """What is nested in a function is left free: scan bodies, closures."""
  found = set(functions(source.tree))
  for node in found - {f for g in found for s in g.body for f in functions(s)}:
    given = node.args
    names = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    bare = {x.arg for x in names if not x.annotation} - {'self', 'cls'}
    if bare or not (node.returns or node.name == '__init__'):
      yield node.lineno, f'{node.name}: no type for {sorted(bare) or "result"}'


@rule(
  {
    'model/a.py': "x_BNTS = jnp.einsum('BTNH,BSNH->BNST', q_BTNH, k_BSNH)",
    'model/b.py': "np.einsum('BTNH,BSNH->BNTS', q_BNTH, k_BSNH.astype(f))",
    'model/c.py': "o_BD: A = jnp.einsum('...D,DF->...F', x_BD, w) * scale",
    'model/d.py': "jnp.einsum('BT,B', x_BT, y_B)",
    'model/e.py': "jnp.einsum('BT->B', x_BT, y_B)",
    'model/f.py': "jnp.einsum('...TD->...T', -p['x_BDT'])",
    'tests/a.py': "jnp.einsum('BT,TS->BS', x_11, y_1)",
  },
  tests=True,
)
def names_and_equations_agree(source: Source) -> Iterator[Finding]:
  return shape_lint.check(source.tree)


@rule(
  {
    'tests/a.py': 'assert f(x) == f(x)',
    'tests/b.py': 'np.testing.assert_allclose(y, y, rtol=1)',
  },
  tests=True,
)
def assertions_compare_two_things(source: Source) -> Iterator[Finding]:
  for node in ast.walk(source.tree):
    match node:
      case ast.Assert(test=ast.Compare(left=left, comparators=[right, *_])):
        named = 'assert'
      case ast.Call(func=func, args=[left, right, *_]):
        named = ast.unparse(func)
      case _:
        continue
    if 'assert' in named and ast.dump(left) == ast.dump(right):
      yield node.lineno, f'both sides are {ast.unparse(left)}'


def no_unused_definitions(sources: Sequence[Source]) -> Iterator[str]:
  """Of top-level functions and classes.

  A decorated function may register, and a class with a tag does: a file is all
  that a variant needs.
  """
  python = [source for source in sources if source.is_python]
  everywhere = sum((mentions(s.tree) for s in python), Counter[str]())
  for source in python:
    for node in source.tree.body if source.package in HOUSE else ():
      if not isinstance(node, Function | ast.ClassDef):
        continue
      if isinstance(node, Function):
        registered = bool(node.decorator_list)
      else:
        registered = 'tag' in [keyword.arg for keyword in node.keywords]
      unused = everywhere[node.name] == mentions(node)[node.name]
      if unused and not registered:
        yield f'{source.path}:{node.lineno}: {node.name} is never used'


def variants_tell_their_traits(
  sources: Sequence[Source],
) -> Iterator[str]:
  """Of the model: who asks which variant it is has no answer for the next."""
  within = [s for s in sources if s.is_python and s.package == 'model']
  tagged = {
    node.name
    for source in within
    for node in ast.walk(source.tree)
    if isinstance(node, ast.ClassDef)
    and 'tag' in [keyword.arg for keyword in node.keywords]
  }
  for source in within:
    for node in ast.walk(source.tree):
      match node:
        case ast.Call(func=ast.Name(id='isinstance'), args=[_, kinds]):
          named = kinds
        case ast.Compare(left=ast.Call(func=ast.Name(id='type'))):
          named = ast.Tuple(node.comparators)
        case _:
          continue
      names = {n.id for n in ast.walk(named) if isinstance(n, ast.Name)}
      for name in sorted(names & tagged):
        yield f'{source.path}:{node.lineno}: asks whether it is {name}'


def folders_are_rooms(sources: Sequence[Source]) -> Iterator[str]:
  """Few files, and a docstring that says what it may import."""
  python = [s for s in sources if s.is_python and s.package in HOUSE[:-1]]
  files = Counter(folder_of(source) for source in python)
  docs = {
    folder_of(s): ast.get_docstring(s.tree) or ''
    for s in python
    if s.path.endswith('/__init__.py')
  }
  for folder, count in files.items():
    if count > MAX_FILES:
      yield f'{folder}/__init__.py: {count} files, at most {MAX_FILES}'
    if not docs.get(folder, '').strip():
      yield f'{folder}/__init__.py: no docstring'
  modules = {dotted(source.path): folder_of(source) for source in python}
  arrows = {folder: {*()} for folder in files}
  for source in python:
    here = folder_of(source)
    for line, module in imported_modules(source):
      there = modules.get(module)
      if there and there != here and there.split('/')[0] == source.package:
        arrows[here].add(there)
        named = there.partition('/')[2].replace('/', '.') or there
        if named not in may_import(docs.get(here, '')):
          where = f'{source.path}:{line}'
          yield f'{where}: {here} does not say that it imports {named}'
  for folder in sorted(arrows):
    if folder in reached_from(folder, arrows):
      yield f'{folder}/__init__.py: imports itself, through other folders'


def folders_of_tests_are_rooms(sources: Sequence[Source]) -> Iterator[str]:
  """Few files in each, and no package that would stand for one of the house."""
  python = [s for s in sources if s.is_python and s.package == 'tests']
  for folder, count in Counter(map(folder_of, python)).items():
    if count > MAX_FILES:
      yield f'{folder}: {count} files, at most {MAX_FILES}'
  for source in python:
    _, inner, *names = source.path.split('/')
    if inner in HOUSE and names[-1:] == ['__init__.py']:
      yield f'{source.path}: tests/{inner} would be imported as {inner}'


def folder_of(source: Source) -> str:
  return source.path.rpartition('/')[0]


def dotted(path: str) -> str:
  """Returns the module of a file."""
  return path.removesuffix('.py').removesuffix('/__init__').replace('/', '.')


def imported_modules(source: Source) -> Iterator[tuple[int, str]]:
  """Yields what might be modules, dotted, with the line that imports them."""
  for node in ast.walk(source.tree):
    match node:
      case ast.Import(names=names):
        yield from ((node.lineno, name.name) for name in names)
      case ast.ImportFrom(module=str(module), names=names):
        yield node.lineno, module
        yield from ((node.lineno, f'{module}.{name.name}') for name in names)


def may_import(docstring: str) -> set[str]:
  """Returns the folders that the last line of a docstring names."""
  said = ' '.join(docstring.split()).rpartition('Imports: ')[2]
  return {*re.findall(r'[\w.]*\w', said)}


def reached_from(start: str, arrows: Mapping[str, set[str]]) -> set[str]:
  """Returns the folders to which arrows lead."""
  found: set[str] = set()
  ahead = [*arrows[start]]
  while ahead:
    if (folder := ahead.pop()) not in found:
      found.add(folder)
      ahead += arrows[folder]
  return found


def no_machine_paths(sources: Sequence[Source]) -> Iterator[str]:
  machine = r'(?<![\w.}])/(?:work|root|home|Users|tmp|opt|mnt|media|srv)/[\w.-]'
  for source in sources:
    for line, text in enumerate(source.text.splitlines(), 1):
      if found := re.search(machine, text):
        yield f'{source.path}:{line}: {found[0]}... is a path of one machine'


UNUSED = {
  'model/a.py': 'def f(n): return f(n - 1)',
  'train/a.py': '@frozen\nclass A: pass',
  'train/b.py': 'from model.a import f\nclass B: pass',
}
ASKED = {
  'model/a.py': "class A(B, tag='a'): pass\nx = isinstance(y, B | A)",
  'model/b.py': 'x = type(y) is A',
  'model/c.py': 'x = type(y.z) in (B, A)',
}
SAYS = '"""A room.\n\nImports: %s.\n"""\n'
CROWD = {f'model/x/f{n}.py': '' for n in range(MAX_FILES)}
MUTE = {'model/y/f.py': ''}
SILENT = {
  'model/z/__init__.py': SAYS % 'nothing',
  'model/z/f.py': 'from model.w import g',
  'model/w/__init__.py': SAYS % 'nothing',
  'model/w/g.py': '',
}
CIRCLE = {
  'model/u/__init__.py': SAYS % 'v',
  'model/u/f.py': 'from model.v import g',
  'model/v/__init__.py': SAYS % 'u',
  'model/v/g.py': 'import model.u.f',
}
RULES.append(Rule(no_unused_definitions, UNUSED))
RULES.append(Rule(variants_tell_their_traits, ASKED))
RULES.append(Rule(folders_are_rooms, {'model/y/__init__.py': 'x = 1'}))
IMPOSTORS = {f'tests/{name}/__init__.py': '' for name in ('model', 'train')}
RULES.append(Rule(folders_of_tests_are_rooms, IMPOSTORS))
RULES.append(Rule(no_machine_paths, {'README.md': 'see /' + 'home/ann/x.txt'}))


@pytest.mark.parametrize('rule', RULES, ids=str)
def test_holds(rule: Rule) -> None:
  findings = list(rule.check(tracked()))
  assert not findings, '\n' + '\n'.join(findings)


@pytest.mark.parametrize('rule', RULES, ids=str)
def test_flags_what_is_bad(rule: Rule) -> None:
  findings = list(rule.check([Source(*item) for item in rule.bad.items()]))
  missed = set(rule.bad) - {finding.partition(':')[0] for finding in findings}
  assert not missed, findings


@pytest.mark.parametrize(
  ('files', 'said'),
  [
    (CROWD, f'at most {MAX_FILES}'),
    (MUTE, 'no docstring'),
    (SILENT, 'does not say that it imports w'),
    (CIRCLE, 'imports itself'),
  ],
)
def test_flags_rooms_that_are_none(files: dict[str, str], said: str) -> None:
  sources = [Source(*item) for item in files.items()]
  if said.startswith('at most'):
    sources.append(Source('model/x/__init__.py', SAYS % 'nothing'))
  assert any(said in finding for finding in folders_are_rooms(sources))


def test_flags_folders_of_tests_with_too_many_files() -> None:
  names = [f'tests/x/test_{n}.py' for n in range(MAX_FILES + 1)]
  sources = [Source(name, '') for name in names]
  assert not list(folders_of_tests_are_rooms(sources[1:]))
  (found,) = folders_of_tests_are_rooms(sources)
  assert found.startswith('tests/x: ')


def test_shape_lint_accepts_what_agrees() -> None:
  good = """
logits_BNTS = jnp.einsum('BTNH, BSNH -> BNTS', q_BTNH, k_BSNH) * scale
o_BTD = jnp.einsum('...H,HD->...D', h_BTH.astype(x), w['out_HD'])
y_BT = jnp.einsum('BTS,BTS->BT', mask_1TS, np.einsum('BST->BTS', x_BST))
k_BSD = x_BTD
x_BT = f(jnp.einsum(equation, x_BD), jnp.einsum('B,D->BD', W_Q, w))
"""
  assert not list(shape_lint.check(ast.parse(good)))


def test_sees_the_whole_house() -> None:
  seen = {source.package for source in tracked() if source.is_python}
  if (ROOT / 'launch.py').exists():
    assert seen >= {*HOUSE, 'tests'}
