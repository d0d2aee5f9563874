"""Stores each comparison of a working directory, and the verdicts it showed.

Comparisons share trials: a second one in the same directory does not train the
base again, and does not replace the table of the first.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Any

from experiments.planning.plan import Plan
from experiments.rows.rows import configure
from experiments.table.table import AblationTable
from train.files.durable import JsonLines, append_lines, read_json_lines
from train.files.strict import check_type
from train.flags.schema import non_default_flags

COMPARISONS_FOLDER = 'comparisons'
_SHOWN = 'shown.jsonl'
_SLUG = 40  # length of the row names in a folder's name


def comparison_folder(plan: Plan) -> pathlib.Path:
  """Returns the folder of a comparison, named after a digest of its question.

  The number of seeds does not matter: more seeds continue the same comparison.
  Nor does a flag of a row that has its default value.
  """
  asked = plan.command
  about = {
    'rows': {
      row.name: non_default_flags(plan.base, configure(plan.base, row))
      for row in plan.rows
    },
    'metric': plan.metric.name,
    'margin': asked.margin,
    'tune': [dict(point) for point in plan.search.points],
    'halving': asked.halving,
    'smoke': asked.smoke,
  }
  digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
  words = ' '.join(row.name for row in plan.rows[1:] or plan.rows)
  slug = re.sub(r'[^a-z0-9]+', '-', words.lower())[:_SLUG].strip('-')
  name = f'{slug}-{digest.hexdigest()[:8]}'.strip('-')
  return plan.workdir / COMPARISONS_FOLDER / name


def seeds_of_verdicts(
  table: AblationTable, withheld: Collection[str]
) -> dict[str, int]:
  """Returns the number of seeds of each row that has a verdict."""
  return {
    row.row: len(row.values)
    for row in table.rows
    if row.p is not None and row.row not in withheld
  }


def changes_since_shown(plan: Plan, rows: Mapping[str, int]) -> tuple[str, ...]:
  """Returns sentences on what changed after earlier verdicts were shown.

  Args:
    plan: the plan of the comparison.
    rows: row with a verdict -> its number of seeds.
  """
  mine = comparison_folder(plan).name
  seeds: set[int] = set()
  added: dict[str, None] = {}
  left: dict[str, None] = {}
  otherwise = False
  lines = _read(plan.workdir)
  # Only what was shown before this comparison can have influenced it.
  now = {'comparison': mine, 'rows': dict(rows)}
  new_seeds = new_rows = True
  for shown in lines.values:
    theirs, own = shown['rows'], shown['comparison'] == mine
    both = theirs.keys() & rows.keys()
    new_seeds, new_rows = new_seeds and shown != now, new_rows and not own
    if own or new_seeds:
      seeds |= {n for row, n in theirs.items() if n != rows.get(row, n)}
    if not (new_rows and both):
      continue
    added |= dict.fromkeys(row for row in rows if row not in theirs)
    left |= dict.fromkeys(row for row in theirs if row not in rows)
    otherwise |= len(both) == len(theirs) == len(rows)
  said = []
  if lines.faults:
    said.append(
      f'{len(lines.faults)} of the verdicts shown before cannot be read '
      f'({COMPARISONS_FOLDER}/{_SHOWN} is damaged).'
    )
  if seeds:
    counts = ', '.join(map(str, sorted(seeds)))
    said.append(
      f'Seeds were added or left out after a verdict over {counts} was shown.'
    )
  if added:
    names = ', '.join(added)
    said.append(f'Added after a verdict on other rows was shown: {names}.')
  if left:
    names = ', '.join(left)
    said.append(f'Left out after a verdict on it was shown: {names}.')
  if otherwise:
    said.append(
      'A verdict on the same rows was shown before, by another --metric, '
      '--margin or selection.'
    )
  return tuple(said)


def damaged_verdict_lines(workdir: pathlib.Path) -> list[str]:
  """Returns a line of text for each damaged line of shown.jsonl."""
  return _read(workdir).said(workdir / COMPARISONS_FOLDER / _SHOWN)


def record_shown(plan: Plan, rows: Mapping[str, int]) -> None:
  """Appends the rows that are shown with a verdict, unless already there."""
  path = plan.workdir / COMPARISONS_FOLDER / _SHOWN
  shown = {'comparison': comparison_folder(plan).name, 'rows': dict(rows)}
  if rows and shown not in _read(plan.workdir).values:
    path.parent.mkdir(exist_ok=True)
    append_lines(path, [shown])


@dataclasses.dataclass(frozen=True)
class _Shown:
  """A line of shown.jsonl: rows with a verdict -> number of seeds."""

  comparison: str
  rows: Mapping[str, int]


def _read(workdir: pathlib.Path) -> JsonLines:
  """Returns the lines of shown.jsonl."""

  def accept(value: Any) -> None:
    check_type(_Shown, value)

  return read_json_lines(workdir / COMPARISONS_FOLDER / _SHOWN, accept)
