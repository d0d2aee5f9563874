"""An experiment as data: a claim, where it comes from, a base and its rows."""

import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Literal

import experiments.questions
from train.config import Config

BASE = 'base'


@dataclasses.dataclass(frozen=True)
class Row:
  """One row of a table: a name, and what it changes of the base."""

  name: str
  changes: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Experiment:
  """One question, or one published table.

  `kind` is A (reproduced in full at the paper's scale), A-init (a property at
  initialisation), B (in shape, at reduced scale) or 'own' (a question of ours).
  """

  name: str
  title: str
  claim: str
  citation: str
  kind: Literal['A', 'A-init', 'B', 'own']
  cost: str
  base: Config
  rows: tuple[Row, ...]
  seeds: int
  smoke: Mapping[str, str]


def discover() -> dict[str, Experiment]:
  """Returns `{name: experiment}` of every file in `experiments/questions/`."""
  package = experiments.questions
  found = {}
  for module in pkgutil.iter_modules(package.__path__):
    loaded = importlib.import_module(f'{package.__name__}.{module.name}')
    experiment: Experiment = loaded.EXPERIMENT
    found[experiment.name] = experiment
  return found
