"""What trials read, data and initial parameters, and whether it fits them."""

import dataclasses
import pathlib

from experiments.experiment import Row
from experiments.tuning import Point
from model.field import FieldError
from train.config import Config, identity
from train.files import digest
from train.load import load
from train.optimizer import flat
from train.step import Params
from train.task import Data, DataError, Task
from train.trial import Trial


@dataclasses.dataclass(frozen=True)
class Planned:
  """One trial: of the table, or of what selects; `point` is what it tries."""

  row: str
  seed: int
  trial: Trial
  point: Point

  @property
  def stop(self) -> int:
    """Returns the step that it trains to."""
    return self.trial.pause or self.trial.config.steps


class Inputs:
  """Loads each text and each set of initial parameters once."""

  def __init__(self) -> None:
    self._data: dict[Task, Data] = {}
    self._params: dict[str, tuple[Params, str]] = {}

  def data(self, task: Task) -> Data:
    """Returns the data of a task."""
    if task not in self._data:
      self._data[task] = task.load()
    return self._data[task]

  def initial(self, config: Config) -> tuple[Params | None, str]:
    """Returns the parameters that a trial starts from, and their digest."""
    if config.init_from is None:
      return None, ''
    if config.init_from not in self._params:
      workdir, _, trial = config.init_from.rpartition(':')
      try:
        loaded = load(workdir, trial)
      except DataError as e:
        raise FieldError('init_from', config.init_from, str(e)) from e
      if loaded.vocabulary != self.data(config.task).vocabulary:
        raise FieldError(
          'init_from',
          config.init_from,
          'has another vocabulary than --task: train both with '
          '--task.level=byte',
        )
      self._params[config.init_from] = loaded.params, digest(loaded.params)
    return self._params[config.init_from]


def check_row(row: Row, config: Config, inputs: Inputs, shares: int) -> None:
  """Raises what is wrong with a row on this data and these devices."""
  data = inputs.data(config.task)
  if problem := config.task.problem(data, config.seq_len):
    raise DataError(problem)
  share = shares * config.microbatches
  if config.batch_size % share:
    up = -(-config.batch_size // share) * share
    raise FieldError(
      'batch_size',
      config.batch_size,
      f'must be divisible by {shares} devices x {config.microbatches} '
      f'micro-batches: try --batch_size={up}, or --devices',
    )
  params, _ = inputs.initial(config)
  if params is None:
    return
  table = config.architecture.parameter_table(config.dims(data.vocabulary.size))
  depth = config.architecture.num_layers
  want = {
    path: (depth, *what.shape) if path.startswith('blocks/') else what.shape
    for path, what in table.items()
  }
  have = {path: tuple(p.shape) for path, p in flat(params).items()}
  for path in sorted(want.keys() | have.keys()):
    if want.get(path) != have.get(path):
      raise FieldError(
        'init_from',
        config.init_from,
        f'{path} is {have.get(path, "absent")} there and '
        f'{want.get(path, "absent")} in row {row.name!r}',
      )


def planned(
  row: Row,
  point: Point,
  config: Config,
  seed: int,
  inputs: Inputs,
  workdir: pathlib.Path,
) -> Planned:
  """Returns one trial of a row, at a point that --tune tries."""
  config = dataclasses.replace(config, seed=seed)
  data = inputs.data(config.task)
  params, source = inputs.initial(config)
  name = identity(config, f'{data.digest} {source}')
  trial = Trial(name, config, workdir / 'runs' / name, data, params)
  return Planned(row.name, seed, trial, point)
