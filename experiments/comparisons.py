"""Each comparison of a directory keeps its own table, and what was shown.

Trials are shared: a second question in the same directory neither trains the
base again nor replaces the answer to the first.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Collection, Mapping
from typing import Any

from experiments.plan import Plan
from experiments.table import Table
from train.files import Lines, all_lines, append_lines
from train.strict import check

FOLDER = 'comparisons'
_SHOWN = 'shown.jsonl'
_SLUG = 40  # letters of a folder's name that say what rows it has


def home(plan: Plan) -> pathlib.Path:
  """Returns where a comparison lies: a function of what it compares.

  The number of seeds has no say: more of them go on with the same comparison.
  """
  asked = plan.command
  about = {
    'rows': {row.name: dict(row.changes) for row in plan.rows},
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
  return plan.workdir / FOLDER / name


def judged(table: Table, withheld: Collection[str]) -> dict[str, int]:
  """Returns over how many seeds each row was tested, if it got a verdict."""
  return {
    row.row: len(row.values)
    for row in table.rows
    if row.p is not None and row.row not in withheld
  }


def before(plan: Plan, rows: Mapping[str, int]) -> tuple[str, ...]:
  """Returns what came after verdicts that were shown.

  Args:
    plan: of the comparison.
    rows: that get a verdict now, and over how many seeds.
  """
  mine = home(plan).name
  seeds: set[int] = set()
  added: dict[str, None] = {}
  left: dict[str, None] = {}
  otherwise = False
  lines = _read(plan.workdir)
  # What came after this was shown first had no say in it.
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
      f'Of the verdicts shown before {len(lines.faults)} cannot be read '
      f'({FOLDER}/{_SHOWN} is damaged).'
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


def damage(workdir: pathlib.Path) -> list[str]:
  """Returns a line for each verdict that was shown and cannot be read."""
  return _read(workdir).said(workdir / FOLDER / _SHOWN)


def remember(plan: Plan, rows: Mapping[str, int]) -> None:
  """Keeps which rows are shown with a verdict; the same once."""
  path = plan.workdir / FOLDER / _SHOWN
  shown = {'comparison': home(plan).name, 'rows': dict(rows)}
  if rows and shown not in _read(plan.workdir).values:
    path.parent.mkdir(exist_ok=True)
    append_lines(path, [shown])


@dataclasses.dataclass(frozen=True)
class _Shown:
  """A line of shown.jsonl: rows with a verdict, over how many seeds each."""

  comparison: str
  rows: Mapping[str, int]


def _read(workdir: pathlib.Path) -> Lines:
  """Returns which verdicts were shown."""

  def accept(value: Any) -> None:
    check(_Shown, value)

  return all_lines(workdir / FOLDER / _SHOWN, accept)
