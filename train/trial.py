"""The inputs and outputs of a trial."""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from model.core.field import FieldError, Record, field
from model.core.limits import COUNT, REAL
from model.core.parameter import Params
from train.config.config import Config
from train.files.sinks import AnySink, NoSink
from train.host_feed import Feeding
from train.tasks.base import Data


@dataclasses.dataclass(frozen=True)
class Options(Record):
  """Options: how trials run, without effect on their results."""

  devices: int | None = field(
    None,
    'Devices that share each batch; `none` leaves it to --lanes.',
    min=1,
    max=COUNT,
  )
  lanes: str | None = field(
    None,
    'How trials lie on devices: shared:N (N share each batch), devices:N (a '
    'trial on each), vmap:N, map:N, devices:N,vmap:M; `none` chooses, and '
    'times layouts where that pays; `measured` times them whatever it takes.',
  )
  feed: Feeding | None = field(
    None,
    'Where the data lie: on the device, or on the host, which reads the rows '
    'of each step itself or with grain; `none` is host for a text larger than '
    'a quarter of the memory of the device.',
  )
  repeatable: bool = field(
    True,
    'On GPUs, only kernels that give the same bits in each run, and none by '
    'timing; `false` may be faster. On a CPU bits are the same anyway.',
  )
  checkpoint_seconds: float = field(
    30.0, 'Seconds between checkpoints.', min=0.0, max=REAL
  )
  keep_checkpoints: int = field(
    2, 'Last checkpoints to keep, besides the best one.', min=1, max=COUNT
  )
  keep_every: int | None = field(
    None,
    'Steps between further checkpoints to keep, from step 0 on.',
    min=1,
    max=COUNT,
  )
  log_every: int = field(
    10, 'Steps between lines of metrics.jsonl.', min=1, max=COUNT
  )
  log_to: tuple[AnySink, ...] = field(
    (NoSink(),), 'Where metrics go besides metrics.jsonl, a list:'
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields errors of fields that do not go together."""
    tags = [destination.tag for destination in self.log_to]
    if len(set(tags)) < len(tags):
      yield FieldError('log_to', self.log_to, 'must name each sink once')
    if 'none' in tags and len(tags) > 1:
      yield FieldError(
        'log_to', self.log_to, 'none has no effect beside another: drop it'
      )


@dataclasses.dataclass(frozen=True)
class Trial:
  """One run to train: a configuration with one seed, its data and folder.

  Attributes:
    id: digest of the configuration, seed and data.
    config: the configuration.
    directory: folder of its files.
    data: to train and evaluate on.
    initial: initial parameters, or None to draw them.
    pause: step to stop and save at; training may continue later.
    row: name of its row in the table, for messages.
  """

  id: str
  config: Config
  directory: pathlib.Path
  data: Data
  initial: Params | None = None
  pause: int | None = None
  row: str = ''


class Progress(NamedTuple):
  """The progress of running trials, as the terminal shows it."""

  step: int
  steps: int
  loss: float
  tokens_per_second: float


class Interrupted(Exception):
  """Training was asked to stop, and has saved its state."""


class TrialsFailed(Exception):
  """An error while several trials ran, any of which may have caused it.

  Attributes:
    error: the error.
    unfinished: the trials that had begun but not ended.
    num_begun: how many had begun, including those that ended.
  """

  def __init__(
    self, error: Exception, unfinished: Sequence[Trial], num_begun: int
  ):
    super().__init__(f'{type(error).__name__}: {error}')
    self.error, self.unfinished = error, unfinished
    self.num_begun = num_begun


# Metrics by name; None where a number is not finite.
MetricValues = dict[str, float | int | None]
# Sums at each position of an example, by name.
PositionSums = dict[str, list[float | None]]


@dataclasses.dataclass
class TrialNotes:
  """Bookkeeping of a trial besides its state, saved in each checkpoint.

  Attributes:
    seconds: spent on the trial in all its runs.
    compile_seconds: of these, before the first step could run.
    train_seconds: of these, in training steps.
    compiled: seconds in which programs were compiled or loaded, as
      `Compilations.take` names them.
    train_loss: loss of the last step.
    last_eval: metrics of the last evaluation.
    extent: number of targets, and bytes, that these metrics cover.
    by_position: sums of the evaluation at the last step, if the task keeps
      them (see `evaluation.sums_by_position`).
    code: the code that trained it (see `train.config.code_digest`).
    best_val_loss: the lowest so far.
    best_step: the step of the lowest validation loss.
  """

  seconds: float = 0.0
  compile_seconds: float = 0.0
  train_seconds: float = 0.0
  compiled: dict[str, float] = dataclasses.field(default_factory=dict)
  train_loss: float | None = None
  last_eval: MetricValues = dataclasses.field(default_factory=dict)
  extent: MetricValues = dataclasses.field(default_factory=dict)
  by_position: PositionSums = dataclasses.field(default_factory=dict)
  code: dict[str, Any] = dataclasses.field(default_factory=dict)
  best_val_loss: float | None = None
  best_step: int | None = None


class Result(NamedTuple):
  """The result of a trial.

  Attributes:
    status: whether it finished, diverged or paused.
    metrics: final metrics, a function of the configuration alone.
    clock: seconds spent, by purpose.
    steps: number of steps done.
    tokens: number of tokens trained on.
    digest: of the parameters that are evaluated and that `load` returns: with
      --average, the average.
    code: the code that trained it.
    parameters: number of parameters.
    by_position: sums by position, as in `TrialNotes`.
  """

  status: Literal['ok', 'diverged', 'paused']
  metrics: MetricValues
  clock: dict[str, float]
  steps: int
  tokens: int
  digest: str
  code: dict[str, Any]
  parameters: int
  by_position: PositionSums


class Failure(NamedTuple):
  """The result of a trial that raised an error, given in one line."""

  status: Literal['failed']
  error: str


TrialOutcome = Result | Failure


class TrialListener(Protocol):
  """Receives the events of trials, and decides whether they continue."""

  def begin(self, trial: Trial) -> None:
    """Called when a trial begins or resumes."""
    ...

  def progress(self, figures: Progress) -> None:
    """Called when the running trials have made progress."""
    ...

  def end(self, trial: Trial, outcome: TrialOutcome) -> None:
    """Called when a trial has ended, with a result or an error."""
    ...

  def warn(self, text: str) -> None:
    """Called for a problem that stops no trial."""
    ...

  def stop_requested(self) -> bool:
    """Returns whether to save and stop."""
    ...
