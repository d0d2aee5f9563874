"""A planned trial, and the check that a row fits its data and devices."""

import dataclasses
import pathlib
from typing import Any

from experiments.experiment import Row
from experiments.planning.cost import check_size
from experiments.planning.loader import Loader
from experiments.rows.tuning import TuningPoint
from model.core.field import FieldError
from train.config.config import Config, trial_id
from train.core.errors import DataError
from train.core.trees import flatten
from train.host_feed import Feeding, check_feed
from train.tasks.base import Data
from train.trial import Trial


@dataclasses.dataclass(frozen=True)
class PlannedTrial:
  """A trial of the table or of --tune and --halving.

  Attributes:
    trial: the trial.
    point: flags that --tune tries in it; empty without --tune.
  """

  trial: Trial
  point: TuningPoint

  @property
  def row(self) -> str:
    """The name of its row."""
    return self.trial.row

  @property
  def seed(self) -> int:
    """Its seed."""
    return self.trial.config.seed

  @property
  def stop(self) -> int:
    """The step at which it ends or pauses."""
    return self.trial.pause or self.trial.config.steps


def check_row(
  row: Row,
  config: Config,
  loader: Loader,
  shares: int,
  device: Any,
  feed: Feeding | None,
) -> None:
  """Checks that a row can run on its data and on these devices.

  Args:
    row: the row, whose name stands in some errors.
    config: the configuration of the row.
    loader: loads the data.
    shares: number of devices that share a batch.
    device: one of these devices.
    feed: the value of --feed.

  Raises:
    FieldError, DataError: it cannot run.
  """
  backend = config.architecture.backend
  if absent := backend.unavailable(device.platform):
    raise FieldError('backend', backend, f'{absent}: try --backend=auto')
  data = loader.data(config.task)
  if problem := config.data_problem(data):
    raise DataError(problem)
  check_size(config, data.vocabulary)
  check_feed(config, data, feed, device)
  share = shares * config.microbatches
  if config.batch_size % share:
    up = -(-config.batch_size // share) * share
    raise FieldError(
      'batch_size',
      config.batch_size,
      f'must be divisible by {shares} devices x {config.microbatches} '
      f'micro-batches: try --batch_size={up}, or --devices',
    )
  _check_initial(row, config, loader, data)


def _check_initial(
  row: Row, config: Config, loader: Loader, data: Data
) -> None:
  """Raises a FieldError if --init_from has parameters of other shapes."""
  params, _ = loader.initial(config)
  if params is None:
    return
  arch = config.architecture
  table = arch.parameter_table(config.sizes(data.vocabulary))
  want = {
    path: spec.shape if depth is None else (depth, *spec.shape)
    for path, spec in table.items()
    for depth in [arch.depth(path)]
  }
  have = {path: tuple(p.shape) for path, p in flatten(params).items()}
  for path in sorted(want.keys() | have.keys()):
    if want.get(path) != have.get(path):
      raise FieldError(
        'init_from',
        config.init_from,
        f'{path} is {have.get(path, "absent")} there and '
        f'{want.get(path, "absent")} in row {row.name!r}',
      )


def plan_trial(
  row: Row,
  point: TuningPoint,
  config: Config,
  seed: int,
  loader: Loader,
  workdir: pathlib.Path,
) -> PlannedTrial:
  """Returns the trial of a row with one seed, at a point that --tune tries."""
  config = dataclasses.replace(config, seed=seed)
  return PlannedTrial(make_trial(row.name, config, loader, workdir), point)


def make_trial(
  row: str, config: Config, loader: Loader, workdir: pathlib.Path
) -> Trial:
  """Returns the trial of a configuration, with data and initial parameters.

  Its id is a digest of the configuration, the data, the initial parameters and
  the learned vocabulary.
  """
  data = loader.data(config.task)
  params, source = loader.initial(config)
  inputs = [data.digest, source]
  if data.vocabulary.learned:
    inputs.append(data.vocabulary.digest)
  name = trial_id(config, ' '.join(inputs))
  folder = workdir / 'runs' / name
  return Trial(name, config, folder, data, params, row=row)
