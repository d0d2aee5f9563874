"""What goes into a trial and what comes out of it."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

from model.field import FieldError, Record, field
from model.limits import COUNT, REAL
from train.config import Config
from train.feed import Feeding
from train.sinks import Destination, Nowhere
from train.step import Params
from train.task import Data


@dataclasses.dataclass(frozen=True)
class Options(Record):
  """Options: how trials run; their numbers do not depend on these."""

  devices: int | None = field(
    None,
    'Devices that share each batch; none is as --lanes says.',
    min=1,
    max=COUNT,
  )
  lanes: str | None = field(
    None,
    'How trials lie on devices: shared:N (N share each batch), devices:N (a '
    'trial on each), vmap:N, map:N, devices:N,vmap:M; none measures.',
  )
  feed: Feeding | None = field(
    None,
    'Where the data lie: device, or host, which reads the rows of each step, '
    'or has grain read them; none is host for a text of a quarter of the '
    'device.',
  )
  checkpoint_seconds: float = field(
    30.0, 'Seconds between checkpoints.', min=0.0, max=REAL
  )
  keep_checkpoints: int = field(
    2, 'Last checkpoints that stay, beside the best.', min=1, max=COUNT
  )
  log_every: int = field(
    10, 'Steps between lines of metrics.jsonl.', min=1, max=COUNT
  )
  log_to: tuple[Destination, ...] = field(
    (Nowhere(),), 'Where figures go besides metrics.jsonl, a list:'
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields what is wrong between fields."""
    tags = [destination.tag for destination in self.log_to]
    if len(set(tags)) < len(tags):
      yield FieldError('log_to', self.log_to, 'must name each sink once')
    if 'none' in tags and len(tags) > 1:
      yield FieldError(
        'log_to', self.log_to, 'none has no effect beside another: drop it'
      )


@dataclasses.dataclass(frozen=True)
class Trial:
  """One configuration with one seed, and where it lies.

  `pause` is a step to stop at and save, from which it may go on later.
  """

  id: str
  config: Config
  directory: pathlib.Path
  data: Data
  initial: Params | None = None
  pause: int | None = None


class Progress(NamedTuple):
  """What a terminal shows while a trial runs."""

  step: int
  steps: int
  loss: float
  tokens_per_second: float


@dataclasses.dataclass(frozen=True)
class Hooks:
  """What the loop tells and asks its caller."""

  progress: Callable[[Progress], None]
  ended: Callable[[Trial, 'Result'], None]
  warn: Callable[[str], None]
  stop_requested: Callable[[], bool]


class Interrupted(Exception):
  """The trial was asked to stop, and has saved."""


# Figures by name; none where a number is not finite.
Figures = dict[str, float | int | None]
# Sums at each position of an example, by name.
Positions = dict[str, list[float | None]]


@dataclasses.dataclass
class Notes:
  """What the loop knows of a trial beside its state; saved with it.

  Attributes:
    seconds: spent on the trial, over all its interruptions.
    compile_seconds: of these, until the first step could run.
    train_seconds: of these, in steps.
    train_loss: of the last step.
    last_eval: figures of the last evaluation.
    extent: of how many targets these are.
    by_position: sums of the evaluation at the last step, where the task keeps
      them (see `evaluation.by_position`).
    code: what it has run (see `train.code`).
    best_val_loss: the lowest so far.
    best_step: where it was.
  """

  seconds: float = 0.0
  compile_seconds: float = 0.0
  train_seconds: float = 0.0
  train_loss: float | None = None
  last_eval: Figures = dataclasses.field(default_factory=dict)
  extent: Figures = dataclasses.field(default_factory=dict)
  by_position: Positions = dataclasses.field(default_factory=dict)
  code: dict[str, Any] = dataclasses.field(default_factory=dict)
  best_val_loss: float | None = None
  best_step: int | None = None


class Result(NamedTuple):
  """What a trial came to; `metrics` are a function of the configuration.

  `digest` is that of the parameters that are evaluated, and that `load` gives:
  with --average those of the average.  `code` is that which trained it.
  """

  status: Literal['ok', 'diverged', 'paused']
  metrics: Figures
  clock: dict[str, float]
  steps: int
  tokens: int
  digest: str
  code: dict[str, Any]
  parameters: int
  by_position: Positions
