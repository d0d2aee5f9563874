"""Summarises the tables of all blocks of an experiment, side by side."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from experiments.claims.published import ClaimVerdict
from experiments.experiment import Experiment
from experiments.messages import formats
from experiments.messages.escapes import command_line, escape_name
from experiments.report import render as report
from experiments.table import claim_lines, table_files, table_terminal
from experiments.table.table import AblationTable
from train.files.durable import write_atomically

_FILE = 'report.html'


@dataclasses.dataclass(frozen=True)
class Summary:
  """The content of the summary.

  Attributes:
    experiment: the experiment.
    tables: block -> table.
    published: verdicts on the published values.
    words: words of the command line.
  """

  experiment: Experiment
  tables: Mapping[str, AblationTable]
  published: Sequence[ClaimVerdict]
  words: Sequence[str]

  @property
  def rows(self) -> tuple[str, ...]:
    """Returns the names of all rows, each once."""
    every = (row.row for table in self.tables.values() for row in table.rows)
    return tuple(dict.fromkeys(every))


class Cell(NamedTuple):
  """The result of a row in a block: its number and its verdict."""

  figure: str
  verdict: str


def cell(table: AblationTable, row: str) -> Cell:
  """Returns the mean of the base, or a row's difference from the base."""
  own = {found.row: found for found in table.rows}.get(row)
  if own is None:
    return Cell(formats.MISSING, '')
  if own.is_base:
    mean = table_files.format_mean(own.mean, own.interval)
    return Cell(mean, 'base')
  difference = table_files.format_mean(
    own.difference, own.difference_interval, signed=True
  )
  return Cell(difference, own.verdict or '')


def write(summary: Summary, folder: pathlib.Path) -> pathlib.Path:
  """Writes table.json, .csv, .md, .tex and report.html; returns its path."""
  tables = summary.tables
  values = {
    'experiment': summary.experiment.name,
    'blocks': {name: table_files.values(own) for name, own in tables.items()},
    'published': [dataclasses.asdict(own) for own in summary.published],
  }
  lines = [
    {'block': name} | line
    for name, own in tables.items()
    for line in table_files.csv_lines(own)
  ]
  for suffix, content in (
    ('json', formats.json_text(values)),
    ('csv', table_files.csv_text(lines)),
    ('md', _format_markdown(summary)),
    ('tex', _format_tex(summary)),
  ):
    write_atomically(folder / f'table.{suffix}', content)
  path = folder / _FILE
  page = report.environment().get_template('blocks.html.j2')
  text = page.render(
    experiment=summary.experiment,
    tables=tables,
    rows=summary.rows,
    cell=cell,
    command=command_line(summary.words),
    about=_about(summary),
    claims=_claims(summary),
  )
  write_atomically(path, text)
  return path


def show(summary: Summary) -> None:
  """Prints the rows of all blocks, and the verdicts on published values."""
  grid = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False)
  grid.add_column('row', max_width=24, overflow='fold')
  for name in summary.tables:
    grid.add_column(name, justify='right', overflow='fold')
  for row in summary.rows:
    cells = [cell(table, row) for table in summary.tables.values()]
    # Number above verdict; the table of the block has the interval.
    short = (f'{own.figure.split()[0]}\n{own.verdict}' for own in cells)
    grid.add_row(Text(escape_name(row)), *short)
  console = Console(highlight=False)
  console.print(
    Text(escape_name(f'{summary.experiment.title}, block by block'))
  )
  console.print(grid)
  console.print(Text(_about(summary), 'dim'))
  if (claims := table_terminal.render_parts(_claims(summary))) is not None:
    console.print(claims)


def _about(summary: Summary) -> str:
  """Returns the caption, which explains the cells."""
  metrics = {formats.title(own.metric): own for own in summary.tables.values()}
  said = ', '.join(
    f'{name} ({"lower" if own.lower_is_better else "higher"} is better)'
    for name, own in metrics.items()
  )
  return (
    f'{said}: of a base its mean, of other rows their difference from the base '
    'of their block, by which alone they are judged; Holm over the rows of a '
    'block.'
  )


def _claims(summary: Summary) -> list[claim_lines.ClaimSection]:
  """Returns the sections of published values and of all blocks' controls."""
  controls = [
    dataclasses.replace(own, row=f'{name}: {own.row}')
    for name, table in summary.tables.items()
    for own in table.controls
  ]
  return claim_lines.claim_sections(summary.published, controls)


def _format_markdown(summary: Summary) -> str:
  """Returns a GitHub table of rows and blocks."""
  head = ['row', *summary.tables]
  lines = [head, [':---', *('---:' for _ in summary.tables)]]
  for row in summary.rows:
    cells = [cell(table, row) for table in summary.tables.values()]
    texts = (f'{own.figure} {own.verdict}'.rstrip() for own in cells)
    lines.append([formats.escape_markdown(text) for text in (row, *texts)])
  body = [f'| {" | ".join(line)} |' for line in lines]
  body += ['', formats.escape_markdown(_about(summary))]
  if said := claim_lines.lines_of(_claims(summary)):
    body += ['', *(f'- {formats.escape_markdown(line)}' for line in said)]
  return '\n'.join(body) + '\n'


def _format_tex(summary: Summary) -> str:
  """Returns a booktabs tabular of rows and blocks."""
  lines = [['row', *map(formats.escape_tex, summary.tables)]]
  for row in summary.rows:
    cells = [cell(table, row) for table in summary.tables.values()]
    texts = (f'{own.figure} {own.verdict}'.rstrip() for own in cells)
    lines.append(
      [formats.escape_tex(row), *map(formats.format_tex_number, texts)]
    )
  head, *body = [rf'{" & ".join(line)} \\' for line in lines]
  notes = [_about(summary), *claim_lines.lines_of(_claims(summary))]
  return (
    '\n'.join(
      [
        '% Needs the package booktabs.',
        rf'\begin{{tabular}}{{l{"r" * len(summary.tables)}}}',
        r'\toprule',
        head,
        r'\midrule',
        *body,
        r'\bottomrule',
        r'\end{tabular}',
        *(
          rf'\par{{\footnotesize {formats.escape_tex(note)}}}' for note in notes
        ),
      ]
    )
    + '\n'
  )
