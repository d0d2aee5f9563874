"""A table as files: json, csv, md, tex."""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Callable
from typing import Any

from experiments import formats, judged_on, power, reasons
from experiments.statistics import Interval
from experiments.table import RowSummary, Table
from train.files import write_atomically

DETECTABLE = (
  'Detectable: the true difference that this many seeds call with power '
  f'{formats.percent(power.POWER)}, if no other row is called.'
)


@dataclasses.dataclass(frozen=True)
class _Column:
  """A column of the written tables: a number is set in maths by TeX."""

  title: str
  cell: Callable[[RowSummary], str]
  numeric: bool = True


def write(table: Table, directory: pathlib.Path) -> None:
  """Writes table.json, table.csv, table.md and table.tex, each atomically."""
  for suffix, content in (
    ('json', formats.json_text(dataclasses.asdict(table))),
    ('csv', _format_csv(table)),
    ('md', _format_markdown(table)),
    ('tex', _format_tex(table)),
  ):
    write_atomically(directory / f'table.{suffix}', content)


def explanation(table: Table) -> str:
  """Returns what figures are of, and how intervals and verdicts came about."""
  return ' '.join(
    [
      *judged_on.lines(table),
      statement(table),
      *table.selected,
      *judged_on.reach(table),
    ]
  )


def statement(table: Table) -> str:
  """Returns how the intervals and verdicts of the table came about."""
  count = sum(not row.is_base for row in table.rows)
  interval = formats.percent(table.confidence)
  intervals = f'Intervals: Student t over the seeds, {interval}'
  if not count:
    return f'{intervals}.'
  alpha, margin = formats.percent(table.alpha), formats.percent(table.margin)
  width = formats.number(table.absolute_margin)
  corrected = f'Holm over {count} rows' if count > 1 else 'one row'
  needed = [
    row.seeds_needed
    for row in table.rows
    if row.verdict == 'undecided' and not row.reason and row.seeds_needed
  ]
  advice = needed and (
    f' About {formats.count(max(needed))} seeds would call a difference of '
    f'{margin} in every row that is undecided (power '
    f'{formats.percent(power.POWER)}).'
  )
  tests = reasons.tests(table.diverged)
  trusted = reasons.trusted([row.compared for row in table.rows])
  return (
    f'{intervals} for each row alone. Verdicts: {tests} ({corrected}, '
    f'{alpha}); then equivalence within ±{width}, {margin} of {table.base} '
    f'(TOST, likewise); else undecided.{advice or ""}{trusted}'
  )


def format_interval(interval: Interval | None, signed: bool = False) -> str:
  """Returns `[low, high]`."""
  if interval is None:
    return formats.MISSING
  low = formats.number(interval.low, signed)
  return f'[{low}, {formats.number(interval.high, signed)}]'


def format_difference(row: RowSummary) -> str:
  """Returns the difference from the base with its sign."""
  return 'base' if row.is_base else formats.number(row.difference, signed=True)


def format_tuned(value: object) -> str:
  """Returns a chosen value: a number as short as it goes."""
  if value is None:
    return formats.MISSING
  return f'{value:g}' if isinstance(value, float) else str(value)


def _tuned(table: Table) -> tuple[str, ...]:
  """Returns the flags that any row chose for itself."""
  return tuple(dict.fromkeys(flag for row in table.rows for flag in row.tuned))


def flops(table: Table) -> tuple[str, dict[str, str]]:
  """Returns the title of the FLOPs and each row's, in one unit for all."""
  prefix, size = formats.unit(row.flops_per_token for row in table.rows)
  return f'{prefix}FLOPs/token', {
    row.row: formats.MISSING
    if row.flops_per_token is None
    else f'{row.flops_per_token / size:,.3g}'
    for row in table.rows
  }


def format_half(interval: Interval | None, sign: str = '') -> str:
  """Returns half the width, after `sign`."""
  if interval is None:
    return formats.MISSING
  return sign + formats.number(interval.half())


def _format_pm(
  value: float | None, interval: Interval | None, signed: bool = False
) -> str:
  """Returns `mean ± half`."""
  mean = formats.number(value, signed)
  return mean if interval is None else f'{mean} {format_half(interval, "± ")}'


