"""Reads the digest of a definition, and the names it uses, from a syntax tree.

Comments, docstrings, annotations and line numbers do not affect the digest,
since they do not affect execution.
"""

import ast
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence

Function = ast.FunctionDef | ast.AsyncFunctionDef
# A class that is only an operand of these does not run.
_COMPARES = (ast.Is, ast.IsNot, ast.Eq, ast.NotEq, ast.In, ast.NotIn)
_IGNORED = {'annotation', 'returns', 'type_comment', 'kind', 'type_params'}
# Arguments of `model.core.field.field` that count: the others do not affect
# execution, and the values of fields are flags of a trial.
_FIELD_ARGUMENTS = ('traced',)

Imports = dict[str, str]  # full dotted name, by the name that is bound
IsModule = Callable[[str, Imports], bool]


@dataclasses.dataclass(frozen=True)
class Reading:
  """The digest of a definition, and the names that it uses.

  Attributes:
    digest: digest of its syntax tree, without the modules of imported names.
    names: names that it uses; dotted if they start with a module.
    compared: those of the names that, if they are classes, occur only in
      comparisons of types.
    attributes: names of the attributes that it accesses, of any object.
    super_calls: methods that it calls by `super()`.
    imports: what it imports itself.
  """

  digest: str
  names: frozenset[str]
  compared: frozenset[str]
  attributes: frozenset[str]
  super_calls: frozenset[str]
  imports: Imports


class _Reader:
  """Walks a syntax tree, and collects the text for its digest and its names.

  Attributes:
    said: the parts of the text for the digest.
  """

  def __init__(self, is_module: IsModule):
    self._is_module = is_module
    self.imports: Imports = {}
    self.said: list[str] = []
    self.names: set[str] = set()
    self.compared: set[str] = set()
    self.attributes: set[str] = set()
    self.super_calls: set[str] = set()

  def walk(self, node: object, compared: bool = False) -> None:
    """Reads a node and what is below it.

    Args:
      node: the node.
      compared: whether a class here is only compared with.
    """
    match node:
      case ast.Name(id=name):
        self.said.append(name)
        (self.compared if compared else self.names).add(name)
      case ast.Attribute(attr=name):
        self._attribute(node, name)
      case ast.Import() | ast.ImportFrom():
        self.imports |= find_imports([node])  # counted where they are used
      case ast.Expr(value=ast.Constant()) | ast.Pass():
        pass  # a docstring, or nothing
      case ast.Constant(value=value):
        self.said.append(f'{type(value).__name__} {value!r}')
      case ast.Call(func=ast.Name(id='isinstance' | 'issubclass' as name)):
        self.said.append(name)
        first, *rest = node.args
        self._group(node, [first], compared=False)
        self._group(node, rest, compared=True)
      case ast.Compare(left=left, ops=ops, comparators=others):
        only = all(isinstance(op, _COMPARES) for op in ops)
        self.said += [type(op).__name__ for op in ops]
        self._group(node, [left, *others], compared=only)
      case ast.BinOp(op=ast.BitOr(), left=left, right=right):
        self.said.append('|')
        self._group(node, [left, right], compared=True)
      case ast.MatchClass(cls=cls) | ast.ExceptHandler(type=cls):
        self.walk(cls, compared=True)
        if isinstance(node, ast.MatchClass):
          self.attributes |= {*node.kwd_attrs}
        rest = [x for _, x in ast.iter_fields(node) if x is not cls]
        self._group(node, rest, compared=False)
      case ast.Tuple(elts=items):
        self._group(node, items, compared)
      case ast.AST():
        fields = [x for n, x in ast.iter_fields(node) if n not in _IGNORED]
        self._group(node, fields, compared=False)
      case list():
        self._group(node, node, compared)
      case None:
        pass
      case _:
        self.said.append(repr(node))

  def _group(
    self, node: object, below: Sequence[object], compared: bool
  ) -> None:
    self.said.append(f'({type(node).__name__}')
    for item in below:
      self.walk(item, compared)
    self.said.append(')')

  def _attribute(self, node: ast.Attribute, name: str) -> None:
    """Reads an attribute of an object, or a name of a module."""
    path = _dotted(node)
    if path and self._is_module(path.rpartition('.')[0], self.imports):
      # Without the name of the module, which changes when a file is moved.
      self.said.append(name)
      self.names.add(path)
      return
    match node.value:
      case ast.Call(func=ast.Name(id='super')):
        self.super_calls.add(name)
      case _:
        self.attributes.add(name)
    self.said.append(f'.{name}')
    self.walk(node.value)


def find_imports(nodes: Sequence[ast.AST]) -> Imports:
  """Returns all imports in syntax trees."""
  found: Imports = {}
  for below in (below for node in nodes for below in ast.walk(node)):
    match below:
      case ast.ImportFrom(module=module, names=names):
        for alias in names:
          found[alias.asname or alias.name] = f'{module}.{alias.name}'
      case ast.Import(names=names):
        for alias in names:
          first = alias.name.partition('.')[0]
          found[alias.asname or first] = alias.name if alias.asname else first
  return found


def _dotted(node: ast.expr) -> str:
  """Returns a dotted name as it is written, or '' if it is anything else."""
  match node:
    case ast.Name(id=name):
      return name
    case ast.Attribute(value=value, attr=name):
      path = _dotted(value)
      return path and f'{path}.{name}'
  return ''


def read(nodes: Sequence[ast.AST], is_module: IsModule) -> Reading:
  """Reads the statements that define one name.

  Args:
    nodes: a function, or the assignments to one name.
    is_module: whether a name, with these imports, is a module of the project.
  """
  reader = _Reader(is_module)
  for node in nodes:
    reader.walk(_without_help(node))
  return Reading(
    digest_of(reader.said),
    frozenset(reader.names | reader.compared),
    frozenset(reader.compared - reader.names),
    frozenset(reader.attributes),
    frozenset(reader.super_calls),
    reader.imports,
  )


def _without_help(node: ast.AST) -> ast.AST:
  """Returns a field without default, help and bounds; other nodes unchanged.

  The value of a field is among the flags of a trial.
  """
  match node:
    case ast.AnnAssign(
      target=target, value=ast.Call(func=ast.Name(id='field'), keywords=words)
    ):
      kept = [word for word in words if word.arg in _FIELD_ARGUMENTS]
      return ast.Expr(ast.Tuple([target, *(word.value for word in kept)]))
  return node


def digest_of(texts: Sequence[str]) -> str:
  """Returns 64 bits of the sha256 of texts, in hexadecimal."""
  return hashlib.sha256('\n'.join(texts).encode()).hexdigest()[:16]


def definitions(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
  """Yields what a module or class defines, by name, without its imports."""
  for node in body:
    match node:
      case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
        yield name, node
      case ast.ClassDef(name=name):
        yield name, node
      case ast.AnnAssign(target=ast.Name(id=name)):
        yield name, node
      case ast.AugAssign(target=ast.Name(id=name)):
        yield name, node
      case ast.Assign(targets=targets):
        for target in targets:
          for part in ast.walk(target):
            if isinstance(part, ast.Name):
              yield part.id, node
