"""Chooses the metric that compares the rows of a command."""

from collections.abc import Sequence

from experiments.command import Command
from experiments.experiment import BASE, Row
from experiments.planning.comparable import ComparisonPlan, plan_comparison
from experiments.planning.loader import Loader
from experiments.rows.assignment import format_assignments
from experiments.rows.search import Search
from experiments.rows.tuning import TuningPoint
from model.core.field import FieldError
from train.config.config import Config
from train.config.targets import incomparable_reason, targets_of
from train.core.metric import VAL_LOSS, Metric
from train.flags.suggest import suggest_value


def choose_comparison(
  command: Command,
  usual: str,
  configs: Sequence[tuple[Row, TuningPoint, Config]],
  loader: Loader,
  search: Search,
) -> ComparisonPlan:
  """Returns how the rows are compared.

  Args:
    command: may name a metric.
    usual: the metric of the experiment, used if the command names none and all
      rows measure it.
    configs: each row at each point of --tune.
    loader: loads the data.
    search: --tune and --halving.

  Raises:
    FieldError: a row does not measure the metric, or --tune or --halving would
      compare trials with different targets.
  """
  metric = _metric(command, usual, configs)
  rows = {}
  for row, point, config in configs:
    own = targets_of(config, loader.data(config.task))
    first = rows.setdefault(row.name, own)
    why = incomparable_reason(metric, first, own)
    if why or first.positions != own.positions:
      raise FieldError(
        'tune',
        format_assignments(point),
        f'cannot be chosen by {metric.name}: with it a trial '
        f'{why or "predicts at other positions"}: drop it',
      )
  found = plan_comparison(
    metric, BASE if BASE in rows else next(iter(rows)), rows
  )
  if search.rungs:
    apart = dict.fromkeys(found.positions, 'predicts at other positions')
    for row, why in (apart | dict(found.withheld)).items():
      raise FieldError(
        'halving', command.halving, f'compares rows, and row {row!r} {why}'
      )
  return found


def _metric(
  command: Command,
  usual: str,
  configs: Sequence[tuple[Row, TuningPoint, Config]],
) -> Metric:
  """Returns the metric that the rows are compared by."""
  name = command.metric
  if name is None:
    everywhere = all(usual in config.measured for _, _, config in configs)
    name = usual if everywhere else VAL_LOSS.name
  for row, _, config in configs:
    measured = config.measured
    if name not in measured:
      raise FieldError(
        'metric',
        name,
        f'is not what --task={config.task.tag} of row {row.name!r} measures: '
        f'try {"|".join(measured)}{suggest_value(name, measured)}',
      )
  metric = configs[0][2].measured[name]
  if command.halving is not None and not metric.at_every_evaluation:
    raise FieldError(
      'metric',
      name,
      'is known at the end of a trial only, and --halving compares rows before '
      f'that: try --metric={VAL_LOSS.name}',
    )
  return metric