def _columns(table: Table) -> tuple[_Column, ...]:
  """Returns the columns of table.md and table.tex; new ones belong here."""
  half = f' ± {formats.percent(table.confidence)}'
  flops_title, flops_of = flops(table)
  both = (
    _Column('p (t)', lambda row: formats.p_value(row.p_paired)),
    _Column('p (diverged)', lambda row: formats.p_value(row.p_diverged)),
  )
  return (
    _Column('row', lambda row: row.label, numeric=False),
    _Column('n', lambda row: str(row.seeds)),
    _Column(
      formats.title(table.metric) + half,
      lambda row: _format_pm(row.mean, row.interval),
    ),
    _Column(
      'difference' + half,
      lambda row: (
        'base'
        if row.is_base
        else _format_pm(row.difference, row.difference_interval, signed=True)
      ),
    ),
    *(both if table.diverged else ()),
    _Column('p (Holm)', lambda row: formats.p_value(row.p_holm)),
    _Column(
      'verdict', lambda row: row.verdict or formats.MISSING, numeric=False
    ),
    _Column('detectable', lambda row: formats.number(row.smallest_effect)),
    *(
      _Column(
        formats.title(flag),
        lambda row, flag=flag: format_tuned(row.tuned.get(flag)),
      )
      for flag in _tuned(table)
    ),
    *(
      _Column(
        formats.title(name),
        lambda row, name=name: formats.number(row.figures.get(name)),
      )
      for name in table.figures
    ),
    *(_Column(title, cell) for title, cell in judged_on.columns(table)),
    _Column('parameters', lambda row: formats.count(row.parameters)),
    _Column(flops_title, lambda row: flops_of[row.row]),
    _Column('seconds', lambda row: formats.seconds(row.seconds)),
  )


def notes(table: Table) -> list[tuple[str, str]]:
  """Returns, by row, why its verdict is what it is, then what befell seeds."""
  return [
    (row.row, '; '.join(filter(None, (row.reason, row.note))))
    for row in table.rows
    if row.reason or row.note
  ]


def note_lines(table: Table) -> list[str]:
  """Returns the notes, each with its row."""
  return [f'{row}: {note}' for row, note in notes(table)]


def _below(table: Table) -> str:
  return f'{explanation(table)} {DETECTABLE}'


def _format_csv(table: Table) -> str:
  """Returns one flat line a row; floats in full, so that they round-trip."""
  lines = []
  for row in table.rows:
    line: dict[str, Any] = {'metric': table.metric}
    for name, value in formats.finite(dataclasses.asdict(row)).items():
      if name.endswith('interval'):
        for end in ('low', 'high'):
          line[name.removesuffix('interval') + end] = value and value[end]
      elif name == 'tuned':
        line |= {f'tuned_{flag}': value.get(flag) for flag in _tuned(table)}
      elif name == 'figures':
        line |= {figure: value.get(figure) for figure in table.figures}
      elif name != 'values':
        line[name] = value
    lines.append(
      {
        name: formats.csv_text(value) if isinstance(value, str) else value
        for name, value in line.items()
      }
    )
  file = io.StringIO()
  writer = csv.DictWriter(file, list(lines[0]), lineterminator='\n')
  writer.writeheader()
  writer.writerows(lines)
  return file.getvalue()


def _format_markdown(table: Table) -> str:
  """Returns a GitHub table, its notes below."""
  columns = _columns(table)
  lines = [
    [formats.markdown(column.title) for column in columns],
    ['---:' if column.numeric else ':---' for column in columns],
    *(
      [formats.markdown(column.cell(row)) for column in columns]
      for row in table.rows
    ),
  ]
  below = [f'- {formats.markdown(note)}' for note in note_lines(table)]
  body = [f'| {" | ".join(line)} |' for line in lines]
  about = formats.markdown(_below(table))
  return '\n'.join([*body, '', *below, *([''] if below else []), about]) + '\n'


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
          for note in (*note_lines(table), _below(table))
        ),
      ]
    )
    + '\n'
  )
