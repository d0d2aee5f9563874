"""From a command line to trials: everything is checked, nothing is created."""

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax

from experiments.command import Command
from experiments.experiment import Experiment, Row
from experiments.layout import Choice, asked, pinned
from experiments.ledger import Refused, check_owner
from experiments.loader import Loader
from experiments.matching import match
from experiments.rows import Requests, configure, expand
from model.field import FieldError, split
from train.config import Config, identity
from train.optimizer import flat
from train.schema import changes, suggest, to_flags
from train.task import Data, DataError
from train.trial import Options, Trial


@dataclasses.dataclass(frozen=True)
class Planned:
  """One trial of the table."""

  row: str
  seed: int
  trial: Trial


@dataclasses.dataclass(frozen=True)
class Plan:
  """A checked command: what will run, where, on what."""

  experiment: Experiment
  base: Config
  rows: tuple[Row, ...]
  left_out: tuple[str, ...]  # rows that the flags make equal to another
  seeds: tuple[int, ...]
  trials: tuple[Planned, ...]
  workdir: pathlib.Path
  owner: Mapping[str, object]
  command: Command
  notes: tuple[str, ...]  # on rows whose size was matched
  devices: tuple[Any, ...]  # of jax.Device, which is no type to a checker
  choice: Choice | None  # of a layout; none measures
  options: Options
  data: Data


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
  every = expand(base, experiment.rows, requests)
  rows = _chosen(every, command.only)
  devices = pick_devices(options.devices)
  count = command.seeds or experiment.seeds
  seeds = tuple(range(base.seed, base.seed + count))
  loader = Loader(command.workdir)
  digest = loader.data(base.task).digest
  owner, workdir = _home(experiment, base, digest, command.workdir)
  check_owner(workdir, owner)
  loader.resume(workdir)
  data = loader.data(base.task)
  rows, notes = _matched(base, rows, loader, command)
  choice = asked(options, devices) or pinned(workdir, devices)
  shares = 1 if choice is None else choice.layout.shares
  configs = [(row, configure(base, row)) for row in rows]
  for row, config in configs:
    _check(row, config, loader, shares)
  trials = tuple(
    _trial(row, config, seed, loader, workdir)
    for seed in seeds
    for row, config in configs
  )
  return Plan(
    experiment,
    base,
    rows,
    () if requests.any else _missing(experiment.rows, every),
    seeds,
    trials,
    workdir,
    owner,
    command,
    notes,
    devices,
    choice,
    options,
    data,
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
  experiment: Experiment, base: Config, data: str, workdir: str | None
) -> tuple[dict[str, Any], pathlib.Path]:
  """Returns what a directory is begun with, and the directory."""
  owner = {
    'experiment': experiment.name,
    'base': {k: v for k, v in to_flags(base).items() if k != 'seed'},
    'data': data,
  }
  text = json.dumps(owner, sort_keys=True).encode()
  name = f'{experiment.name}-{hashlib.sha256(text).hexdigest()[:8]}'
  return owner, pathlib.Path(workdir or f'runs/{name}')


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
  static, _ = split(trial.config)
  return (static, trial.data.digest, trial.data.vocabulary)


def _check(row: Row, config: Config, loader: Loader, shares: int) -> None:
  """Raises what is wrong with a row on this data and these devices."""
  data = loader.data(config.task)
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
  params, _ = loader.initial(config)
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


def _trial(
  row: Row, config: Config, seed: int, loader: Loader, workdir: pathlib.Path
) -> Planned:
  config = dataclasses.replace(config, seed=seed)
  data = loader.data(config.task)
  params, source = loader.initial(config)
  inputs = [data.digest, source]
  if data.vocabulary.learned:
    inputs.append(data.vocabulary.digest)
  name = identity(config, ' '.join(inputs))
  trial = Trial(name, config, workdir / 'runs' / name, data, params)
  return Planned(row.name, seed, trial)


def check_writable(workdir: pathlib.Path) -> None:
  """Makes the working directory, or says why that cannot be."""
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    probe = workdir / '.lock'
    probe.touch()
  except OSError as e:
    raise Refused(
      f'--workdir={workdir}: cannot be written ({e.strerror}): give another'
    ) from e
