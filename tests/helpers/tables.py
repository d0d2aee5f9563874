"""Records of trials that are made up, and the tables that show them."""

from collections.abc import Mapping, Sequence
from typing import Any

import rich.console

from experiments.table import table as tables
from experiments.table import table_terminal


def record_of(
  row: str,
  seed: int,
  value: float | None = None,
  status: str = 'ok',
  seconds: float = 2.0,
  extra: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
  return {
    'row': row,
    'trial': f'{row}-{seed}',
    'seed': seed,
    'status': status,
    'metrics': {} if value is None else {'val_loss': value},
    'clock': {'seconds': seconds},
    'steps': 10,
    'tokens': 100,
    'digest': '00',
    'config': {},
    'parameters': 1234,
    **(extra or {}),
  }


def records_of(values: Mapping[str, Sequence[float]]) -> list[dict[str, Any]]:
  return [
    record_of(row, seed, value)
    for row, column in values.items()
    for seed, value in enumerate(column)
  ]


def row_of(table: tables.AblationTable, name: str) -> tables.RowSummary:
  (row,) = [row for row in table.rows if row.row == name]
  return row


SPREAD = [0.0, 0.1, -0.1, 0.2, 0.05]


def judged_table() -> tables.AblationTable:
  """One row for each verdict, in this order, after the base."""
  base = [2.0 + x for x in SPREAD]
  noise = [0.001, -0.001, 0.002, 0.0, -0.002]
  values = {
    'base': base,
    'b': [x - 0.5 + e for x, e in zip(base, noise, strict=True)],
    'w': [x + 0.5 + e for x, e in zip(base, noise, strict=True)],
    'e': [x + e for x, e in zip(base, noise, strict=True)],
    'u': [x + 50 * e for x, e in zip(base, noise, strict=True)],
  }
  records = [
    record
    | {
      'flops_per_token': 4_870_000 if record['row'] != 'w' else 12_345_678,
      'tuned': {'learning_rate': 1e-3 if record['row'] != 'b' else 3e-4},
    }
    for record in records_of(values)
  ]
  return tables.make_table(records, list(values), 'base')


def terminal_text(table: tables.AblationTable) -> str:
  console = rich.console.Console(width=80)
  with console.capture() as capture:
    console.print(table_terminal.render(table))
  return capture.get()
