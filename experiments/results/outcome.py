"""A finished table, to be stored or shown beside those of other blocks."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.claims.metrics import Measurements
from experiments.planning.inputs import PlannedTrial
from experiments.planning.plan import Plan
from experiments.table.table import AblationTable


@dataclasses.dataclass(frozen=True)
class TableOutcome:
  """A finished table, and what it was made from.

  Attributes:
    plan: its plan.
    trials: trials of its rows, one per seed.
    found: metrics of these trials and of the controls.
    table: the table.
    environment: versions and devices, as in environment.json.
  """

  plan: Plan
  trials: Sequence[PlannedTrial]
  found: Measurements
  table: AblationTable
  environment: Mapping[str, Any]
