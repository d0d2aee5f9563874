"""By what the rows of a command are compared; what cannot be is refused."""

from collections.abc import Sequence

from experiments.assignment import join
from experiments.command import Command
from experiments.comparable import Comparable, comparable
from experiments.experiment import BASE, Row
from experiments.loader import Loader
from experiments.search import Search
from experiments.tuning import Point
from model.field import FieldError
from train.config import Config
from train.figure import VAL_LOSS, Figure
from train.suggest import suggest
from train.targets import obstacle, targets


def judge(
  command: Command,
  configs: Sequence[tuple[Row, Point, Config]],
  loader: Loader,
  search: Search,
) -> Comparable:
  """Returns how rows are compared, and refuses to select what cannot be."""
  metric = _metric(command, configs)
  rows = {}
  for row, point, config in configs:
    own = targets(config, loader.data(config.task))
    first = rows.setdefault(row.name, own)
    why = obstacle(metric, first, own)
    if why or first.positions != own.positions:
      raise FieldError(
        'tune',
        join(point),
        f'cannot be chosen by {metric.name}: with it a trial '
        f'{why or "predicts at other positions"}: drop it',
      )
  found = comparable(metric, BASE if BASE in rows else next(iter(rows)), rows)
  if search.rungs:
    apart = dict.fromkeys(found.positions, 'predicts at other positions')
    for row, why in (apart | dict(found.withheld)).items():
      raise FieldError(
        'halving', command.halving, f'compares rows, and row {row!r} {why}'
      )
  return found


def _metric(
  command: Command, configs: Sequence[tuple[Row, Point, Config]]
) -> Figure:
  """Returns the figure that every row is compared by."""
  name = command.metric
  for row, _, config in configs:
    measured = config.task.measured()
    if name not in measured:
      raise FieldError(
        'metric',
        name,
        f'is not what --task={config.task.tag} of row {row.name!r} measures: '
        f'try {"|".join(measured)}{suggest(name, measured)}',
      )
  metric = configs[0][2].task.measured()[name]
  if command.halving is not None and not metric.on_the_way:
    raise FieldError(
      'metric',
      name,
      'is known at the end of a trial only, and --halving compares rows before '
      f'that: try --metric={VAL_LOSS.name}',
    )
  return metric
