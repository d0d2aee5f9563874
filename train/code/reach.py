"""Finds the definitions of the project that are executed, by static analysis.

Starting from a few functions, names are followed.  A method counts as executed
if its class is instantiated and some executed code accesses an attribute of its
name, of any object.  A class is instantiated if it is given at the start, or if
executed code uses it.  So every edit of code that runs changes the digest, and
no edit of a variant that is not instantiated does.
"""

import dataclasses
import functools
import importlib.metadata
import json
import sys
from collections.abc import Collection, Iterator, Mapping

from train.code import syntax
from train.code.project import Place, Project, current_project
from train.code.syntax import digest_of

# Methods that reject combinations of choices, on which no metric depends.
_VALIDATING = frozenset(
  (
    'problem',
    'problems',
    'problems_with',
    'unfit',
    'data_problem',
    'unavailable',
  )
)
# Functions that store results, on which no metric depends.
_STORING = frozenset(
  ('method_digest', 'write_atomically', 'write_json', 'write_table')
)
# Packages on which every metric depends.
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
# Packages that download or store data, which is verified by digests.
_TRANSPORTING = ('pooch', 'orbax', 'datasets', 'tensorflow_datasets')


@dataclasses.dataclass(frozen=True)
class Roots:
  """The definitions from which names are followed.

  Attributes:
    functions: functions that are executed.
    given: classes that are instantiated.
    asked: names of attributes of these that code elsewhere accesses.
    choosing: names of functions that mention classes only to choose one, which
      is then among `given`.
  """

  functions: Collection[Place]
  given: Collection[Place]
  asked: Collection[str]
  choosing: Collection[str]


@dataclasses.dataclass(frozen=True)
class ExecutedCode:
  """The definitions that are executed.

  Attributes:
    parts: digest of each function, class and value, by its name.
    versions: version of each third-party package that they use.
  """

  parts: Mapping[str, str]
  versions: Mapping[str, str]

  @property
  def digest(self) -> str:
    """Returns the digest of all definitions and versions together."""
    return digest_of([json.dumps([dict(self.parts), dict(self.versions)])])


def find_executed(project: Project, start: Roots) -> ExecutedCode:
  """Returns the definitions that are executed, in all modules."""
  return _ReachSearch(project, start).result()


def method_digest(asked: str, *objects: object) -> str:
  """Returns the digest of the code behind some methods, as a key for caches.

  Args:
    asked: names of the methods, separated by spaces.
    objects: the objects whose methods are called.
  """
  classes = frozenset(type(x) for x in objects)
  return _code_that(current_project(), tuple(asked.split()), classes)


@functools.lru_cache(maxsize=64)
def _code_that(
  project: Project, asked: tuple[str, ...], classes: frozenset[type]
) -> str:
  places = [project.find(c.__module__, c.__qualname__) for c in classes]
  return find_executed(project, Roots((), places, asked, ())).digest


@functools.cache
def version(package: str) -> str | None:
  """Returns the version of a package, or None if it is not installed."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


class _ReachSearch:
  """Follows names until nothing new is found.

  Attributes:
    _instantiated: classes that are instantiated.
    _made: those of them that executed code instantiates.
    _members: members of all these classes, by name.
    _asked: names of attributes that executed code accesses.
    _executed: definitions that are executed.
    _pending: definitions yet to be followed.
  """

  def __init__(self, project: Project, start: Roots):
    self._project, self._choosing = project, start.choosing
    self._instantiated: dict[Place, None] = {}
    self._made: set[Place] = set()
    self._members: dict[str, list[Place]] = {}
    self._asked = dict.fromkeys(start.asked)
    self._executed: dict[Place, None] = {}
    self._pending = [*start.functions]
    for place in start.given:
      self._add(place)
    while self._pending:
      self._execute(self._pending.pop())

  def result(self) -> ExecutedCode:
    """Returns the definitions that were found."""
    texts: dict[str, set[str]] = {}
    others = {*PACKAGES}
    for place in self._executed:
      name = place.name.partition('.')[0] or 'imports'
      texts.setdefault(name, set()).add(self._text_of(place))
      found = self._project.definition(place).others
      others |= {other.partition('.')[0] for other in found}
    for place in self._instantiated:
      texts.setdefault(place.name, set()).update(self._shape(place))
    parts = {name: digest_of(sorted(own)) for name, own in texts.items()}
    others -= {*sys.stdlib_module_names, *_TRANSPORTING}
    found = {name: version(name) for name in sorted(others)}
    versions = {name: v for name, v in found.items() if v is not None}
    return ExecutedCode(dict(sorted(parts.items())), versions)

  def _execute(self, place: Place) -> None:
    """Marks a definition as executed, and follows the names that it uses."""
    if place in self._executed:
      return
    self._executed[place] = None
    if place.name and self._project.acts(place.module):
      self._pending.append(Place(place.module, ''))
    self._pending += self._project.given(place)
    own = self._project.definition(place)
    is_class = self._project.is_class(place)
    chooses = place.name.rpartition('.')[2] in self._choosing
    for path, found in own.uses.items():
      if found.name in _STORING:
        continue
      if not self._project.is_class(found):
        self._pending.append(found)
      elif not (is_class or chooses or path in own.compared):
        self._add(found)
        self._use_constructor(found)
    for name in own.reading.attributes - _VALIDATING:
      if name not in self._asked:
        self._asked[name] = None
        self._pending += self._members.get(name, ())
    if own.reading.super_calls:
      cls = Place(place.module, place.name.partition('.')[0])
      for base in self._project.bases(cls):
        members = self._project.members(base)
        self._pending += [
          members[name] for name in own.reading.super_calls if name in members
        ]

  def _add(self, cls: Place) -> None:
    """Marks a class as instantiated; its accessed members are executed."""
    if cls in self._instantiated:
      return
    self._instantiated[cls] = None
    self._pending += self._project.lineage(cls)
    for name, found in self._project.members(cls).items():
      self._members.setdefault(name, []).append(found)
      if name in self._asked:
        self._pending.append(found)

  def _use_constructor(self, cls: Place) -> None:
    """Marks a class as instantiated by executed code.

    Its special methods and values then count as executed, and if it extends a
    class of another package, so do all of its methods.
    """
    if cls in self._made:
      return
    self._made.add(cls)
    lineage = self._project.lineage(cls)
    if any(place.name == 'Record' for place in lineage):
      return  # only checked: its values are flags of the trial
    open_to_others = any(map(self._project.extends_others, lineage))
    for name, found in self._project.members(cls).items():
      is_function = isinstance(self._project.kind(found), syntax.Function)
      if open_to_others or not is_function or name[:2] == name[-2:] == '__':
        self._pending.append(found)

  def _text_of(self, place: Place) -> str:
    """Returns a text that identifies a definition and those that it uses.

    It does not depend on modules, so that definitions may be moved.
    """
    own = self._project.definition(place)
    names = {
      f'{path.rpartition(".")[2]} '
      f'{self._project.definition(found).reading.digest}'
      for path, found in own.uses.items()
      if found.name not in _STORING
    }
    words = [place.name, own.reading.digest, *sorted(names)]
    return ' '.join([*words, *sorted(own.others)])

  def _shape(self, cls: Place) -> Iterator[str]:
    """Yields a text that identifies each accessed member of a class."""
    for name, found in self._project.members(cls).items():
      if name in self._asked:
        yield f'{name} {self._project.definition(found).reading.digest}'
