"""The evaluation targets and text bytes of rows, as a table reports them."""

from collections.abc import Callable

from experiments.messages import formats
from experiments.table.table import AblationTable, RowSummary


def lines(table: AblationTable) -> list[str]:
  """Returns sentences on the targets, and on the bytes if rows differ."""
  known = [row for row in table.rows if row.targets is not None]
  if not known:
    return []
  found = [f'Targets: {_each(known, [count(row.targets) for row in known])}.']
  if any(differ(table)):
    texts = [
      f'{count(row.context_bytes)} and {count(row.trained_bytes)}'
      for row in known
    ]
    found.append(
      f'Bytes of context and bytes trained on, about: {_each(known, texts)}.'
    )
  return found


def verdict_limits(table: AblationTable) -> list[str]:
  """Returns sentences on the limits of the verdicts."""
  if len(table.rows) < 2:
    return []
  return ['Verdicts hold over seeds, on one validation set.', *table.before]


def columns(
  table: AblationTable,
) -> list[tuple[str, Callable[[RowSummary], str]]]:
  """Returns the (title, cell) columns of targets and bytes, if recorded."""
  if all(row.targets is None for row in table.rows):
    return []
  found = [('targets', lambda row: count(row.targets))]
  if any(differ(table)):
    found += [
      ('bytes of context', lambda row: count(row.context_bytes)),
      ('bytes trained on', lambda row: count(row.trained_bytes)),
    ]
  return found


def differ(table: AblationTable) -> tuple[bool, bool]:
  """Returns whether rows differ in bytes of context, and of training."""
  context = {count(row.context_bytes) for row in table.rows if row.targets}
  trained = {count(row.trained_bytes) for row in table.rows if row.targets}
  return len(context) > 1, len(trained) > 1


def count(number: float | None) -> str:
  """Formats a number of targets or bytes."""
  return formats.format_count(None if number is None else round(number))


def _each(rows: list[RowSummary], texts: list[str]) -> str:
  """Returns one text for all rows if equal, else one per row."""
  if len(set(texts)) == 1:
    return f'{texts[0]} in {"each row" if len(rows) > 1 else rows[0].row}'
  return ', '.join(
    f'{row.row} {text}' for row, text in zip(rows, texts, strict=True)
  )
