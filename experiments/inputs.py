"""One planned trial, and whether a row fits what it reads."""

import dataclasses
import pathlib
from typing import Any

from experiments.cost import check_size
from experiments.experiment import Row
from experiments.loader import Loader
from experiments.tuning import Point
from model.field import FieldError
from train.config import Config, identity
from train.feed import Feeding, check
from train.optimizer import flat
from train.task import Data, DataError
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


def check_row(
  row: Row,
  config: Config,
  loader: Loader,
  shares: int,
  device: Any,
  feed: Feeding | None,
) -> None:
  """Raises what is wrong with a row on this data and these devices.

  Args:
    row: its name is said where it matters.
    config: the row, configured.
    loader: of the data.
    shares: how many devices share a batch.
    device: one of them.
    feed: as --feed says.
  """
  backend = config.architecture.backend
  if absent := backend.absent(device.platform):
    raise FieldError('backend', backend, f'{absent}: try --backend=auto')
  data = loader.data(config.task)
  if problem := config.misfit(data):
    raise DataError(problem)
  check_size(config, data.vocabulary)
  check(config, data, feed, device)
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
  """Raises where a row cannot start from what --init_from names."""
  params, _ = loader.initial(config)
  if params is None:
    return
  arch = config.architecture
  table = arch.parameter_table(config.sizes(data.vocabulary))
  want = {
    path: what.shape if depth is None else (depth, *what.shape)
    for path, what in table.items()
    for depth in [arch.depth(path)]
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
  loader: Loader,
  workdir: pathlib.Path,
) -> Planned:
  """Returns one trial of a row, at a point that --tune tries."""
  config = dataclasses.replace(config, seed=seed)
  data = loader.data(config.task)
  params, source = loader.initial(config)
  inputs = [data.digest, source]
  if data.vocabulary.learned:
    inputs.append(data.vocabulary.digest)
  name = identity(config, ' '.join(inputs))
  trial = Trial(name, config, workdir / 'runs' / name, data, params)
  return Planned(row.name, seed, trial, point)
