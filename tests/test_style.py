"""Mechanical rules of style, each with bad snippets that it must flag."""

import ast
import dataclasses
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import pytest

import shape_lint
from source import (
  ROOT,
  Function,
  Source,
  comments,
  functions,
  imports,
  mentions,
  tracked,
)

HOUSE = ('model', 'train', 'experiments', 'launch')  # imports run to the left
MAX_FILE, MAX_FUNCTION = 300, 50
# What a function of the model may import when it is called, and nothing else.
EXTRAS = {'model/kernels.py': ('absl', 'tokamax')}
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
    'train/a.py': 'def f():\n  import experiments.engine',
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
    'model/norm.py': 'import optax',
    'model/mask.py': 'from absl import flags',
    'model/field.py': 'import jax.numpy as jnp',  # --help pays for it
    'model/kernels.py': 'import tokamax',  # all would need it
    'model/backend.py': 'def f() -> None:\n  import tokamax',
  }
)
def model_imports_little(source: Source) -> Iterator[Finding]:
  known = {'model', *sys.stdlib_module_names}
  if source.path != 'model/field.py':
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
    if package == 'orbax' and source.path != 'train/checkpoint.py':
      yield line, 'orbax belongs in train/checkpoint.py'


@rule(
  {
    'train/loop.py': 'step = jax.value_and_grad(loss)',
    'experiments/a.py': 'from jax import grad as g',
  }
)
def gradients_in_one_place(source: Source) -> Iterator[Finding]:
  if source.path == 'train/step.py':
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
      yield node.lineno, 'gradients belong in train/step.py'


@rule(
  {'model/a.py': 'def f(**kwargs): pass', 'tests/a.py': 'lambda **k: k'},
  tests=True,
)
def no_keyword_catch_all(source: Source) -> Iterator[Finding]:
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


@rule({'model/a.py': 'x = 1\n' * (MAX_FILE + 1)})
def files_hold_one_idea(source: Source) -> Iterator[Finding]:
  lines = len(source.text.splitlines())
  if lines > MAX_FILE:
    yield MAX_FILE, f'{lines} lines in a file, at most {MAX_FILE}'


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
  """Of top-level functions and classes; a decorated function may register."""
  python = [source for source in sources if source.is_python]
  everywhere = sum((mentions(s.tree) for s in python), Counter[str]())
  for source in python:
    for node in source.tree.body if source.package in HOUSE else ():
      if not isinstance(node, Function | ast.ClassDef):
        continue
      registered = isinstance(node, Function) and node.decorator_list
      unused = everywhere[node.name] == mentions(node)[node.name]
      if unused and not registered:
        yield f'{source.path}:{node.lineno}: {node.name} is never used'


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
RULES.append(Rule(no_unused_definitions, UNUSED))
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
