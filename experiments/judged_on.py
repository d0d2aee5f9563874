"""What a table says of what its rows are judged on: targets, and bytes."""

from collections.abc import Callable

from experiments import formats
from experiments.table import RowSummary, Table


def lines(table: Table) -> list[str]:
  """Returns how many targets figures are of, and bytes where these differ."""
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


def reach(table: Table) -> list[str]:
  """Returns what verdicts do not reach, and what came after some were shown."""
  if len(table.rows) < 2:
    return []
  return ['They are over seeds, on one validation part.', *table.before]


def columns(table: Table) -> list[tuple[str, Callable[[RowSummary], str]]]:
  """Returns the columns of a written table, where the record knows of them."""
  if all(row.targets is None for row in table.rows):
    return []
  found = [('targets', lambda row: count(row.targets))]
  if any(differ(table)):
    found += [
      ('bytes of context', lambda row: count(row.context_bytes)),
      ('bytes trained on', lambda row: count(row.trained_bytes)),
    ]
  return found


def differ(table: Table) -> tuple[bool, bool]:
  """Returns whether rows differ in bytes of context, and of training."""
  context = {count(row.context_bytes) for row in table.rows if row.targets}
  trained = {count(row.trained_bytes) for row in table.rows if row.targets}
  return len(context) > 1, len(trained) > 1


def count(number: float | None) -> str:
  """Returns a number of targets or bytes."""
  return formats.count(None if number is None else round(number))


def _each(rows: list[RowSummary], texts: list[str]) -> str:
  """Returns the text of all rows, or of each."""
  if len(set(texts)) == 1:
    return f'{texts[0]} in {"each row" if len(rows) > 1 else rows[0].row}'
  return ', '.join(
    f'{row.row} {text}' for row, text in zip(rows, texts, strict=True)
  )
