"""A table on a terminal of 80 columns."""

from rich import box, text
from rich import table as rich_table

from experiments import formats, table_files
from experiments.shown import shown
from experiments.table import Table


def render(table: Table) -> rich_table.Table:
  """Returns the table for a terminal of 80 columns."""
  half = f'± {formats.percent(table.confidence)}'
  best = 'lower' if table.lower_is_better else 'higher'
  said = [row.label for row in table.rows if row.label != row.row]
  said += table_files.note_lines(table)
  lines = ''.join(f'{shown(line)}\n' for line in said)
  rendered = rich_table.Table(
    title=text.Text(f'{formats.title(table.metric)} ({best} is better)'),
    box=box.SIMPLE_HEAD,
    padding=(0, 1, 0, 0),
    pad_edge=False,
    title_justify='left',
    caption_justify='left',
    caption_style='',
    caption=text.Text.assemble(
      (lines, 'yellow'), (shown(table_files.explanation(table)), 'dim')
    ),
  )
  rendered.add_column('row', max_width=34, overflow='fold')
  for header in ('n', 'mean', half, 'vs base', half):
    rendered.add_column(header, justify='right', no_wrap=True)
  rendered.add_column('verdict', no_wrap=True)
  for name in table.figures:
    rendered.add_column(formats.title(name), justify='right')
  for row in table.rows:
    rendered.add_row(
      text.Text(shown(row.row)),
      str(row.seeds),
      formats.number(row.mean),
      table_files.format_half(row.interval),
      table_files.format_difference(row),
      table_files.format_half(row.difference_interval),
      row.verdict or formats.MISSING,
      *(formats.number(row.figures.get(name)) for name in table.figures),
      style='bold' if row.is_base else '',
    )
  return rendered
