"""results/NAME.json: the metrics of a table, small enough to be committed.

Verdicts are not stored: they are decided again from the metrics, by the present
rules of the experiment.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.claims.metrics import CurveAxis, Measurements, TrialMetrics
from experiments.claims.rule import Rule
from experiments.command import Command
from experiments.experiment import Experiment, full_name
from experiments.messages.escapes import command_line
from experiments.messages.streams import say
from experiments.planning.controls import runs_all_rows
from experiments.planning.inputs import PlannedTrial
from experiments.results.outcome import TableOutcome
from experiments.rows.base import complete_base
from experiments.rows.rows import RowRequests, configure, valid_rows
from model.core.field import FieldError
from train.config.config import Config
from train.files.durable import read_json, write_json
from train.files.records import AGAIN
from train.flags.schema import changes, override

FOLDER = pathlib.Path('results')
FORMAT = 1
_ENVIRONMENT = ('python', 'packages', 'devices', 'git')


@dataclasses.dataclass(frozen=True)
class StoredRow:
  """A row of a result.

  Attributes:
    flags: the flags of its configuration that are not at their defaults.
    expected: the number that a control must reach, if it has one.
    trials: seed -> metrics.
  """

  flags: Mapping[str, str]
  expected: float | None
  trials: Mapping[str, TrialMetrics]


@dataclasses.dataclass(frozen=True)
class StoredResult:
  """A stored result.

  Attributes:
    format: version of the file format.
    experiment: name of the experiment.
    command: the command that trained it.
    given: typed flags of a trial.
    data: description of the data -> digest.
    environment: versions, devices, and the git commit.
    rows: rows of the table.
    controls: controls of the table.
  """

  format: int
  experiment: str
  command: str
  given: Mapping[str, str]
  data: Mapping[str, str]
  environment: Mapping[str, Any]
  rows: Mapping[str, StoredRow]
  controls: Mapping[str, StoredRow]

  def __post_init__(self) -> None:
    if self.format != FORMAT:
      raise ValueError(f'is of format {self.format}, not {FORMAT}')

  @property
  def measurements(self) -> Measurements:
    """The metrics by row and seed."""
    rows = {**self.rows, **self.controls}
    return Measurements(
      {
        name: {int(seed): own for seed, own in row.trials.items()}
        for name, row in rows.items()
      }
    )


def check(command: Command, requests: RowRequests) -> None:
  """Raises a FieldError if --result cannot store what the command runs."""
  name = command.result
  if name is None:
    return
  if not re.fullmatch(r'[A-Za-z0-9][A-Za-z0-9_-]{0,99}', name):
    raise FieldError(
      'result', name, 'must be a name of letters, digits, - and _'
    )
  some = command.shard is not None or command.block is not None
  if command.smoke or some or not runs_all_rows(command, requests):
    raise FieldError(
      'result',
      name,
      "keeps all of an experiment's own rows at sizes that say something: drop "
      'what selects rows or makes others, --smoke, --shard and --block',
    )


def write(
  experiment: Experiment,
  outcomes: Sequence[TableOutcome],
  command: Sequence[str],
) -> None:
  """Writes the file of --result, if it is given, and prints where.

  Args:
    experiment: the experiment of the tables.
    outcomes: one table per block; without blocks, one table.
    command: the words of the command line.
  """
  name = outcomes[0].plan.command.result
  if name is None:
    return
  every = [
    planned.trial.data
    for own in outcomes
    for planned in (*own.trials, *own.plan.controls)
  ]
  about = outcomes[0].environment
  path = FOLDER / f'{name}.json'
  path.parent.mkdir(exist_ok=True)
  content = StoredResult(
    format=FORMAT,
    experiment=experiment.name,
    command=command_line(command),
    given=outcomes[0].plan.given,
    data={data.description: data.digest for data in every},
    environment={name: about[name] for name in _ENVIRONMENT if name in about},
    rows=_rows(experiment, [(own, own.trials) for own in outcomes]),
    controls=_rows(experiment, [(own, own.plan.controls) for own in outcomes]),
  )
  write_json(path, dataclasses.asdict(content))
  say(f'result: {path} (python launch.py --digest shows it)')


def _rows(
  experiment: Experiment,
  tables: Sequence[tuple[TableOutcome, Sequence[PlannedTrial]]],
) -> dict[str, StoredRow]:
  """Returns rows by name, as 'BLOCK: ROW' if there are blocks."""
  metrics, axes = _read_by_rules(experiment)
  return {
    full_name(own.plan.experiment.block, planned.row): StoredRow(
      flags_of(planned.trial.config),
      {c.row: c.value for c in own.table.controls}.get(planned.row),
      {
        str(seed): _drop_curves(one, metrics, axes)
        for seed, one in own.found.rows.get(planned.row, {}).items()
      },
    )
    for own, trials in tables
    for planned in trials
  }


def read(path: pathlib.Path) -> StoredResult:
  """Reads a result.

  Raises:
    DamagedFile: it cannot be read.
  """
  return read_json(path, StoredResult, AGAIN)


def stale_reason(
  stored: StoredResult, experiments: Mapping[str, Experiment]
) -> str:
  """Returns why a result no longer belongs to its experiment, or ''.

  A new flag with its default value changes nothing, because only flags that are
  not at their defaults are stored.
  """
  experiment = experiments.get(stored.experiment)
  if experiment is None:
    return f'there is no experiment {stored.experiment!r}'
  rows: dict[str, dict[str, str]] = {}
  controls: dict[str, dict[str, str]] = {}
  for part in experiment.parts:
    try:
      base, _ = complete_base(part, stored.given, Command(), RowRequests())
    except FieldError as e:
      return f'its command is refused: {e}'
    fit, _ = valid_rows(part.rows, functools.partial(configure, base))
    for row in fit:
      name = full_name(part.block, row.name)
      rows[name] = flags_of(configure(base, row))
    for own in part.controls:
      name = full_name(part.block, own.row)
      controls[name] = flags_of(override(base, own.changes))
  if why := _first_difference(
    {n: row.flags for n, row in stored.rows.items()}, rows
  ):
    return why
  known = {n: flags for n, flags in controls.items() if n in stored.controls}
  return _first_difference(
    {n: row.flags for n, row in stored.controls.items()}, known
  )


def configs(rows: Mapping[str, StoredRow]) -> dict[str, Config]:
  """Returns the configuration of each row or control."""
  return {name: override(Config(), row.flags) for name, row in rows.items()}


def flags_of(config: Config) -> dict[str, str]:
  """Returns the flags that are not at their defaults, without the seed."""
  found = changes(Config(), config)
  return {flag: text for flag, text in found.items() if flag != 'seed'}


def _first_difference(
  then: Mapping[str, Mapping[str, str]], now: Mapping[str, Mapping[str, str]]
) -> str:
  """Returns the first difference between stored and present rows, or ''."""
  for row in dict.fromkeys((*now, *then)):
    if row not in then:
      return f'row {row!r} is not in it'
    if row not in now:
      return f'row {row!r} is none of the experiment'
    for flag in sorted({*then[row], *now[row]}):
      old, new = then[row].get(flag), now[row].get(flag)
      if old != new:
        ran, wanted = _flag_text(flag, old), _flag_text(flag, new)
        return f'row {row!r} ran with {ran}, not {wanted}'
  return ''


def _flag_text(flag: str, text: str | None) -> str:
  return f'the default --{flag}' if text is None else f'--{flag}={text}'


def _read_by_rules(
  experiment: Experiment,
) -> tuple[frozenset[str], frozenset[CurveAxis]]:
  """Returns the metrics that the rules read, and the axes of curves."""
  claims = (*experiment.published, *experiment.controls)
  rules: list[Rule] = [claim.rule for claim in claims]
  rules += [t.reduced for t in experiment.published if t.reduced is not None]
  axes: frozenset[CurveAxis] = frozenset().union(*(rule.axes for rule in rules))
  return frozenset(claim.metric for claim in claims), axes


def _drop_curves(
  trial: TrialMetrics, metrics: frozenset[str], axes: frozenset[CurveAxis]
) -> TrialMetrics:
  """Returns the metrics of a trial without the curves that no rule reads."""
  series = {k: v for k, v in trial.series.items() if k in metrics}
  return dataclasses.replace(
    trial,
    series=series if 'step' in axes else {},
    positions=trial.positions if 'position' in axes else (),
  )
