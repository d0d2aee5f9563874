"""The sources of this project: its modules, and what their names stand for."""

import ast
import dataclasses
import functools
import json
import pathlib
import sys
from collections.abc import Collection, Mapping, Sequence

from train import syntax
from train.syntax import Imports, Reading

PACKAGES = ('model', 'train', 'experiments')
ROOT = pathlib.Path(__file__).resolve().parent.parent


@dataclasses.dataclass(frozen=True)
class Place:
  """Where something is defined.

  Attributes:
    module: with dots.
    name: of a function, class or value; with that of its class before a dot;
      or empty for what the module does when it is imported.
  """

  module: str
  name: str


@dataclasses.dataclass(frozen=True)
class Definition:
  """What stands at a place.

  Attributes:
    reading: what it says; of a class, its bases and decorators alone.
    uses: places of the project by the name under which they are used.
    compared: of these names, those that a class there is only compared with.
    others: what it uses of other packages, dotted.
  """

  reading: Reading
  uses: Mapping[str, Place]
  compared: Collection[str]
  others: Collection[str]


class _Module:
  """One file of the project, parsed."""

  def __init__(self, text: str):
    body = ast.parse(text).body
    self.nodes: dict[str, list[ast.stmt]] = {}
    self.members: dict[str, dict[str, list[ast.stmt]]] = {}
    for name, node in syntax.defined(body):
      self.nodes.setdefault(name, []).append(node)
      if isinstance(node, ast.ClassDef):
        own = self.members.setdefault(name, {})
        for member, below in syntax.defined(node.body):
          own.setdefault(member, []).append(below)
    # What is given to a function to be executed with it, as its gradient is:
    # `@attend.defjvp`.
    self.given: dict[str, list[str]] = {}
    for name, node in syntax.defined(body):
      for receiver in _receivers(node):
        self.given.setdefault(receiver, []).append(name)
    known = {id(node) for nodes in self.nodes.values() for node in nodes}
    rest = [node for node in body if id(node) not in known]
    self.imports = syntax.imported(rest)
    # What it does when it is imported, such as to configure a library.
    self.acts = [node for node in rest if not _is_idle(node)]


@functools.lru_cache(maxsize=512)
def _parsed(text: str) -> _Module:
  """Returns a file, parsed; the same for another project that has it too."""
  return _Module(text)


def _receivers(node: ast.stmt) -> list[str]:
  """Returns the names whose attributes decorate a function."""
  match node:
    case ast.FunctionDef(decorator_list=decorators):
      return [
        x.value.id
        for x in decorators
        if isinstance(x, ast.Attribute) and isinstance(x.value, ast.Name)
      ]
  return []


def _is_idle(node: ast.stmt) -> bool:
  match node:
    case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
      return True
    case ast.If(test=ast.Name(id='TYPE_CHECKING')):
      return True
  return False


def files(root: pathlib.Path) -> dict[str, str]:
  """Returns the text of each file below a folder, by its path from there."""
  return {
    path.relative_to(root).as_posix(): path.read_text('utf-8')
    for package in PACKAGES
    for path in sorted((root / package).rglob('*.py'))
  }


class Project:
  """The modules of the project, and what is defined there.

  Args:
    texts: its files, by their paths.
  """

  def __init__(self, texts: Mapping[str, str]):
    self._texts: dict[str, str] = {}
    for path, text in texts.items():
      name = path.removesuffix('.py').replace('/', '.')
      self._texts[name.removesuffix('.__init__')] = text
    self.digest = syntax.digest_of([json.dumps(self._texts, sort_keys=True)])
    # Of this object, so that they go with it.
    self._module = functools.cache(lambda name: _parsed(self._texts[name]))
    self.definition = functools.cache(self._definition)
    self.lineage = functools.cache(self._lineage)
    self.members = functools.cache(self._members)

  def find(self, module: str, name: str) -> Place:
    """Returns where something is, which may have moved to another file.

    Raises:
      KeyError: it is nowhere.
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
    """Returns whether a class stands there."""
    return place.name in self._module(place.module).members

  def bases(self, place: Place) -> list[Place]:
    """Returns the classes of the project that a class names as its bases."""
    own = self.definition(place)
    return [
      own.uses[path] for path in self._base_names(place) if path in own.uses
    ]

  def extends_others(self, place: Place) -> bool:
    """Returns whether a base, of another package, may call any method."""
    others = set(sys.stdlib_module_names)
    for name in self._base_names(place):
      found = self._resolve(place.module, name, {})
      if isinstance(found, str) and found.partition('.')[0] not in others:
        return True
    return False

  def acts(self, module: str) -> bool:
    """Returns whether a module does something when it is imported."""
    return bool(self._module(module).acts)

  def kind(self, place: Place) -> ast.stmt:
    """Returns the statement that defines something."""
    return self._nodes(place)[-1]

  def given(self, place: Place) -> list[Place]:
    """Returns functions that a function is given by their decorator."""
    names = self._module(place.module).given.get(place.name, [])
    return [Place(place.module, name) for name in names]

  def _lineage(self, place: Place) -> tuple[Place, ...]:
    """Returns a class and those of the project that it inherits from."""
    found = [place]
    for base in self.bases(place):
      found += [x for x in self.lineage(base) if x not in found]
    return tuple(found)

  def _members(self, place: Place) -> Mapping[str, Place]:
    """Returns by name what objects of a class have, and where it stands."""
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
    """Returns the statements that define something."""
    module = self._module(place.module)
    cls, _, member = place.name.partition('.')
    if member:
      return module.members[cls][member]
    return module.nodes[cls] if cls else module.acts

  def _definition(self, place: Place) -> Definition:
    """Returns what stands at a place."""
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
    """Returns the place of a name; its dotted one, if it is of others.

    None is what Python or a function itself gives it.

    Args:
      module: where the name is used.
      path: the name, with dots after that of a module.
      own: imports of the function that uses it.
    """
    first, _, rest = path.partition('.')
    here = self._module(module)
    if first not in own and first in here.nodes:
      return Place(module, first)
    target = own.get(first) or here.imports.get(first)
    if target is None:
      return None
    whole = f'{target}.{rest}' if rest else target
    if whole.partition('.')[0] not in PACKAGES:
      return whole
    inside, _, name = whole.rpartition('.')
    if whole in self._texts or inside not in self._texts:
      return None
    return self._resolve(inside, name, {})


@functools.cache
def current() -> Project:
  """Returns this project, as its files are at the first call.

  Call it when a process begins: its modules are what they were then.
  """
  return Project(files(ROOT))
