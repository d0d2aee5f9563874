"""Further destinations of the log besides metrics.jsonl: values of --log_to.

An error of another package never ends a trial: it gives a warning, and the
trial continues without that sink.
"""

import csv
import dataclasses
import importlib
import io
import pathlib
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from model.core.field import FieldError, Variant, field
from train.files.durable import append_text, write_atomically
from train.files.log import LogLine, LogSink


@dataclasses.dataclass(frozen=True)
class SinkContext:
  """What a sink needs to know of its trial.

  Attributes:
    id: id of the trial.
    directory: folder of the trial, which exists.
    flags: configuration of the trial, as text by flag.
    warn: called with one line if the sink fails.
  """

  id: str
  directory: pathlib.Path
  flags: Mapping[str, str]
  warn: Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class NoSink(Variant, tag='none'):
  """Nothing beside metrics.jsonl."""

  def check(self) -> None:
    """Raises FieldError if the sink cannot be opened here."""

  def open(self, about: SinkContext) -> list[LogSink]:
    """Returns the sinks of a trial."""
    del about
    return []


@dataclasses.dataclass(frozen=True)
class CsvSink(Variant, tag='csv'):
  """metrics.csv: a column for each metric, a row for each logged step."""

  def check(self) -> None:
    """Raises FieldError if the sink cannot be opened here."""

  def open(self, about: SinkContext) -> list[LogSink]:
    """Returns the sinks of a trial."""
    return [_CsvFile(about.directory / 'metrics.csv')]


@dataclasses.dataclass(frozen=True)
class TensorBoard(Variant, tag='tensorboard'):
  """Event files for TensorBoard, written by tensorboardX."""

  def check(self) -> None:
    """Raises FieldError if the sink cannot be opened here."""
    _import_package('tensorboardX', self.tag, 'requirements.lock')

  def open(self, about: SinkContext) -> list[LogSink]:
    """Returns the sinks of a trial."""
    own = _EventFiles(about.directory / 'tensorboard')
    return [_FailSafe(self.tag, own, about.warn)]


@dataclasses.dataclass(frozen=True)
class WeightsAndBiases(Variant, tag='wandb'):
  """A run of Weights & Biases; WANDB_MODE=offline needs no account."""

  project: str = field('ablax', 'Project of the runs.')

  def check(self) -> None:
    """Raises FieldError if the sink cannot be opened here."""
    wandb = _import_package('wandb', self.tag, 'requirements-tracking.txt')
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

  def open(self, about: SinkContext) -> list[LogSink]:
    """Returns the sinks of a trial."""
    return [_FailSafe(self.tag, _WandbRun(self.project, about), about.warn)]


AnySink = NoSink | CsvSink | TensorBoard | WeightsAndBiases


def _import_package(name: str, tag: str, file: str) -> Any:
  """Imports an optional package; the error says how to install it."""
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
  """Writes metrics.csv; a metric with a new name adds a column."""

  def __init__(self, path: pathlib.Path):
    self._path = path
    self._columns: dict[str, None] = {}

  def begin(self, kept: Sequence[LogLine]) -> None:
    """Replaces the file by the lines that are kept."""
    self._columns = dict.fromkeys(name for line in kept for name in line)
    self._replace(kept)

  def write(self, lines: Sequence[LogLine]) -> None:
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
    """Does nothing: each line is written at once."""

  def _replace(self, lines: Sequence[Mapping[str, Any]]) -> None:
    head = {name: name for name in self._columns}
    write_atomically(self._path, self._text([head, *lines] if head else []))

  def _text(self, lines: Sequence[Mapping[str, Any]]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(self._columns), lineterminator='\n')
    writer.writerows(lines)
    return out.getvalue()


class _EventFiles:
  """Writes event files, and hides steps of them that are trained again."""

  def __init__(self, directory: pathlib.Path):
    self._directory = directory
    self._writer: Any = None

  def begin(self, kept: Sequence[LogLine]) -> None:
    """Opens a new file that hides the steps after the lines that are kept."""
    purge = int(kept[-1]['step'] or 0) + 1 if kept else None
    package = importlib.import_module('tensorboardX')
    self._writer = package.SummaryWriter(
      logdir=str(self._directory),
      purge_step=purge,
      # Files are named by the time in seconds: without a suffix, a file opened
      # in the same second would replace the one before.
      filename_suffix=f'.{purge or 0}',
    )

  def write(self, lines: Sequence[LogLine]) -> None:
    """Takes lines, each with its step."""
    for step, values in map(_step_and_values, lines):
      for name, value in values.items():
        self._writer.add_scalar(name, value, step)

  def close(self) -> None:
    """Flushes what is still buffered."""
    self._writer.close()


class _WandbRun:
  """Writes to a W&B run, which resumes by an id stored in the trial's folder.

  Steps that a resumed trial repeats are equal bit for bit, so W&B may drop
  those that it has already.
  """

  def __init__(self, project: str, about: SinkContext):
    self._project, self._about = project, about
    self._run: Any = None

  def begin(self, kept: Sequence[LogLine]) -> None:
    """Starts the run, or resumes it."""
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

  def write(self, lines: Sequence[LogLine]) -> None:
    """Takes lines, each with its step."""
    for step, values in map(_step_and_values, lines):
      self._run.log(values, step=step)

  def close(self) -> None:
    """Waits until W&B has everything."""
    self._run.finish()


def _step_and_values(line: LogLine) -> tuple[int, dict[str, float | int]]:
  """Returns the step of a line, and those of its metrics that are finite."""
  values = {k: v for k, v in line.items() if k != 'step' and v is not None}
  return int(line['step'] or 0), values


class _FailSafe:
  """Wraps a sink: its first error gives a warning and disables it."""

  def __init__(self, tag: str, sink: LogSink, warn: Callable[[str], None]):
    self._tag, self._sink, self._warn = tag, sink, warn
    self._failed = False

  def begin(self, kept: Sequence[LogLine]) -> None:
    """Opens the sink."""
    self._try(lambda: self._sink.begin(kept))

  def write(self, lines: Sequence[LogLine]) -> None:
    """Passes lines on."""
    self._try(lambda: self._sink.write(lines))

  def close(self) -> None:
    """Closes the sink."""
    self._try(self._sink.close)

  def _try(self, act: Callable[[], None]) -> None:
    if self._failed:
      return
    try:
      act()
    except Exception as e:
      self._failed = True
      self._warn(f'--log_to={self._tag} goes no further: {_one_line(e)}')
