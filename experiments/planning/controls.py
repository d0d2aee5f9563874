"""Selects the rows and the controls of an experiment that a command runs."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from experiments.claims.published import Control
from experiments.command import Command
from experiments.experiment import Experiment, Row
from experiments.planning.inputs import PlannedTrial
from experiments.rows.rows import RowRequests, configure, valid_rows
from experiments.rows.tuning import TuningPoint
from model.core.field import FieldError
from train.config.config import Config
from train.core.errors import DataError

MakeTrial = Callable[[Row, TuningPoint, Config, int], PlannedTrial]
CheckRow = Callable[[Row, Config], None]


class SelectedRows(NamedTuple):
  """The rows and controls that fit the typed flags.

  Attributes:
    rows: to be compared.
    controls: to run beside the rows.
    unfit: name of each row or control that is left out -> the error.
  """

  rows: tuple[Row, ...]
  controls: tuple[Control, ...]
  unfit: Mapping[str, FieldError | DataError]


def runs_all_rows(command: Command, requests: RowRequests) -> bool:
  """Returns whether a command trains the experiment's own rows, all of them."""
  plain = dataclasses.replace(requests, search_seed=0) == RowRequests()
  return plain and command.only is None and command.halving is None


def select_rows(
  experiment: Experiment,
  base: Config,
  rows: tuple[Row, ...],
  command: Command,
  requests: RowRequests,
  check: CheckRow,
) -> SelectedRows:
  """Returns the rows and controls to run.

  Rows of the experiment that fail the check are left out.  Rows that the
  command asks for are all kept: their errors are the user's.

  Args:
    experiment: has the controls.
    base: its configuration, with the flags of the command.
    rows: rows of the table.
    command: may ask for a single row, or for no controls.
    requests: rows that the command asks for.
    check: raises an error if a row cannot run.
  """

  def fits(row: Row) -> None:
    check(row, configure(base, row))

  unfit: dict[str, FieldError | DataError] = {}
  if not requests.any and command.only is None:
    rows, unfit = valid_rows(rows, fits)
  asked = command.controls and runs_all_rows(command, requests)
  controls = experiment.controls if asked else ()
  good, bad = valid_rows([Row(c.row, c.changes) for c in controls], fits)
  names = {row.name for row in good}
  kept = tuple(control for control in controls if control.row in names)
  return SelectedRows(rows, kept, unfit | bad)


def control_trials(
  controls: Sequence[Control],
  base: Config,
  seeds: Sequence[int],
  make: MakeTrial,
) -> tuple[PlannedTrial, ...]:
  """Returns the trials of the controls, each on the first of the seeds."""
  return tuple(
    make(row, {}, configure(base, row), seed)
    for control in controls
    for row in [Row(control.row, control.changes)]
    for seed in seeds[: control.seeds]
  )
