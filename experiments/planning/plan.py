"""Turns a command line into trials: checks everything, creates nothing."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax

from experiments.command import Command
from experiments.experiment import Experiment, Row
from experiments.messages.errors import CommandError
from experiments.planning.comparable import ComparisonPlan
from experiments.planning.comparison import choose_comparison
from experiments.planning.controls import (
  CheckRow,
  MakeTrial,
  control_trials,
  select_rows,
)
from experiments.planning.inputs import PlannedTrial, check_row, plan_trial
from experiments.planning.layout import LayoutChoice, fixed_layout
from experiments.planning.loader import Loader
from experiments.planning.matching import match
from experiments.record.ledger import WorkdirOwner, check_owner, open_lock
from experiments.rows.rows import (
  RowRequests,
  ablate_names,
  configure,
  expand_rows,
  valid_rows,
)
from experiments.rows.search import Search, make_search
from experiments.rows.tuning import TuningPoint
from model.core.field import FieldError, split
from model.core.limits import PLANNED
from train.config.config import Config
from train.core.errors import DataError
from train.core.metric import Metric
from train.files.version import WORKDIR
from train.flags.schema import changes, non_default_flags, to_flags
from train.flags.suggest import suggest_value
from train.tasks.base import Data
from train.trial import Options, Trial


@dataclasses.dataclass(frozen=True)
class Plan:
  """A checked command: what will run, where, and on which data.

  `trials` has the trials of the verdict at every point of --tune; of these each
  row will run one point.  `candidates` are the trials that --tune and --halving
  select by.  `given` has the typed flags of a trial.
  """

  experiment: Experiment
  base: Config
  rows: tuple[Row, ...]
  left_out: tuple[str, ...]  # rows that the flags make equal to another row
  unfit: tuple[str, ...]  # rows that the flags make invalid, and why
  seeds: tuple[int, ...]
  trials: tuple[PlannedTrial, ...]
  comparable: ComparisonPlan
  search: Search
  candidates: tuple[PlannedTrial, ...]
  workdir: pathlib.Path
  owner: WorkdirOwner
  command: Command
  notes: tuple[str, ...]  # on rows whose widths --match changed
  devices: tuple[Any, ...]  # jax.Device, which pyright does not know
  choice: LayoutChoice | None  # the layout; None if it is still to be measured
  options: Options
  data: Data
  controls: tuple[PlannedTrial, ...] = ()  # trials of the controls
  given: Mapping[str, str] = dataclasses.field(default_factory=dict)
  confounded: tuple[str, ...] = ()  # rows that differ in more than they say

  @property
  def warnings(self) -> dict[str, tuple[str, ...]]:
    """Returns each warning with the rows it concerns; () means all rows."""
    rows_of: dict[str, list[str]] = {}
    for one in self.trials:
      for line in one.trial.config.warnings():
        rows_of.setdefault(line, []).append(one.row)
    every = len({one.row for one in self.trials})
    return {
      line: tuple(dict.fromkeys(rows)) if len(set(rows)) < every else ()
      for line, rows in rows_of.items()
    }

  @property
  def metric(self) -> Metric:
    """The metric that verdicts, --tune and --halving compare."""
    return self.comparable.metric


def make_plan(
  experiment: Experiment,
  base: Config,
  command: Command,
  options: Options,
  requests: RowRequests,
) -> Plan:
  """Returns the plan of a command, its trials checked and ordered by seed.

  Raises:
    FieldError, DataError, CommandError: the command cannot run.
  """
  rows, left_out, unfit = _rows(experiment, base, command, requests)
  devices = pick_devices(options.devices)
  last = base.seed + (command.seeds or experiment.seeds)
  seeds = tuple(range(base.seed, last))
  loader = Loader(command.workdir, rerun=command.rerun)
  owner, workdir = _owner_and_workdir(experiment, base, loader, command)
  rows, notes, confounded = _match_sizes(base, rows, loader, command)
  choice = fixed_layout(options, command.workers, workdir, devices)
  check = functools.partial(_check, loader, choice, devices[0], options)
  own = select_rows(experiment, base, rows, command, requests, check)
  rows, unfit = own.rows, {**unfit, **own.unfit}
  search = make_search(base, rows, command, requests.tune)
  configs = _configs(base, rows, search, check)
  _check_count(len(configs) * (len(seeds) + len(search.seeds)))
  make = functools.partial(plan_trial, loader=loader, workdir=workdir)
  every_trial = functools.partial(_trials, configs, make)
  return Plan(
    experiment,
    base,
    rows,
    left_out,
    tuple(f'row {name!r}: {e}' for name, e in unfit.items()),
    seeds,
    every_trial(seeds, [row.name for row in rows]),
    choose_comparison(command, experiment.metric, configs, loader, search),
    search,
    every_trial(search.seeds, search.competing(rows)),
    workdir,
    owner,
    command,
    notes,
    devices,
    choice,
    options,
    loader.data(base.task),
    control_trials(own.controls, base, seeds, make),
    confounded=confounded,
  )


def _rows(
  experiment: Experiment, base: Config, command: Command, requests: RowRequests
) -> tuple[tuple[Row, ...], tuple[str, ...], dict[str, FieldError | DataError]]:
  """Returns the rows, the names of duplicates, and the errors of unfit rows."""
  if requests.any:
    every = expand_rows(base, experiment.rows, requests)
    asked = [Row(name, {}) for name in ablate_names(requests)]
    return _select_only(every, command.only), _names_left_out(asked, every), {}
  own, unfit = valid_rows(experiment.rows, functools.partial(configure, base))
  if command.only in unfit:
    raise unfit[command.only]
  every = expand_rows(base, own, requests)
  return _select_only(every, command.only), _names_left_out(own, every), unfit


def _configs(
  base: Config, rows: Sequence[Row], search: Search, check: CheckRow
) -> list[tuple[Row, TuningPoint, Config]]:
  """Returns each row at each point of --tune, and checks it."""
  found = [
    (row, point, configure(base, Row(row.name, {**row.changes, **point})))
    for row in rows
    for point in search.points
  ]
  for row, _, config in found:
    check(row, config)
  return found


def _check(
  loader: Loader,
  choice: LayoutChoice | None,
  device: Any,
  options: Options,
  row: Row,
  config: Config,
) -> None:
  """Checks that a row can run on its data and these devices."""
  shares = choice.layout.shares if choice else 1
  check_row(row, config, loader, shares, device, options.feed)


def _check_count(trials: int) -> None:
  """Raises CommandError if rows, points and seeds make too many trials."""
  most = 10 * PLANNED.most
  if trials > most:
    raise CommandError(
      f'{trials:,} trials of all rows, points and seeds, at most {most:,}: '
      f'{PLANNED.why}: lower --seeds, or drop rows'
    )


def _trials(
  configs: Sequence[tuple[Row, TuningPoint, Config]],
  make: MakeTrial,
  seeds: Sequence[int],
  names: Sequence[str],
) -> tuple[PlannedTrial, ...]:
  """Returns the trials of the named rows, ordered by seed first."""
  return tuple(
    make(row, point, config, seed)
    for seed in seeds
    for row, point, config in configs
    if row.name in names
  )


def _match_sizes(
  base: Config, rows: tuple[Row, ...], loader: Loader, command: Command
) -> tuple[tuple[Row, ...], tuple[str, ...], tuple[str, ...]]:
  """Returns the rows with the widths of --match, notes and warnings."""
  if command.match == 'none':
    return rows, (), ()
  out, notes, warnings = [], [], []
  size = loader.data(base.task).vocabulary.size
  for row in rows:
    config = configure(base, row)
    own = loader.data(config.task).vocabulary.size
    found = match(base, config, own, command.match, size)
    out.append(Row(row.name, changes(base, found.config)))
    notes.append(f'{row.name}: {found.ratio:.3f} of the base ({found.note})')
    if found.warning:
      warnings.append(f'--match: row {row.name!r}: {found.warning}')
  return tuple(out), tuple(notes), tuple(warnings)


def _names_left_out(
  rows: Sequence[Row], kept: Sequence[Row]
) -> tuple[str, ...]:
  """Returns the names of the rows that are not among those kept."""
  names = {row.name for row in kept}
  return tuple(row.name for row in rows if row.name not in names)


def _owner_and_workdir(
  experiment: Experiment, base: Config, loader: Loader, command: Command
) -> tuple[WorkdirOwner, pathlib.Path]:
  """Returns the owner of the working directory, and its path.

  From here on the loader uses the vocabularies of this directory.

  Raises:
    CommandError: the directory belongs to another experiment, base or data.
  """
  flags = {k: v for k, v in to_flags(base).items() if k != 'seed'}
  data = loader.data(base.task).digest
  owner = WorkdirOwner(experiment.name, flags, data, WORKDIR.newest)
  moved = {
    k: v for k, v in non_default_flags(Config(), base).items() if k != 'seed'
  }
  text = json.dumps([experiment.name, moved, data], sort_keys=True).encode()
  name = f'{experiment.name}-{hashlib.sha256(text).hexdigest()[:8]}'
  if command.shard is not None:
    name += f'-{command.shard.replace("/", "of")}'
  workdir = pathlib.Path(command.workdir or f'runs/{name}')
  check_owner(workdir, owner, base)
  loader.resume(workdir)
  return owner, workdir


def _select_only(rows: tuple[Row, ...], only: str | None) -> tuple[Row, ...]:
  if only is None:
    return rows
  names = [row.name for row in rows]
  if only not in names:
    raise FieldError(
      'only',
      only,
      f'is not a row: {"|".join(names)}{suggest_value(only, names)}',
    )
  return tuple(row for row in rows if row.name == only)


def pick_devices(wanted: int | None) -> tuple[Any, ...]:
  """Returns the first `wanted` devices; all of them if that is None."""
  there = jax.local_devices()
  if wanted is not None and wanted > len(there):
    fix = (
      f'XLA_FLAGS=--xla_force_host_platform_device_count={wanted}'
      if there[0].platform == 'cpu'
      else f'--devices={len(there)}'
    )
    raise FieldError('devices', wanted, f'there are {len(there)}: set {fix}')
  return tuple(there[: wanted or len(there)])


def program_key(trial: Trial) -> tuple[Hashable, ...]:
  """Returns a key that is equal for trials that share a compiled program."""
  static, _ = split(trial.config.device_config)
  return (static, trial.data.digest, trial.data.vocabulary)


def check_writable(workdir: pathlib.Path) -> None:
  """Creates the directory; raises CommandError if it cannot be written."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    open_lock(workdir).close()
  except OSError as e:
    raise CommandError(
      f'--workdir={workdir}: cannot be written ({e.strerror}): give another'
    ) from e
