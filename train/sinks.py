"""Where figures go besides metrics.jsonl, as values of --log_to.

What other packages do wrong never ends a trial: it is warned of, and the trial
goes on without that sink.
"""

import csv
import dataclasses
import importlib
import io
import pathlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from model.field import FieldError, Variant, field
from train.files import append_text, write_atomically
from train.log import Line, Sink


@dataclasses.dataclass(frozen=True)
class About:
  """The trial that a sink is opened for.

  Attributes:
    id: of the trial.
    directory: its own, which is there.
    flags: its configuration.
    warn: called with one line if the sink fails.
  """

  id: str
  directory: pathlib.Path
  flags: Mapping[str, str]
  warn: Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Nowhere(Variant, tag='none'):
  """Nothing beside metrics.jsonl."""

  def check(self) -> None:
    """Raises FieldError if the sink cannot be opened here."""

  def open(self, about: About) -> list[Sink]:
    """Returns the sinks of a trial."""
    del about
    return []


@dataclasses.dataclass(frozen=True)
class Csv(Variant, tag='csv'):
  """metrics.csv: a column for each figure, a row for each line."""

  def check(self) -> None:
    """Raises FieldError if the sink cannot be opened here."""

  def open(self, about: About) -> list[Sink]:
    """Returns the sinks of a trial."""
    return [_CsvFile(about.directory / 'metrics.csv')]


@dataclasses.dataclass(frozen=True)
class TensorBoard(Variant, tag='tensorboard'):
  """Event files that TensorBoard reads, by tensorboardX."""

  def check(self) -> None:
    """Raises FieldError if the sink cannot be opened here."""
    _package('tensorboardX', self.tag, 'requirements.lock')

  def open(self, about: About) -> list[Sink]:
    """Returns the sinks of a trial."""
    own = _Events(about.directory / 'tensorboard')
    return [_Guarded(self.tag, own, about.warn)]


@dataclasses.dataclass(frozen=True)
class WeightsAndBiases(Variant, tag='wandb'):
  """A run of Weights & Biases; WANDB_MODE=offline needs no account."""

  project: str = field('ablax', 'Project of the runs.')

  def check(self) -> None:
    """Raises FieldError if the sink cannot be opened here."""
    wandb = _package('wandb', self.tag, 'requirements-tracking.txt')
    try:
      ready = wandb.setup().settings.mode != 'online' or wandb.login(
        prompt=False
      )
    except Exception as e:
      raise FieldError(
        'log_to',
        self.tag,
        f'{_one_line(e)}; WANDB_MODE=offline needs no network',
      ) from e
    if not ready:
      raise FieldError(
        'log_to',
        self.tag,
        'has no account here: run wandb login, or set WANDB_MODE=offline',
      )

  def open(self, about: About) -> list[Sink]:
    """Returns the sinks of a trial."""
    return [_Guarded(self.tag, _WandbRun(self.project, about), about.warn)]


Destination = Nowhere | Csv | TensorBoard | WeightsAndBiases


def _package(name: str, tag: str, file: str) -> Any:
  """Returns an optional package, or refuses with how to install it."""
  try:
    return importlib.import_module(name)
  except ImportError as e:
    raise FieldError(
      'log_to', tag, f'needs {name}: pip install -r {file}'
    ) from e


def _one_line(error: Exception) -> str:
  """Returns the type and the first line of an error."""
  first = (str(error).splitlines() or [''])[0]
  return f'{type(error).__name__}: {first}'[:200]


