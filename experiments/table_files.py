"""A table as files and on the terminal: json, csv, md, tex, 80 columns."""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Callable
from typing import Any

from rich import box, text
from rich import table as rich_table

from experiments import formats
from experiments.table import Interval, RowSummary, Table
from train.files import write_atomically


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
