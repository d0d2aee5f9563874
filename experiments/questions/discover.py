"""Finds the experiments: one in each file of this folder and its subfolders."""

import importlib
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import experiments.questions
from experiments.experiment import Experiment

_HERE = experiments.questions.__name__


class Library(NamedTuple):
  """All experiments, and the files that cannot be imported.

  Attributes:
    experiments: name -> experiment.
    broken: path of a file in `experiments/questions/`, without '.py' -> error.
  """

  experiments: Mapping[str, Experiment]
  broken: Mapping[str, str]

  def warnings(self) -> list[str]:
    """Returns a warning for each broken file."""
    return [f'left out, {self.fault(name)}' for name in self.broken]

  def fault(self, path: str) -> str:
    """Returns the message of a broken file."""
    return f'experiments/questions/{path}.py is broken: {self.broken[path]}'

  def broken_file(self, name: str) -> str | None:
    """Returns the broken file that has the name of an experiment, or None."""
    if name in self.experiments:
      return None
    return next((p for p in self.broken if _stem(p) == name), None)


def discover() -> dict[str, Experiment]:
  """Returns `{name: experiment}` of every file in `experiments/questions/`."""
  return dict(library().experiments)


def library() -> Library:
  """Returns the experiment of every file in `experiments/questions/`.

  A file that cannot be imported does not affect the others.
  """
  folders: dict[str, str] = {}

  def note(package: str) -> None:
    folders[f'{_path(package)}/__init__'] = _reason(sys.exc_info()[1])

  found = pkgutil.walk_packages(
    experiments.questions.__path__, f'{_HERE}.', note
  )
  files = read(m.name for m in found if not m.ispkg and m.name != __name__)
  return Library(files.experiments, {**files.broken, **folders})


def read(modules: Iterable[str]) -> Library:
  """Imports the experiments of modules that are given by dotted names."""
  loaded: dict[str, Experiment] = {}
  broken: dict[str, str] = {}
  for module in modules:
    path = _path(module)
    try:
      loaded[path] = _experiment(module)
    except (Exception, SystemExit) as e:
      broken[path] = _reason(e)
  found: dict[str, Experiment] = {}
  for path, experiment in loaded.items():
    name = experiment.name
    # Of several with one name, the file with that name wins, not its copy.
    named = [p for p in loaded if loaded[p].name == name]
    own = min(named, key=lambda p: _stem(p) != name)
    if own == path:
      found[name] = experiment
    else:
      broken[path] = f'its name {name!r} is that of {own}.py'
  return Library(found, broken)


def _path(module: str) -> str:
  """Returns the path of a module in `experiments/questions/`, without '.py'."""
  return module.removeprefix(f'{_HERE}.').replace('.', '/')


def _reason(error: BaseException | None) -> str:
  """Returns the type of an error and the first line of its message."""
  first = str(error).partition('\n')[0]
  return f'{type(error).__name__}: {first}'


def _stem(path: str) -> str:
  return path.rpartition('/')[2]


def _experiment(module: str) -> Experiment:
  """Imports a module and returns its EXPERIMENT."""
  loaded = vars(importlib.import_module(module))
  experiment = loaded.get('EXPERIMENT')
  if not isinstance(experiment, Experiment):
    raise ValueError('defines no EXPERIMENT')
  return experiment
