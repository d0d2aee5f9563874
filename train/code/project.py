"""The sources of this project: its modules, definitions and names."""

import ast
import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Collection, Mapping, Sequence

from train.code import syntax
from train.code.syntax import Imports, Reading

PROJECT_PACKAGES = ('model', 'train', 'experiments')
ROOT = pathlib.Path(__file__).resolve().parents[2]


@dataclasses.dataclass(frozen=True)
class Place:
  """The location of a definition.

  Attributes:
    module: dotted name of the module.
    name: name of a function, class or value; 'Class.member' for a member; ''
      for the statements that run when the module is imported.
  """

  module: str
  name: str


@dataclasses.dataclass(frozen=True)
class Definition:
  """A definition and what it uses.

  Attributes:
    reading: its digest and names; for a class, of its bases and decorators
      alone.
    uses: definitions of the project that it uses, by the name used for them.
    compared: those of these names that only occur in comparisons of types.
    others: dotted names that it uses of other packages.
  """

  reading: Reading
  uses: Mapping[str, Place]
  compared: Collection[str]
  others: Collection[str]


class _Module:
  """A parsed file of the project.

  Attributes:
    nodes: statements that define each name.
    members: statements that define each member, by class.
    given: functions that are attached to a function by a decorator.
    imports: dotted names by the names that they are imported as.
    acts: statements with an effect when the module is imported.
  """

  def __init__(self, text: str):
    body = ast.parse(text).body
    self.nodes: dict[str, list[ast.stmt]] = {}
    self.members: dict[str, dict[str, list[ast.stmt]]] = {}
    for name, node in syntax.definitions(body):
      self.nodes.setdefault(name, []).append(node)
      if isinstance(node, ast.ClassDef):
        own = self.members.setdefault(name, {})
        for member, below in syntax.definitions(node.body):
          own.setdefault(member, []).append(below)
    # Functions such as a custom gradient, attached by `@attend.defjvp`: they
    # are executed if the function is.
    self.given: dict[str, list[str]] = {}
    for name, node in syntax.definitions(body):
      for receiver in _receivers(node):
        self.given.setdefault(receiver, []).append(name)
    known = {id(node) for nodes in self.nodes.values() for node in nodes}
    rest = [node for node in body if id(node) not in known]
    self.imports = syntax.find_imports(rest)
    # Effects of the import, such as configuring a library.
    self.acts = [node for node in rest if not _has_no_effect(node)]


@functools.lru_cache(maxsize=512)
def _parsed(text: str) -> _Module:
  """Returns a parsed file, cached by its text.

  A file that is not valid Python defines nothing: no code that runs imports it.
  """
  try:
    return _Module(text)
  except (SyntaxError, ValueError):
    return _Module('')


def _receivers(node: ast.stmt) -> list[str]:
  """Returns `f` for each decorator `@f.attribute` of a function."""
  match node:
    case ast.FunctionDef(decorator_list=decorators):
      return [
        x.value.id
        for x in decorators
        if isinstance(x, ast.Attribute) and isinstance(x.value, ast.Name)
      ]
  return []


def _has_no_effect(node: ast.stmt) -> bool:
  """Returns whether a statement is an import or a docstring."""
  match node:
    case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
      return True
    case ast.If(test=ast.Name(id='TYPE_CHECKING')):
      return True
  return False


def files(root: pathlib.Path) -> dict[str, str]:
  """Returns the text of each Python file of our packages, by relative path."""
  return {
    path.relative_to(root).as_posix(): path.read_text('utf-8', 'replace')
    for package in PROJECT_PACKAGES
    for path in sorted((root / package).rglob('*.py'))
  }


