"""Finds the subclasses of a class in all modules of a package."""

import functools
import importlib
import pkgutil
import sys
from collections.abc import Iterator
from typing import TypeVar

T = TypeVar('T')


@functools.cache
def subclasses(base: type[T], package: str) -> tuple[type[T], ...]:
  """Returns the subclasses of `base` in a package, always in the same order.

  Subclasses in the module of `base` come first, then those of other modules by
  file name; within a module they keep the order of their definitions.

  Args:
    base: the class.
    package: package whose modules are all imported; empty if `base` is in none.
  """
  for module in _modules(package):
    importlib.import_module(module)

  def sort_key(cls: type[T]) -> tuple[bool, str, str, int]:
    module = cls.__module__
    file = module.rpartition('.')[2]  # the folder does not count
    names = [*vars(sys.modules[module]), cls.__name__]
    return module != base.__module__, file, module, names.index(cls.__name__)

  # Leave out classes that a test or a notebook defines.
  prefix = f'{package}.' if package else ''
  found = {c for c in _derived(base) if c.__module__.startswith(prefix)}
  return tuple(sorted(found, key=sort_key))


@functools.cache
def _modules(package: str) -> tuple[str, ...]:
  """Returns the names of all modules in a package and its subpackages."""
  if not package:
    return ()
  path = importlib.import_module(package).__path__
  return tuple(m.name for m in pkgutil.walk_packages(path, f'{package}.'))


def _derived(cls: type[T]) -> Iterator[type[T]]:
  """Yields direct and indirect subclasses, some more than once."""
  for sub in cls.__subclasses__():
    yield sub
    yield from _derived(sub)
