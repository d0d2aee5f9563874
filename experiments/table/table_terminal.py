"""Renders a table for a terminal of 80 columns."""

from collections.abc import Sequence

from rich import box, console, padding, text
from rich import table as rich_table

from experiments.claims.published import ControlVerdict, PublishedVerdict
from experiments.messages import formats
from experiments.messages.escapes import escape_name
from experiments.messages.page import NameCell
from experiments.table import claim_lines, table_files
from experiments.table.table import AblationTable


def render(table: AblationTable) -> rich_table.Table:
  """Returns the table for a terminal of 80 columns."""
  half = f'± {formats.format_percent(table.confidence)}'
  best = 'lower' if table.lower_is_better else 'higher'
  said = [row.label for row in table.rows if row.label != row.row]
  said += table_files.note_lines(table)
  lines = ''.join(f'{escape_name(line)}\n' for line in said)
  rendered = rich_table.Table(
    title=text.Text(f'{formats.title(table.metric)} ({best} is better)'),
    box=box.SIMPLE_HEAD,
    padding=(0, 1, 0, 0),
    pad_edge=False,
    title_justify='left',
    caption_justify='left',
    caption_style='',
    caption=text.Text.assemble(
      (lines, 'yellow'), (escape_name(table_files.explanation(table)), 'dim')
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
      NameCell(escape_name(row.row)),
      str(row.seeds),
      formats.format_number(row.mean),
      table_files.format_half(row.interval),
      table_files.format_difference(row),
      table_files.format_half(row.difference_interval),
      row.verdict or formats.MISSING,
      *(formats.format_number(row.figures.get(name)) for name in table.figures),
      style='bold' if row.is_base else '',
    )
  return rendered


def parts(table: AblationTable) -> list[console.RenderableType]:
  """Returns the parts to print: a warning, the table, and claims, if any."""
  first = claim_lines.failed_controls(table)
  found = (
    text.Text(escape_name(first), 'bold red') if first else None,
    render(table),
    render_claims(table),
  )
  return [part for part in found if part is not None]


def render_claims(table: AblationTable) -> console.Group | None:
  """Returns the verdicts on published values and controls, or None."""
  return render_parts(claim_lines.sections(table))


def render_parts(
  sections: Sequence[claim_lines.ClaimSection],
) -> console.Group | None:
  """Returns sections of verdicts under their headings, or None."""
  lines = []
  for title, stated, judged in sections:
    lines.append(text.Text(title, 'bold'))
    for own in (claim_lines.claim_text(one, stated) for one in judged):
      head = text.Text.assemble(
        escape_name(f'{own.head}: '), (own.verdict, _STYLES[own.verdict])
      )
      lines.append(padding.Padding(head, (0, 0, 0, 2)))
      for line, style in ((own.accepts, 'dim'), (own.why, 'yellow')):
        if line:
          below = text.Text(escape_name(line), style)
          lines.append(padding.Padding(below, (0, 0, 0, 4)))
  return console.Group(*lines, '') if lines else None


_STYLES: dict[PublishedVerdict | ControlVerdict, str] = {
  'reproduced': 'bold green',
  'pass': 'bold green',
  'direction only': 'bold yellow',
  'not reproduced': 'bold red',
  'fail': 'bold red',
  'undecided': 'dim',
  'not run': 'dim',
}
