"""Paragraphs for a terminal, at its width, or for a pipe, at 80 columns.

No line ends in spaces, so that piped output can be compared and searched.
"""

import re
import shutil
import sys
import textwrap

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.text import Text

PIPED = 80
HANGING = 2  # further indent of continued lines
_PART = re.compile(r'[^ .=,]+[ .=,]*|[ .=,]+')  # of the name of a row


class NameCell:
  """The name of a row in a table, with line breaks between its flags.

  A flag that is wider than the column is broken after '.', '=' or ',' if that
  helps, and else anywhere.
  """

  def __init__(self, name: str):
    """Takes a name without line breaks."""
    self._name = name

  def __rich_console__(
    self, console: Console, options: ConsoleOptions
  ) -> RenderResult:
    lines = ['']
    for word in re.findall(r'[^ ]* *', self._name):
      whole = cell_len(word.rstrip()) <= options.max_width
      for part in [word] if whole else _PART.findall(word):
        if cell_len(lines[-1] + part.rstrip()) > options.max_width:
          lines.append('')
        lines[-1] += part
    yield Text('\n'.join(line.rstrip() for line in lines if line))

  def __rich_measure__(
    self, console: Console, options: ConsoleOptions
  ) -> Measurement:
    parts = [cell_len(part.rstrip()) for part in _PART.findall(self._name)]
    size = Measurement(max(parts, default=0), cell_len(self._name))
    return size.clamp(max_width=options.max_width)


class Page:
  """Prints indented paragraphs, with line breaks between words."""

  def __init__(self) -> None:
    wide = shutil.get_terminal_size((PIPED, 24)).columns
    self._width = max(40, wide) if sys.stdout.isatty() else PIPED
    self._console = Console(highlight=False, width=self._width, soft_wrap=True)

  def line(
    self, text: str, indent: int = 0, style: str = '', head: str = ''
  ) -> None:
    """Prints a paragraph.

    Args:
      text: the paragraph, without line breaks.
      indent: of its first line; with `head`, other lines are deeper.
      style: of the whole paragraph.
      head: beginning of the text, to be highlighted.
    """
    deeper = indent + (HANGING if head else 0)
    lines = textwrap.wrap(
      text,
      self._width,
      initial_indent=' ' * indent,
      subsequent_indent=' ' * deeper,
      break_on_hyphens=False,
      break_long_words=False,
    )
    for number, shown in enumerate(lines):
      styled = Text(shown, style=style)
      if head and not number:
        styled.stylize('cyan', indent, indent + len(head))
      self._console.print(styled)

  def raw(self, text: str) -> None:
    """Prints lines unwrapped, without trailing spaces."""
    for shown in text.splitlines():
      self._console.print(Text(shown.rstrip()))

  def gap(self) -> None:
    """Prints an empty line."""
    self._console.print()
