"""What a definition says and which names it uses, read from its syntax tree.

Comments, docstrings, annotations and the place of a line say nothing to the
machine, and do not count here.
"""

import ast
import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence

Function = ast.FunctionDef | ast.AsyncFunctionDef
# Where a class is only compared with, nothing of it runs.
_COMPARES = (ast.Is, ast.IsNot, ast.Eq, ast.NotEq, ast.In, ast.NotIn)
_NOT_SAID = {'annotation', 'returns', 'type_comment', 'kind', 'type_params'}
# Of what `model.field.field` is given; defaults are in the flags of a trial.
_SAID_OF_FIELDS = ('traced',)

Imports = dict[str, str]  # by the name that it has here, dotted
IsModule = Callable[[str, Imports], bool]


@dataclasses.dataclass(frozen=True)
class Reading:
  """A definition as it is read.

  Attributes:
    digest: of what it says, but for the modules that things are imported from.
    names: that it uses, dotted where they begin with a module.
    compared: of these, what is a class there is only compared with.
    attributes: what it asks of any object.
    above: methods that it calls by `super()`.
    imports: what it imports itself, by the name that it has there.
  """

  digest: str
  names: frozenset[str]
  compared: frozenset[str]
  attributes: frozenset[str]
  above: frozenset[str]
  imports: Imports


class _Reader:
  """Walks a tree once, and notes what it says and uses."""

  def __init__(self, is_module: IsModule):
    self._is_module = is_module
    self.imports: Imports = {}
    self.said: list[str] = []
    self.names: set[str] = set()
    self.compared: set[str] = set()
    self.attributes: set[str] = set()
    self.above: set[str] = set()

  def walk(self, node: object, compared: bool = False) -> None:
    """Notes a node and what is below; `compared` where classes only are."""
    match node:
      case ast.Name(id=name):
        self.said.append(name)
        (self.compared if compared else self.names).add(name)
      case ast.Attribute(attr=name):
        self._attribute(node, name)
      case ast.Import() | ast.ImportFrom():
        self.imports |= imported([node])  # said where they are used
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
        fields = [x for n, x in ast.iter_fields(node) if n not in _NOT_SAID]
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
    """Notes what is asked of an object; or what of a module is used."""
    path = _dotted(node)
    if path and self._is_module(path.rpartition('.')[0], self.imports):
      # A file that has moved has another name: not said.
      self.said.append(name)
      self.names.add(path)
      return
    match node.value:
      case ast.Call(func=ast.Name(id='super')):
        self.above.add(name)
      case _:
        self.attributes.add(name)
    self.said.append(f'.{name}')
    self.walk(node.value)


def imported(nodes: Sequence[ast.AST]) -> Imports:
  """Returns what nodes, and what is below them, import."""
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
  """Returns a name with dots as it is written, or nothing."""
  match node:
    case ast.Name(id=name):
      return name
    case ast.Attribute(value=value, attr=name):
      path = _dotted(value)
      return path and f'{path}.{name}'
  return ''


def read(nodes: Sequence[ast.AST], is_module: IsModule) -> Reading:
  """Returns what nodes, which define one thing, say and use.

  Args:
    nodes: a function, or what is assigned to one name.
    is_module: says whether a name, with these imports, is that of a module of
      the project.
  """
  reader = _Reader(is_module)
  for node in nodes:
    reader.walk(_without_text(node))
  return Reading(
    digest_of(reader.said),
    frozenset(reader.names | reader.compared),
    frozenset(reader.compared - reader.names),
    frozenset(reader.attributes),
    frozenset(reader.above),
    reader.imports,
  )


def _without_text(node: ast.AST) -> ast.AST:
  """Returns a field without its default, help and bounds, others as they are.

  What a trial has there, is in its flags.
  """
  match node:
    case ast.AnnAssign(
      target=target, value=ast.Call(func=ast.Name(id='field'), keywords=words)
    ):
      kept = [word for word in words if word.arg in _SAID_OF_FIELDS]
      return ast.Expr(ast.Tuple([target, *(word.value for word in kept)]))
  return node


def digest_of(texts: Sequence[str]) -> str:
  """Returns a short digest of texts."""
  return hashlib.sha256('\n'.join(texts).encode()).hexdigest()[:16]


def defined(body: Sequence[ast.stmt]) -> Iterator[tuple[str, ast.stmt]]:
  """Yields by name what a module or a class defines, not what it imports."""
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