class _CsvFile:
  """metrics.csv, which a figure of a new name gives one more column."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._columns: dict[str, None] = {}

  def begin(self, kept: Sequence[Line]) -> None:
    """Replaces the file by these lines."""
    self._columns = dict.fromkeys(name for line in kept for name in line)
    self._replace(kept)

  def write(self, lines: Sequence[Line]) -> None:
    """Appends lines."""
    names = dict.fromkeys(name for line in lines for name in line)
    if names.keys() <= self._columns.keys():
      append_text(self._path, self._text(lines))
      return
    self._columns |= names
    with self._path.open(newline='') as f:
      before = list(csv.DictReader(f))
    self._replace([*before, *lines])

  def close(self) -> None:
    """Nothing is held back."""

  def _replace(self, lines: Sequence[Mapping[str, Any]]) -> None:
    head = {name: name for name in self._columns}
    write_atomically(self._path, self._text([head, *lines] if head else []))

  def _text(self, lines: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(self._columns), lineterminator='\n')
    writer.writerows(lines)
    return out.getvalue()


class _Events:
  """Event files, purged of what will come again."""

  def __init__(self, directory: pathlib.Path):
    self._directory = directory
    self._writer: Any = None

  def begin(self, kept: Sequence[Line]) -> None:
    """Opens a file that hides the steps after these lines."""
    purge = int(kept[-1]['step'] or 0) + 1 if kept else None
    package = importlib.import_module('tensorboardX')
    self._writer = package.SummaryWriter(
      logdir=str(self._directory),
      purge_step=purge,
      # Files are named by the second, and the second one of it would replace
      # the first.
      filename_suffix=f'.{purge or 0}',
    )

  def write(self, lines: Sequence[Line]) -> None:
    """Takes lines, each with its step."""
    for step, values in map(_finite, lines):
      for name, value in values.items():
        self._writer.add_scalar(name, value, step)

  def close(self) -> None:
    """Writes what is still held back."""
    self._writer.close()


class _WandbRun:
  """A run that goes on under its id, which lies beside it.

  What an interrupted trial does twice is equal bit for bit, so that W&B may
  drop the steps that it has.
  """

  def __init__(self, project: str, about: About):
    self._project, self._about = project, about
    self._run: Any = None

  def begin(self, kept: Sequence[Line]) -> None:
    """Opens the run, or goes on with it."""
    del kept
    wandb = importlib.import_module('wandb')
    about = self._about
    name = about.directory / 'wandb' / 'id'
    if not name.exists():
      name.parent.mkdir(exist_ok=True)
      write_atomically(name, uuid.uuid4().hex[:12])
    self._run = wandb.init(
      project=self._project,
      id=name.read_text(),
      name=about.id,
      group=about.directory.parent.parent.name,
      dir=str(about.directory),
      config=dict(about.flags),
      resume='allow',
      reinit='create_new',  # several trials run side by side
      settings=wandb.Settings(silent=True, console='off', init_timeout=30),
    )

  def write(self, lines: Sequence[Line]) -> None:
    """Takes lines, each with its step."""
    for step, values in map(_finite, lines):
      self._run.log(values, step=step)

  def close(self) -> None:
    """Waits for what is still held back."""
    self._run.finish()


def _finite(line: Line) -> tuple[int, dict[str, float | int]]:
  """Returns the step of a line, and its figures that are numbers."""
  values = {k: v for k, v in line.items() if k != 'step' and v is not None}
  return int(line['step'] or 0), values


class _Guarded:
  """A sink that is given up, with a warning, at the first thing it raises."""

  def __init__(self, tag: str, sink: Sink, warn: Callable[[str], None]):
    self._tag, self._sink, self._warn = tag, sink, warn
    self._given_up = False

  def begin(self, kept: Sequence[Line]) -> None:
    """Opens the sink."""
    self._try(lambda: self._sink.begin(kept))

  def write(self, lines: Sequence[Line]) -> None:
    """Passes lines on."""
    self._try(lambda: self._sink.write(lines))

  def close(self) -> None:
    """Closes the sink."""
    self._try(self._sink.close)

  def _try(self, act: Callable[[], None]) -> None:
    if self._given_up:
      return
    try:
      act()
    except Exception as e:
      self._given_up = True
      self._warn(f'--log_to={self._tag} goes no further: {_one_line(e)}')
