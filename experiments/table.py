"""Trial records -> an ablation table: paired differences with intervals."""

import csv
import dataclasses
import io
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich import box, text
from rich import table as rich_table
from scipy import special

from experiments import formats

Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Interval:
  """A confidence interval, both ends included."""

  low: float
  high: float

  def half(self) -> float:
    """Returns half the width: all there is to say of a Student-t interval."""
    return (self.high - self.low) / 2


@dataclasses.dataclass(frozen=True)
class RowSummary:
  """One row over its seeds; `difference` is row - base, paired by seed."""

  row: str
  is_base: bool
  seeds: int
  diverged: int
  failed: int
  mean: float | None
  interval: Interval | None
  difference: float | None
  difference_interval: Interval | None
  parameters: int | None
  seconds: float | None
  values: Mapping[int, float]
  note: str


@dataclasses.dataclass(frozen=True)
class Table:
  """The rows of an ablation, measured by one metric against one base."""

  metric: str
  lower_is_better: bool
  base: str
  confidence: float
  rows: tuple[RowSummary, ...]


@dataclasses.dataclass(frozen=True)
class _Column:
  """A column of the written tables: a number is set in maths by TeX."""

  title: str
  cell: Callable[[RowSummary], str]
  numeric: bool = True


def summarise(
  records: Sequence[Record],
  rows: Sequence[str],
  base: str,
  metric: str = 'val_loss',
  lower_is_better: bool = True,
  confidence: float = 0.95,
) -> Table:
  """Returns the table of `rows`, in their order, from a trial ledger."""
  if base not in rows:
    raise ValueError(f'base={base!r} is not one of the rows {list(rows)}')
  # The ledger is append-only: what a rerun appended replaces what failed.
  last = {(record['row'], record['seed']): record for record in records}
  trials = {
    row: [last[key] for key in sorted(k for k in last if k[0] == row)]
    for row in rows
  }
  base_values = _values(trials[base], metric)
  return Table(
    metric,
    lower_is_better,
    base,
    confidence,
    tuple(
      _summarise_row(
        row,
        trials[row],
        None if row == base else base_values,
        metric,
        confidence,
      )
      for row in rows
    ),
  )


def write(table: Table, directory: pathlib.Path) -> None:
  """Writes table.json, table.csv, table.md and table.tex, each atomically."""
  for suffix, content in (
    ('json', formats.json_text(dataclasses.asdict(table))),
    ('csv', _format_csv(table)),
    ('md', _format_markdown(table)),
    ('tex', _format_tex(table)),
  ):
    formats.write_atomically(directory / f'table.{suffix}', content)


def render(table: Table) -> rich_table.Table:
  """Returns the table for a terminal of 80 columns."""
  half = f'± {table.confidence:.0%}'
  best = 'lower' if table.lower_is_better else 'higher'
  rendered = rich_table.Table(
    title=text.Text(f'{formats.title(table.metric)} ({best} is better)'),
    box=box.SIMPLE_HEAD,
    padding=(0, 1),
    pad_edge=False,
    title_justify='left',
    caption_justify='left',
    caption_style='yellow',
    caption=text.Text('\n'.join(_note_lines(table))),
  )
  rendered.add_column('row', max_width=34, overflow='fold')
  for header in ('n', 'mean', half, 'difference', half):
    rendered.add_column(header, justify='right', no_wrap=True)
  for row in table.rows:
    rendered.add_row(
      text.Text(row.row),
      str(row.seeds),
      formats.number(row.mean),
      _format_half(row.interval),
      format_difference(row),
      _format_half(row.difference_interval),
      style='bold' if row.is_base else '',
    )
  return rendered


def _summarise_row(
  row: str,
  trials: Sequence[Record],
  base_values: Mapping[int, float] | None,
  metric: str,
  confidence: float,
) -> RowSummary:
  """Returns the summary of one row; the base has no `base_values`."""
  ok = [trial for trial in trials if trial['status'] == 'ok']
  values = _values(trials, metric)
  paired = (
    {}
    if base_values is None
    else {
      seed: value - base_values[seed]
      for seed, value in values.items()
      if seed in base_values
    }
  )
  mean, interval = _student_t(list(values.values()), confidence)
  difference, difference_interval = _student_t(
    list(paired.values()), confidence
  )
  counted = [t['parameters'] for t in trials if 'parameters' in t]
  notes = _notes(trials, values, metric)
  if base_values is not None and 0 < len(paired) < len(values):
    seeds = ', '.join(map(str, paired))
    notes.append(f'difference over the seeds of both: {seeds}')
  elif base_values is not None and values and not paired:
    notes.append('no difference: no seed in common with the base')
  return RowSummary(
    row=row,
    is_base=base_values is None,
    seeds=len(values),
    diverged=sum(t['status'] == 'diverged' for t in trials),
    failed=sum(t['status'] == 'failed' for t in trials),
    mean=mean,
    interval=interval,
    difference=difference,
    difference_interval=difference_interval,
    parameters=counted[-1] if counted else None,
    seconds=(
      float(np.mean([t['clock']['seconds'] for t in ok])) if ok else None
    ),
    values=values,
    note='; '.join(notes),
  )


