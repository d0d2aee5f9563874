"""Progress of a run: a live line on a terminal, or plain lines in a file."""

import sys

from rich.console import Console, RenderableType
from rich.progress import (
  BarColumn,
  Progress,
  TaskProgressColumn,
  TextColumn,
  TimeRemainingColumn,
)

from experiments.messages.escapes import escape_name
from experiments.messages.streams import warn
from train.trial import Progress as Figures


class Terminal:
  """Shows steps, loss, tokens per second and remaining time of all trials."""

  def __init__(self, trials: int, steps: int):
    """Starts the count at 0, of these totals of trials and steps."""
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
    """Prints a line above the live line."""
    self._console.print(
      escape_name(text), highlight=False, markup=False, soft_wrap=True
    )

  def show(self, table: RenderableType) -> None:
    """Prints a table."""
    self._console.print(table)

  def warn(self, text: str) -> None:
    """Prints a warning to stderr."""
    warn(f'warning: {text}')

  def begin(self, name: str) -> None:
    """Shows that a trial begins."""
    self._bar.update(
      self._task,
      description=f'{escape_name(name)[:24]:24}',
      figures='compiling',
    )

  def advance(self, figures: Figures) -> None:
    """Shows progress of the running trials."""
    self._bar.update(
      self._task,
      completed=self._done + figures.step,
      figures=(
        f'{figures.step}/{figures.steps} loss {figures.loss:.3f} '
        f'{figures.tokens_per_second / 1000:.1f}k tok/s'
      ),
    )

  def end(self, steps: int, text: str) -> None:
    """Prints a line on a trial that ended; `steps` of the total are done."""
    self._done += steps
    self._ended += 1
    self._bar.update(self._task, completed=self._done)
    self.say(f'[{self._ended}/{self._trials}] {text}')
