"""From a command line to trials: everything is checked, nothing is created."""

import dataclasses
import functools
import hashlib
import json
import pathlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax

from experiments.command import Command
from experiments.comparable import Comparable
from experiments.experiment import Experiment, Row
from experiments.inputs import Planned, check_row, planned
from experiments.judging import judge
from experiments.layout import Choice, fixed
from experiments.ledger import Refused, check_owner, open_lock
from experiments.loader import Loader
from experiments.matching import match
from experiments.rows import Requests, configure, expand, fitting, named
from experiments.search import Search, make_search
from experiments.tuning import Point
from model.field import FieldError, split
from model.limits import PLANNED
from train.config import Config
from train.figure import Figure
from train.schema import changes, to_flags
from train.suggest import suggest
from train.task import Data, DataError
from train.trial import Options, Trial


@dataclasses.dataclass(frozen=True)
class Plan:
  """A checked command: what will run, where, on what.

  `trials` are those of the verdict at every point of --tune, of which each row
  will need one; `candidates` are those that the search selects by.
  """

  experiment: Experiment
  base: Config
  rows: tuple[Row, ...]
  left_out: tuple[str, ...]  # rows that the flags make equal to another
  unfit: tuple[str, ...]  # rows that do not go with the flags, and why
  seeds: tuple[int, ...]
  trials: tuple[Planned, ...]
  comparable: Comparable
  search: Search
  candidates: tuple[Planned, ...]
  workdir: pathlib.Path
  owner: Mapping[str, object]
  command: Command
  notes: tuple[str, ...]  # on rows whose size was matched
  devices: tuple[Any, ...]  # of jax.Device, which is no type to a checker
  choice: Choice | None  # of a layout; none measures
  options: Options
  data: Data

  @property
  def warnings(self) -> dict[str, tuple[str, ...]]:
    """Returns what is to be warned of, and of which rows; none is all."""
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
  def metric(self) -> Figure:
    """Returns the figure that verdicts and the search compare."""
    return self.comparable.metric


def make_plan(
  experiment: Experiment,
  base: Config,
  command: Command,
  options: Options,
  requests: Requests,
) -> Plan:
  """Returns the trials of a command, seeds outermost, all of them checked.

  Raises:
    FieldError, DataError, Refused: what is wrong, in one line.
  """
  rows, left_out, unfit = _rows(experiment, base, command, requests)
  devices = pick_devices(options.devices)
  last = base.seed + (command.seeds or experiment.seeds)
  seeds = tuple(range(base.seed, last))
  loader = Loader(command.workdir, anew=command.rerun)
  owner, workdir = _home(experiment, base, loader, command)
  rows, notes = _matched(base, rows, loader, command)
  choice = fixed(options, command.workers, workdir, devices)
  check = functools.partial(_check, loader, choice, devices[0], options)
  if not requests.any and command.only is None:
    rows, more = fitting(rows, lambda row: check(row, configure(base, row)))
    unfit |= more
  search = make_search(base, rows, command, requests.tune)
  configs = _configs(base, rows, search)
  for row, _, config in configs:
    check(row, config)
  _check_count(len(configs) * (len(seeds) + len(search.seeds)))
  every_trial = functools.partial(_trials, configs, loader, workdir)
  return Plan(
    experiment,
    base,
    rows,
    left_out,
    tuple(f'row {name!r}: {e}' for name, e in unfit.items()),
    seeds,
    every_trial(seeds, [row.name for row in rows]),
    judge(command, configs, loader, search),
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
  )


def _rows(
  experiment: Experiment, base: Config, command: Command, requests: Requests
) -> tuple[tuple[Row, ...], tuple[str, ...], dict[str, FieldError | DataError]]:
  """Returns the rows, those equal to another, and why others do not fit."""
  if requests.any:
    every = expand(base, experiment.rows, requests)
    asked = [Row(name, {}) for name in named(requests)]
    return _chosen(every, command.only), _missing(asked, every), {}
  own, unfit = fitting(experiment.rows, functools.partial(configure, base))
  if command.only in unfit:
    raise unfit[command.only]
  every = expand(base, own, requests)
  return _chosen(every, command.only), _missing(own, every), unfit