def _values(trials: Sequence[Record], metric: str) -> dict[int, float]:
  """Returns the metric of the trials that ended well, by seed."""
  found = {
    trial['seed']: trial['metrics'][metric]
    for trial in trials
    if trial['status'] == 'ok' and metric in trial['metrics']
  }
  return {
    seed: float(value)
    for seed, value in found.items()
    if value is not None and math.isfinite(value)
  }


def _student_t(
  values: Sequence[float], confidence: float
) -> tuple[float | None, Interval | None]:
  """Returns the mean and its interval: none with fewer than two values."""
  if not values:
    return None, None
  mean = float(np.mean(values))
  if len(values) < 2:
    return mean, None
  quantile = special.stdtrit(len(values) - 1, (1 + confidence) / 2)
  half = float(quantile * np.std(values, ddof=1) / math.sqrt(len(values)))
  return mean, Interval(mean - half, mean + half)


def _notes(
  trials: Sequence[Record], values: Mapping[int, float], metric: str
) -> list[str]:
  """Returns what a mean over the seeds that ended well would hide."""
  failed, diverged, unmeasured = [], [], []
  for trial in trials:
    seed = f'seed {trial["seed"]}'
    if trial['status'] == 'failed':
      error = trial.get('error', 'no message')
      failed.append(f'{seed}: {" ".join(error.split())}')
    elif trial['status'] == 'diverged':
      at = f' at step {trial["diverged_at"]}' if 'diverged_at' in trial else ''
      diverged.append(seed + at)
    elif trial['seed'] not in values:
      unmeasured.append(seed)
  if not trials:
    return ['no trial']
  return [
    f'{len(group)} {what}: {", ".join(group)}'
    for what, group in (
      ('failed', failed),
      ('diverged', diverged),
      (f'without a finite {metric}', unmeasured),
    )
    if group
  ]


def format_interval(interval: Interval | None, signed: bool = False) -> str:
  """Returns `[low, high]`."""
  if interval is None:
    return formats.MISSING
  low = formats.number(interval.low, signed)
  return f'[{low}, {formats.number(interval.high, signed)}]'


def _format_half(interval: Interval | None) -> str:
  return formats.number(None if interval is None else interval.half())


def format_difference(row: RowSummary) -> str:
  """Returns the difference from the base with its sign."""
  return 'base' if row.is_base else formats.number(row.difference, signed=True)


def _columns(table: Table) -> tuple[_Column, ...]:
  """Returns the columns of table.md and table.tex; new ones belong here."""
  interval = f'{table.confidence:.0%} interval'
  return (
    _Column('row', lambda row: row.row, numeric=False),
    _Column('n', lambda row: str(row.seeds)),
    _Column(formats.title(table.metric), lambda row: formats.number(row.mean)),
    _Column(interval, lambda row: format_interval(row.interval)),
    _Column('difference', format_difference),
    _Column(
      interval,
      lambda row: format_interval(row.difference_interval, signed=True),
    ),
    _Column('parameters', lambda row: formats.count(row.parameters)),
    _Column('seconds', lambda row: formats.seconds(row.seconds)),
  )


def _note_lines(table: Table) -> list[str]:
  return [f'{row.row}: {row.note}' for row in table.rows if row.note]


def _format_csv(table: Table) -> str:
  """Returns one flat line a row; floats in full, so that they round-trip."""
  lines = []
  for row in table.rows:
    line: dict[str, Any] = {'metric': table.metric}
    for name, value in formats.finite(dataclasses.asdict(row)).items():
      if name.endswith('interval'):
        for end in ('low', 'high'):
          line[name.removesuffix('interval') + end] = value and value[end]
      elif name != 'values':
        line[name] = value
    lines.append(line)
  file = io.StringIO()
  writer = csv.DictWriter(file, list(lines[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(lines)
  return file.getvalue()


def _format_markdown(table: Table) -> str:
  """Returns a GitHub table, its notes below."""
  columns = _columns(table)
  lines = [
    [column.title for column in columns],
    ['---:' if column.numeric else ':---' for column in columns],
    *(
      [formats.markdown(column.cell(row)) for column in columns]
      for row in table.rows
    ),
  ]
  notes = [f'- {formats.markdown(note)}' for note in _note_lines(table)]
  body = [f'| {" | ".join(line)} |' for line in lines]
  return '\n'.join([*body, *([''] if notes else []), *notes]) + '\n'


def _format_tex(table: Table) -> str:
  """Returns a booktabs tabular, its notes below."""
  columns = _columns(table)
  lines = [[formats.tex(column.title) for column in columns]]
  lines += [
    [
      formats.tex_number(column.cell(row))
      if column.numeric
      else formats.tex(column.cell(row))
      for column in columns
    ]
    for row in table.rows
  ]
  head, *body = [rf'{" & ".join(line)} \\' for line in lines]
  alignment = ''.join('lr'[column.numeric] for column in columns)
  return (
    '\n'.join(
      [
        '% Needs the package booktabs.',
        rf'\begin{{tabular}}{{{alignment}}}',
        r'\toprule',
        head,
        r'\midrule',
        *body,
        r'\bottomrule',
        r'\end{tabular}',
        *(
          rf'\par{{\footnotesize {formats.tex(note)}}}'
          for note in _note_lines(table)
        ),
      ]
    )
    + '\n'
  )