class Project:
  """The modules of the project and their definitions.

  Args:
    texts: text of each file, by its path.
  """

  def __init__(self, texts: Mapping[str, str]):
    self._texts: dict[str, str] = {}
    for path, text in texts.items():
      name = path.removesuffix('.py').replace('/', '.')
      self._texts[name.removesuffix('.__init__')] = text
    self.digest = syntax.digest_of([json.dumps(self._texts, sort_keys=True)])
    # Caches of this object, so that they are freed with it.
    self._module = functools.cache(lambda name: _parsed(self._texts[name]))
    self.definition = functools.cache(self._definition)
    self.lineage = functools.cache(self._lineage)
    self.members = functools.cache(self._members)

  def find(self, module: str, name: str) -> Place:
    """Finds a definition, even if it has moved to another module.

    Args:
      module: the module where it is expected.
      name: its name.

    Raises:
      KeyError: no module defines it.
    """
    first, _, rest = name.partition('.')
    found = self._resolve(module, first, {}) if module in self._texts else None
    if isinstance(found, Place):
      return Place(found.module, f'{found.name}.{rest}' if rest else found.name)
    for other in self._texts:
      if first in self._module(other).nodes:
        return Place(other, name)
    raise KeyError(f'{module}.{name}')

  def is_class(self, place: Place) -> bool:
    """Returns whether a place is a class."""
    return place.name in self._module(place.module).members

  def bases(self, place: Place) -> list[Place]:
    """Returns the direct bases of a class that are in the project."""
    own = self.definition(place)
    return [
      own.uses[path] for path in self._base_names(place) if path in own.uses
    ]

  def extends_others(self, place: Place) -> bool:
    """Returns whether a direct base belongs to a third-party package.

    Such a base may call any method of the class.
    """
    others = set(sys.stdlib_module_names)
    for name in self._base_names(place):
      found = self._resolve(place.module, name, {})
      if isinstance(found, str) and found.partition('.')[0] not in others:
        return True
    return False

  def acts(self, module: str) -> bool:
    """Returns whether importing a module has an effect."""
    return bool(self._module(module).acts)

  def kind(self, place: Place) -> ast.stmt:
    """Returns the statement that defines a place, the last if several do."""
    return self._nodes(place)[-1]

  def given(self, place: Place) -> list[Place]:
    """Returns the functions that are attached to a function by decorators."""
    names = self._module(place.module).given.get(place.name, [])
    return [Place(place.module, name) for name in names]

  def _lineage(self, place: Place) -> tuple[Place, ...]:
    """Returns a class and all its bases that are in the project."""
    found = [place]
    for base in self.bases(place):
      found += [x for x in self.lineage(base) if x not in found]
    return tuple(found)

  def _members(self, place: Place) -> Mapping[str, Place]:
    """Returns where each member of a class, own or inherited, is defined."""
    return {
      name: Place(cls.module, f'{cls.name}.{name}')
      for cls in reversed(self.lineage(place))
      for name in self._module(cls.module).members[cls.name]
    }

  def _base_names(self, place: Place) -> list[str]:
    (*_, cls) = self._nodes(place)
    bases = cls.bases if isinstance(cls, ast.ClassDef) else []
    return [ast.unparse(base).partition('[')[0] for base in bases]

  def _nodes(self, place: Place) -> Sequence[ast.stmt]:
    """Returns the statements that define a place."""
    module = self._module(place.module)
    cls, _, member = place.name.partition('.')
    if member:
      return module.members[cls][member]
    return module.nodes[cls] if cls else module.acts

  def _definition(self, place: Place) -> Definition:
    """Returns the definition at a place."""
    nodes: Sequence[ast.AST] = self._nodes(place)
    match nodes:
      case [*_, ast.ClassDef() as cls]:
        words = [word.value for word in cls.keywords]
        nodes = [ast.Expr(x) for x in (*cls.decorator_list, *cls.bases, *words)]
    module = self._module(place.module)

    def is_module(path: str, imports: Imports) -> bool:
      first, _, rest = path.partition('.')
      target = imports.get(first) or module.imports.get(first) or first
      return (f'{target}.{rest}' if rest else target) in self._texts

    reading = syntax.read(nodes, is_module)
    uses, others = {}, set()
    for path in reading.names:
      found = self._resolve(place.module, path, reading.imports)
      if isinstance(found, Place):
        uses[path] = found
      elif found is not None:
        others.add(found)
    return Definition(reading, uses, reading.compared, others)

  def _resolve(
    self, module: str, path: str, own: Imports
  ) -> Place | str | None:
    """Resolves a name that is used in a module.

    Args:
      module: the module.
      path: the name; dotted if it starts with a module.
      own: imports within the function that uses the name.

    Returns:
      Its place, if it is in the project; its full dotted name, if it belongs to
      another package; None for a builtin or a local name.
    """
    first, _, rest = path.partition('.')
    here = self._module(module)
    if first not in own and first in here.nodes:
      return Place(module, first)
    target = own.get(first) or here.imports.get(first)
    if target is None:
      return None
    whole = f'{target}.{rest}' if rest else target
    if whole.partition('.')[0] not in PROJECT_PACKAGES:
      return whole
    inside, _, name = whole.rpartition('.')
    if whole in self._texts or inside not in self._texts:
      return None
    return self._resolve(inside, name, {})


def is_unchanged() -> bool:
  """Returns whether the files are still those of `current_project`."""
  return Project(files(ROOT)).digest == current_project().digest


@functools.cache
def current_project() -> Project:
  """Returns this project as its files are at the first call.

  Call it when the process starts, so that the files are those that Python
  imports.
  """
  return Project(files(ROOT))