def _configs(
  base: Config, rows: Sequence[Row], search: Search
) -> list[tuple[Row, Point, Config]]:
  """Returns each row at each point that --tune tries."""
  return [
    (row, point, configure(base, Row(row.name, {**row.changes, **point})))
    for row in rows
    for point in search.points
  ]


def _check(
  loader: Loader,
  choice: Choice | None,
  device: Any,
  options: Options,
  row: Row,
  config: Config,
) -> None:
  """Raises what is wrong with a row on this data and these devices."""
  shares = choice.layout.shares if choice else 1
  check_row(row, config, loader, shares, device, options.feed)


def _check_count(trials: int) -> None:
  """Raises where rows, points and seeds together make too many trials."""
  most = 10 * PLANNED.most
  if trials > most:
    raise Refused(
      f'{trials:,} trials of all rows, points and seeds, at most {most:,}: '
      f'{PLANNED.why}: lower --seeds, or drop rows'
    )


def _trials(
  configs: Sequence[tuple[Row, Point, Config]],
  loader: Loader,
  workdir: pathlib.Path,
  seeds: Sequence[int],
  names: Sequence[str],
) -> tuple[Planned, ...]:
  """Returns the trials of the rows of these names, seeds outermost."""
  return tuple(
    planned(row, point, config, seed, loader, workdir)
    for seed in seeds
    for row, point, config in configs
    if row.name in names
  )


def _matched(
  base: Config, rows: tuple[Row, ...], loader: Loader, command: Command
) -> tuple[tuple[Row, ...], tuple[str, ...]]:
  """Returns the rows at the base's size, as --match asks, and notes on them."""
  if command.match == 'none':
    return rows, ()
  out, notes = [], []
  size = loader.data(base.task).vocabulary.size
  for row in rows:
    config = configure(base, row)
    own = loader.data(config.task).vocabulary.size
    found = match(base, config, own, command.match, size)
    out.append(Row(row.name, changes(base, found.config)))
    notes.append(f'{row.name}: {found.ratio:.3f} of the base ({found.note})')
  return tuple(out), tuple(notes)


def _missing(rows: Sequence[Row], kept: Sequence[Row]) -> tuple[str, ...]:
  """Returns the names of the rows that were not kept."""
  names = {row.name for row in kept}
  return tuple(row.name for row in rows if row.name not in names)


def _home(
  experiment: Experiment, base: Config, loader: Loader, command: Command
) -> tuple[dict[str, Any], pathlib.Path]:
  """Returns what a directory is begun with, and the directory.

  From here on the loader takes the vocabularies that lie there.

  Raises:
    Refused: it is the directory of something else.
  """
  owner = {
    'experiment': experiment.name,
    'base': {k: v for k, v in to_flags(base).items() if k != 'seed'},
    'data': loader.data(base.task).digest,
  }
  text = json.dumps(owner, sort_keys=True).encode()
  name = f'{experiment.name}-{hashlib.sha256(text).hexdigest()[:8]}'
  if command.shard is not None:
    name += f'-{command.shard.replace("/", "of")}'
  workdir = pathlib.Path(command.workdir or f'runs/{name}')
  check_owner(workdir, owner)
  loader.resume(workdir)
  return owner, workdir


def _chosen(rows: tuple[Row, ...], only: str | None) -> tuple[Row, ...]:
  if only is None:
    return rows
  names = [row.name for row in rows]
  if only not in names:
    raise FieldError(
      'only', only, f'is not a row: {"|".join(names)}{suggest(only, names)}'
    )
  return tuple(row for row in rows if row.name == only)


def pick_devices(wanted: int | None) -> tuple[Any, ...]:
  """Returns the devices to use: those asked for, or all there are."""
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
  """Returns what trials must have in common to share a program."""
  static, _ = split(trial.config.compiled)
  return (static, trial.data.digest, trial.data.vocabulary)


def check_writable(workdir: pathlib.Path) -> None:
  """Makes the working directory, or says why that cannot be."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    open_lock(workdir).close()
  except OSError as e:
    raise Refused(
      f'--workdir={workdir}: cannot be written ({e.strerror}): give another'
    ) from e
