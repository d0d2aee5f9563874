"""The verdicts on published values and controls, as lines of text."""

from collections.abc import Sequence
from typing import NamedTuple

from experiments.claims.published import (
  ClaimVerdict,
  ControlVerdict,
  PublishedVerdict,
)
from experiments.messages import formats
from experiments.table.table import AblationTable


class ClaimText(NamedTuple):
  """The text of a published value or a control.

  Attributes:
    head: the row, its metric, the stated and the measured number.
    verdict: the verdict.
    accepts: the rule, and the source of the number.
    why: why the verdict is not better; '' if there is no remark.
  """

  head: str
  verdict: PublishedVerdict | ControlVerdict
  accepts: str
  why: str


class ClaimSection(NamedTuple):
  """A section of the table.

  Attributes:
    title: its heading.
    stated: what its numbers are: 'published' or 'expected'.
    judged: the verdicts.
  """

  title: str
  stated: str
  judged: Sequence[ClaimVerdict]


def claim_text(judged: ClaimVerdict, stated: str) -> ClaimText:
  """Returns the text of a published value or a control.

  Args:
    judged: the verdict on it.
    stated: what its number is: 'published' or 'expected'.
  """
  head = f'{judged.row}, {formats.title(judged.metric)}: '
  numbers = []
  if judged.value is not None:
    numbers.append(f'{format_claim_number(judged.value)} {stated}')
  if judged.measured is not None:
    numbers.append(f'{format_measured(judged)} here')
  if judged.seeds:
    numbers.append(f'{judged.seeds} seed{"s" * (judged.seeds > 1)}')
  return ClaimText(
    head + ', '.join(numbers or ['nothing measured']),
    judged.verdict,
    f'accepted: {judged.accepts} ({judged.source})',
    judged.why,
  )


def format_measured(judged: ClaimVerdict) -> str:
  """Returns 'mean ± half the interval'."""
  if judged.measured is None:
    return formats.MISSING
  mean = format_claim_number(judged.measured)
  half = judged.interval
  return (
    mean if half is None else f'{mean} ± {format_claim_number(half.half())}'
  )


def format_claim_number(value: float) -> str:
  """Formats a number with four digits, or as an integer from 10,000 on."""
  return f'{value:,.0f}' if abs(value) >= 1e4 else f'{value:.4g}'


def failed_controls(table: AblationTable) -> str:
  """Returns the warning on top of a table whose controls fail, or ''."""
  rows = [own.row for own in table.controls if own.verdict == 'fail']
  if not rows:
    return ''
  many = 'Controls fail' if len(rows) > 1 else 'A control fails'
  return f'{many}, so no number of this table can be trusted: ' + (
    ', '.join(rows)
  )


def lines(table: AblationTable) -> list[str]:
  """Returns a line for each published value and control of a table."""
  return lines_of(sections(table))


def lines_of(parts: Sequence[ClaimSection]) -> list[str]:
  """Returns a line for each published value and control of the sections."""
  found = []
  for title, stated, rows in parts:
    for own in (claim_text(judged, stated) for judged in rows):
      line = '; '.join(filter(None, (own.verdict, own.accepts, own.why)))
      found.append(f'{title}: {own.head}: {line}')
  return found


def sections(table: AblationTable) -> list[ClaimSection]:
  """Returns the sections of a table that are not empty."""
  return claim_sections(table.published, table.controls)


def claim_sections(
  published: Sequence[ClaimVerdict], controls: Sequence[ClaimVerdict]
) -> list[ClaimSection]:
  """Returns the sections of published values and controls, unless empty."""
  found = [
    ClaimSection('Published values', 'published', published),
    ClaimSection('Controls', 'expected', controls),
  ]
  return [part for part in found if part.judged]
