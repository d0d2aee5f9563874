"""Which definitions of the project are executed, by reading its sources.

Names are followed from a few functions on.  A method is executed if an object
of its class is there and its name is asked of any object; an object is there if
it is given, or if what is executed makes one.  So no edit of what runs is
missed, and none of a variant that nothing makes is seen.
"""

import dataclasses
import functools
import importlib.metadata
import json
import sys
from collections.abc import Collection, Iterator, Mapping

from train import syntax
from train.project import Place, Project, current
from train.syntax import digest_of

# Methods that say why choices do not go together: no figure hangs on them.
_REFUSING = frozenset(
  ('problem', 'problems', 'problems_with', 'unfit', 'misfit', 'absent')
)
# Functions that keep what was found, and find nothing themselves.
_KEEPING = frozenset(
  ('code_that', 'write_atomically', 'write_json', 'write_table')
)
# Packages that every figure hangs on.
PACKAGES = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
# What these bring and keep is known by its digests.
_BRINGING = ('pooch', 'orbax', 'datasets', 'tensorflow_datasets')


@dataclasses.dataclass(frozen=True)
class Start:
  """From where names are followed.

  Attributes:
    functions: that are executed.
    given: classes of which objects are there.
    asked: what others ask of these.
    choosing: functions that name classes to choose among; what they choose is
      among those given.
  """

  functions: Collection[Place]
  given: Collection[Place]
  asked: Collection[str]
  choosing: Collection[str]


@dataclasses.dataclass(frozen=True)
class Reached:
  """What is executed.

  Attributes:
    parts: digest of each function, class and value, by its name.
    versions: of the packages that it uses.
  """

  parts: Mapping[str, str]
  versions: Mapping[str, str]

  @property
  def digest(self) -> str:
    """Returns the digest of all of it."""
    return digest_of([json.dumps([dict(self.parts), dict(self.versions)])])


def reached(project: Project, start: Start) -> Reached:
  """Returns what is executed, wherever it stands."""
  return _Reach(project, start).result()


def code_that(asked: str, *objects: object) -> str:
  """Returns the digest of what runs when objects are asked for something.

  For what is kept from one run to the next: other code may make another thing.
  """
  classes = frozenset(type(x) for x in objects)
  return _code_that(current(), tuple(asked.split()), classes)


@functools.lru_cache(maxsize=64)
def _code_that(
  project: Project, asked: tuple[str, ...], classes: frozenset[type]
) -> str:
  places = [project.find(c.__module__, c.__qualname__) for c in classes]
  return reached(project, Start((), places, asked, ())).digest


@functools.cache
def version(package: str) -> str | None:
  """Returns the version of a package, if it is one that is installed."""
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return None


class _Reach:
  """Follows names until nothing new is found."""

  def __init__(self, project: Project, start: Start):
    self._project, self._choosing = project, start.choosing
    self._there: dict[Place, None] = {}
    self._made: set[Place] = set()
    # By their names, what objects that are there have.
    self._having: dict[str, list[Place]] = {}
    self._asked = dict.fromkeys(start.asked)
    self._done: dict[Place, None] = {}
    self._waiting = [*start.functions]
    for place in start.given:
      self._add(place)
    while self._waiting:
      self._execute(self._waiting.pop())

  def result(self) -> Reached:
    """Returns what was found."""
    said: dict[str, set[str]] = {}
    others = {*PACKAGES}
    for place in self._done:
      name = place.name.partition('.')[0] or 'imports'
      said.setdefault(name, set()).add(self._said(place))
      found = self._project.definition(place).others
      others |= {other.partition('.')[0] for other in found}
    for place in self._there:
      said.setdefault(place.name, set()).update(self._shape(place))
    parts = {name: digest_of(sorted(own)) for name, own in said.items()}
    others -= {*sys.stdlib_module_names, *_BRINGING}
    found = {name: version(name) for name in sorted(others)}
    versions = {name: v for name, v in found.items() if v is not None}
    return Reached(dict(sorted(parts.items())), versions)

  def _execute(self, place: Place) -> None:
    """Follows what a definition uses."""
    if place in self._done:
      return
    self._done[place] = None
    if place.name and self._project.acts(place.module):
      self._waiting.append(Place(place.module, ''))
    self._waiting += self._project.given(place)
    own = self._project.definition(place)
    is_class = self._project.is_class(place)
    chooses = place.name.rpartition('.')[2] in self._choosing
    for path, found in own.uses.items():
      if found.name in _KEEPING:
        continue
      if not self._project.is_class(found):
        self._waiting.append(found)
      elif not (is_class or chooses or path in own.compared):
        self._add(found)
        self._make(found)
    for name in own.reading.attributes - _REFUSING:
      if name not in self._asked:
        self._asked[name] = None
        self._waiting += self._having.get(name, ())
    if own.reading.above:
      cls = Place(place.module, place.name.partition('.')[0])
      for base in self._project.bases(cls):
        members = self._project.members(base)
        self._waiting += [
          members[name] for name in own.reading.above if name in members
        ]

  def _add(self, cls: Place) -> None:
    """Notes that an object of a class is there."""
    if cls in self._there:
      return
    self._there[cls] = None
    self._waiting += self._project.lineage(cls)
    for name, found in self._project.members(cls).items():
      self._having.setdefault(name, []).append(found)
      if name in self._asked:
        self._waiting.append(found)

  def _make(self, cls: Place) -> None:
    """Notes that an object of a class is made: what it has is used unasked."""
    if cls in self._made:
      return
    self._made.add(cls)
    lineage = self._project.lineage(cls)
    if any(place.name == 'Record' for place in lineage):
      return  # It is checked, and its values are in the flags of the trial.
    open_to_others = any(map(self._project.extends_others, lineage))
    for name, found in self._project.members(cls).items():
      is_function = isinstance(self._project.kind(found), syntax.Function)
      if open_to_others or not is_function or name[:2] == name[-2:] == '__':
        self._waiting.append(found)

  def _said(self, place: Place) -> str:
    """Returns what a definition says, and what its names stand for.

    Not where that is: a file may be moved.
    """
    own = self._project.definition(place)
    names = {
      f'{path.rpartition(".")[2]} '
      f'{self._project.definition(found).reading.digest}'
      for path, found in own.uses.items()
      if found.name not in _KEEPING
    }
    words = [place.name, own.reading.digest, *sorted(names)]
    return ' '.join([*words, *sorted(own.others)])

  def _shape(self, cls: Place) -> Iterator[str]:
    """Yields what objects of a class have for each name that is asked."""
    for name, found in self._project.members(cls).items():
      if name in self._asked:
        yield f'{name} {self._project.definition(found).reading.digest}'
