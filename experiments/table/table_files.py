"""Writes a table as JSON, CSV, Markdown and LaTeX."""

import csv
import dataclasses
import io
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from experiments.messages import formats
from experiments.statistics import power, reasons
from experiments.statistics.verdicts import Interval
from experiments.table import claim_lines, targets_text
from experiments.table.table import AblationTable, RowSummary
from train.files.durable import write_atomically

DETECTABLE = (
  'Detectable: the true difference that this many seeds call with power '
  f'{formats.format_percent(power.POWER)}, if no other row is called.'
)


@dataclasses.dataclass(frozen=True)
class _Column:
  """A column of table.md and table.tex; LaTeX sets numbers in math mode."""

  title: str
  cell: Callable[[RowSummary], str]
  numeric: bool = True


def write(table: AblationTable, directory: pathlib.Path) -> None:
  """Writes table.json, table.csv, table.md and table.tex, each atomically."""
  for suffix, content in (
    ('json', formats.json_text(values(table))),
    ('csv', csv_text(csv_lines(table))),
    ('md', _format_markdown(table)),
    ('tex', _format_tex(table)),
  ):
    write_atomically(directory / f'table.{suffix}', content)


def values(table: AblationTable) -> dict[str, Any]:
  """Returns the table as JSON values, without empty lists of claims."""
  found = dataclasses.asdict(table)
  for name in ('published', 'controls'):
    if not found[name]:
      del found[name]
  return found


def explanation(table: AblationTable) -> str:
  """Returns the caption: targets, intervals, verdicts and their limits."""
  return ' '.join(
    [
      *targets_text.lines(table),
      statement(table),
      *table.selected,
      *targets_text.verdict_limits(table),
    ]
  )


def statement(table: AblationTable) -> str:
  """Returns how the intervals and verdicts were computed, in words."""
  count = sum(not row.is_base for row in table.rows)
  interval = formats.format_percent(table.confidence)
  intervals = f'Intervals: Student t over the seeds, {interval}'
  if not count:
    return f'{intervals}.'
  alpha, margin = (
    formats.format_percent(table.alpha),
    formats.format_percent(table.margin),
  )
  width = formats.format_number(table.absolute_margin)
  corrected = f'Holm over {count} rows' if count > 1 else 'one row'
  needed = [
    row.seeds_needed
    for row in table.rows
    if row.verdict == 'undecided' and not row.reason and row.seeds_needed
  ]
  advice = needed and (
    f' About {formats.format_count(max(needed))} seeds would call a difference '
    'of '
    f'{margin} in every row that is undecided (power '
    f'{formats.format_percent(power.POWER)}).'
  )
  tests = reasons.tests(table.diverged)
  trusted = reasons.assumption_text([row.compared for row in table.rows])
  return (
    f'{intervals} for each row alone. Verdicts: {tests} ({corrected}, '
    f'{alpha}); then equivalence within ±{width}, {margin} of {table.base} '
    f'(TOST, likewise); else undecided.{advice or ""}{trusted}'
  )


def format_interval(interval: Interval | None, signed: bool = False) -> str:
  """Returns `[low, high]`."""
  if interval is None:
    return formats.MISSING
  low = formats.format_number(interval.low, signed)
  return f'[{low}, {formats.format_number(interval.high, signed)}]'


def format_difference(row: RowSummary) -> str:
  """Returns the difference from the base with its sign."""
  return (
    'base'
    if row.is_base
    else formats.format_number(row.difference, signed=True)
  )


def format_tuned(value: object) -> str:
  """Formats a value that --tune chose, a number as short as possible."""
  if value is None:
    return formats.MISSING
  return f'{value:g}' if isinstance(value, float) else str(value)


def _tuned(table: AblationTable) -> tuple[str, ...]:
  """Returns the flags that --tune varied in any row."""
  return tuple(dict.fromkeys(flag for row in table.rows for flag in row.tuned))


def flops(table: AblationTable) -> tuple[str, dict[str, str]]:
  """Returns the column title of the FLOPs, and the cell of each row."""
  prefix, size = formats.si_prefix(row.flops_per_token for row in table.rows)
  return f'{prefix}FLOPs/token', {
    row.row: formats.MISSING
    if row.flops_per_token is None
    else f'{row.flops_per_token / size:,.3g}'
    for row in table.rows
  }


def format_half(interval: Interval | None, sign: str = '') -> str:
  """Returns `sign` and half the width of the interval."""
  if interval is None:
    return formats.MISSING
  return sign + formats.format_number(interval.half())


def format_mean(
  value: float | None, interval: Interval | None, signed: bool = False
) -> str:
  """Returns `mean ± half`, or the mean alone if there is no interval."""
  mean = formats.format_number(value, signed)
  return mean if interval is None else f'{mean} {format_half(interval, "± ")}'


