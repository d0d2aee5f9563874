"""What a run says on the terminal: a live line, or plain lines in a file."""

import sys

from rich.console import Console
from rich.progress import (
  BarColumn,
  Progress,
  TaskProgressColumn,
  TextColumn,
  TimeRemainingColumn,
)
from rich.table import Table

from experiments.shown import shown
from experiments.streams import warn
from train.trial import Progress as Figures


class Terminal:
  """Shows steps, loss, tokens a second and the time left of all trials."""

  def __init__(self, trials: int, steps: int):
    """Begins to count trials, and their steps, up to these totals."""
    self._console = Console(file=sys.stdout)
    self._live = self._console.is_terminal
    self._bar = Progress(
      TextColumn('{task.description}', markup=False),
      BarColumn(bar_width=12),
      TaskProgressColumn(),
      TextColumn('{task.fields[figures]}', markup=False),
      TimeRemainingColumn(compact=True),
      console=self._console,
      disable=not self._live,
      transient=True,
    )
    self._task = self._bar.add_task('', total=steps, figures='')
    self._trials, self._ended, self._done = trials, 0, 0

  def __enter__(self) -> 'Terminal':
    self._bar.start()
    return self

  def __exit__(self, *_: object) -> None:
    self._bar.stop()

  def say(self, text: str) -> None:
    """Prints a line above the live one."""
    self._console.print(
      shown(text), highlight=False, markup=False, soft_wrap=True
    )

  def show(self, table: Table) -> None:
    """Prints a table."""
    self._console.print(table)

  def warn(self, text: str) -> None:
    """Prints a warning to stderr."""
    warn(f'warning: {text}')

  def begin(self, name: str) -> None:
    """A trial begins."""
    self._bar.update(
      self._task, description=f'{shown(name)[:24]:24}', figures='compiling'
    )

  def advance(self, figures: Figures) -> None:
    """A trial has come further."""
    self._bar.update(
      self._task,
      completed=self._done + figures.step,
      figures=(
        f'{figures.step}/{figures.steps} loss {figures.loss:.3f} '
        f'{figures.tokens_per_second / 1000:.1f}k tok/s'
      ),
    )

  def end(self, steps: int, text: str) -> None:
    """A trial has ended; `steps` of the total are settled."""
    self._done += steps
    self._ended += 1
    self._bar.update(self._task, completed=self._done)
    self.say(f'[{self._ended}/{self._trials}] {text}')