def _columns(table: AblationTable) -> tuple[_Column, ...]:
  """Returns the columns of table.md and table.tex."""
  half = f' ± {formats.format_percent(table.confidence)}'
  flops_title, flops_of = flops(table)
  both = (
    _Column('p (t)', lambda row: formats.format_p_value(row.p_paired)),
    _Column('p (diverged)', lambda row: formats.format_p_value(row.p_diverged)),
  )
  return (
    _Column('row', lambda row: row.label, numeric=False),
    _Column('n', lambda row: str(row.seeds)),
    _Column(
      formats.title(table.metric) + half,
      lambda row: format_mean(row.mean, row.interval),
    ),
    _Column(
      'difference' + half,
      lambda row: (
        'base'
        if row.is_base
        else format_mean(row.difference, row.difference_interval, signed=True)
      ),
    ),
    *(both if table.diverged else ()),
    _Column('p (Holm)', lambda row: formats.format_p_value(row.p_holm)),
    _Column(
      'verdict', lambda row: row.verdict or formats.MISSING, numeric=False
    ),
    _Column(
      'detectable', lambda row: formats.format_number(row.smallest_effect)
    ),
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
        lambda row, name=name: formats.format_number(row.figures.get(name)),
      )
      for name in table.figures
    ),
    *(_Column(title, cell) for title, cell in targets_text.columns(table)),
    _Column('parameters', lambda row: formats.format_count(row.parameters)),
    _Column(flops_title, lambda row: flops_of[row.row]),
    _Column('seconds', lambda row: formats.format_seconds(row.seconds)),
  )


def notes(table: AblationTable) -> list[tuple[str, str]]:
  """Returns (row, note) pairs: the reason of its verdict, then its seeds."""
  return [
    (row.row, '; '.join(filter(None, (row.reason, row.note))))
    for row in table.rows
    if row.reason or row.note
  ]


def note_lines(table: AblationTable) -> list[str]:
  """Returns the notes as lines 'ROW: NOTE'."""
  return [f'{row}: {note}' for row, note in notes(table)]


def _caption(table: AblationTable) -> str:
  return f'{explanation(table)} {DETECTABLE}'


def csv_lines(table: AblationTable) -> list[dict[str, Any]]:
  """Returns each row as a flat record, with floats in full precision."""
  lines = []
  for row in table.rows:
    line: dict[str, Any] = {'metric': table.metric}
    for name, value in formats.finite_json(dataclasses.asdict(row)).items():
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
        name: formats.escape_csv(value) if isinstance(value, str) else value
        for name, value in line.items()
      }
    )
  return lines


def csv_text(lines: Sequence[Mapping[str, Any]]) -> str:
  """Returns records as CSV, with the columns of all of them."""
  names = list(dict.fromkeys(name for line in lines for name in line))
  file = io.StringIO()
  writer = csv.DictWriter(file, names, lineterminator='\n')
  writer.writeheader()
  writer.writerows(lines)
  return file.getvalue()


def _format_markdown(table: AblationTable) -> str:
  """Returns a GitHub table with its notes."""
  columns = _columns(table)
  lines = [
    [formats.escape_markdown(column.title) for column in columns],
    ['---:' if column.numeric else ':---' for column in columns],
    *(
      [formats.escape_markdown(column.cell(row)) for column in columns]
      for row in table.rows
    ),
  ]
  below = [f'- {formats.escape_markdown(note)}' for note in note_lines(table)]
  body = [f'| {" | ".join(line)} |' for line in lines]
  about = formats.escape_markdown(_caption(table))
  lines = [*body, '', *below, *([''] if below else []), about]
  if claims := claim_lines.lines(table):
    lines += ['', *(f'- {formats.escape_markdown(claim)}' for claim in claims)]
  if failed := claim_lines.failed_controls(table):
    lines = [formats.escape_markdown(failed), '', *lines]
  return '\n'.join(lines) + '\n'


def _format_tex(table: AblationTable) -> str:
  """Returns a booktabs tabular with its notes."""
  columns = _columns(table)
  lines = [[formats.escape_tex(column.title) for column in columns]]
  lines += [
    [
      formats.format_tex_number(column.cell(row))
      if column.numeric
      else formats.escape_tex(column.cell(row))
      for column in columns
    ]
    for row in table.rows
  ]
  claims = [claim_lines.failed_controls(table), *claim_lines.lines(table)]
  claims = [claim for claim in claims if claim]
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
          rf'\par{{\footnotesize {formats.escape_tex(note)}}}'
          for note in (*note_lines(table), _caption(table), *claims)
        ),
      ]
    )
    + '\n'
  )
