"""The training loop: the one impure file between a trial and its result.

It makes the run directory, resumes, dispatches chunks of steps, evaluates,
logs and saves.  What it computes does not depend on when it was interrupted or
on how long its chunks are.
"""

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from model.field import Record, field, split
from train.checkpoint import Checkpoints
from train.config import Config
from train.files import digest, write_json
from train.log import Log, Sink, TensorBoard
from train.optimizer import flat
from train.parallel import Devices, to_host
from train.program import CAPACITY, Program, numbers, program
from train.schema import to_flags
from train.step import Params, State, init_state
from train.task import Data

CHUNK_SECONDS = 0.5  # how long the host waits for the devices at a time
MAP_TOKENS = 64  # attention maps are kept for this many tokens


@dataclasses.dataclass(frozen=True)
class Options(Record):
  """How a trial is run; what its numbers do not depend on."""

  devices: int | None = field(
    None, 'Devices that share a batch; none is 1 on a CPU, else all.', min=1
  )
  checkpoint_seconds: float = field(
    30.0, 'Seconds between checkpoints.', min=0.0
  )
  keep_checkpoints: int = field(
    2, 'Last checkpoints that stay, beside the best.', min=1
  )
  log_every: int = field(10, 'Steps between lines of metrics.jsonl.', min=1)
  tensorboard: bool = field(False, 'Also write TensorBoard event files.')


@dataclasses.dataclass(frozen=True)
class Trial:
  """One configuration with one seed, and where it lies."""

  id: str
  config: Config
  directory: pathlib.Path
  data: Data
  initial: Params | None = None


class Progress(NamedTuple):
  """What a terminal shows while a trial runs."""

  step: int
  steps: int
  loss: float
  tokens_per_second: float


class Result(NamedTuple):
  """What a trial came to; `metrics` are a function of the configuration."""

  status: Literal['ok', 'diverged']
  metrics: dict[str, float | int | None]
  clock: dict[str, float]
  steps: int
  tokens: int
  digest: str
  parameters: int


class Interrupted(Exception):
  """The trial was asked to stop, and has saved."""


@dataclasses.dataclass(frozen=True)
class Hooks:
  """What the loop tells and asks its caller."""

  progress: Callable[[Progress], None]
  warn: Callable[[str], None]
  stop_requested: Callable[[], bool]


@dataclasses.dataclass
class Clock:
  """Seconds that a trial took, over all its interruptions."""

  seconds: float = 0.0
  compile_seconds: float = 0.0
  train_seconds: float = 0.0


@dataclasses.dataclass
class Best:
  """The best evaluation so far."""

  val_loss: float | None = None
  step: int | None = None


class _Session:
  """A trial while it runs: its program, state, files and clock."""

  def __init__(
    self, trial: Trial, options: Options, devices: Devices, hooks: Hooks
  ):
    self.trial, self.options, self.devices = trial, options, devices
    self.hooks, self.config = hooks, trial.config
    self.clock, self.best = Clock(), Best()
    self.last_eval: dict[str, float | int | None] = {}
    self.train_loss: float | None = None
    self.started = self.saved = time.monotonic()
    self.steps_per_chunk = 1
    dims = self.config.dims(trial.data.vocabulary.size)
    static, values = split(self.config)
    assert isinstance(static, Config)
    available = self.config.task.evaluation_size(
      trial.data.arrays, self.config.seq_len
    )
    self.program: Program = program(
      static,
      dims,
      min(available, self.config.eval_examples or available),
      devices,
    )
    self.values = devices.place(numbers(values))
    self.arrays = devices.place(dict(trial.data.arrays))
    self.checkpoints = Checkpoints(
      trial.directory / 'checkpoints', options.keep_checkpoints, hooks.warn
    )
    fresh = to_host(init_state(self.config, dims, trial.initial))
    self.state: State = devices.place(self._resume(fresh))
    self.log = Log(trial.directory / 'metrics.jsonl', self.step, self._sinks())

  @property
  def step(self) -> int:
    """Returns how many steps are done."""
    return int(self.state.step.addressable_data(0))

  @property
  def diverged(self) -> int:
    """Returns the step whose loss was not finite, else -1."""
    return int(self.state.diverged.addressable_data(0))

  def _sinks(self) -> list[Sink]:
    if not self.options.tensorboard:
      return []
    return [TensorBoard(self.trial.directory / 'tensorboard')]

  def _resume(self, fresh: State) -> State:
    restored = self.checkpoints.restore(fresh)
    if restored is None:
      return fresh
    extra = restored.extra
    self.clock = Clock(**extra['clock'])
    self.best = Best(**extra['best'])
    self.last_eval = extra['last_eval']
    self.train_loss = extra['train_loss']
    return restored.tree

  def save(self, best: bool = False) -> None:
    """Starts to save the state, and what the loop knows; once a step."""
    if self.step in self.checkpoints.steps():
      return
    self._tick()
    extra = {
      'clock': dataclasses.asdict(self.clock),
      'best': dataclasses.asdict(self.best),
      'last_eval': self.last_eval,
      'train_loss': self.train_loss,
    }
    self.checkpoints.save(
      self.step,
      to_host(self.state),
      extra,
      self.best.val_loss if best else None,
    )
    self.saved = time.monotonic()

  def _tick(self) -> None:
    now = time.monotonic()
    self.clock.seconds += now - self.started
    self.started = now

  def compile(self) -> None:
    """Compiles the step: a chunk of no steps changes nothing."""
    start = time.monotonic()
    self.state, _ = self.program.chunk(
      self.state, self.values, self.arrays, np.int32(self.step)
    )
    jax.block_until_ready(self.state.step)
    self.clock.compile_seconds += time.monotonic() - start

  def next_stop(self) -> int:
    """Returns the step at which the host looks again."""
    every = self.config.eval_every
    evaluation = (self.step // every + 1) * every
    chunk = self.step + self.steps_per_chunk
    return min(chunk, evaluation, self.config.steps)

  def advance(self) -> None:
    """Runs one chunk and logs it."""
    first, stop = self.step, self.next_stop()
    start = time.monotonic()
    self.state, metrics = self.program.chunk(
      self.state, self.values, self.arrays, np.int32(stop)
    )
    host = to_host(metrics)
    seconds = time.monotonic() - start
    self.clock.train_seconds += seconds
    per_step = seconds / (stop - first)
    fit = int(CHUNK_SECONDS / max(per_step, 1e-9))
    self.steps_per_chunk = max(1, min(CAPACITY, fit))
    done = stop - first if self.diverged < 0 else self.diverged - first + 1
    lines = [
      {'step': step + 1}
      | {
        name: finite(values[step - first])
        for name, values in host._asdict().items()
      }
      for step in range(first, first + done)
      if (step + 1) % self.options.log_every == 0 or step == self.diverged
    ]
    self.train_loss = finite(host.loss[done - 1])
    self.log.write(lines)
    tokens = self.config.batch_size * self.config.seq_len
    self.hooks.progress(
      Progress(
        stop, self.config.steps, float(host.loss[done - 1]), tokens / per_step
      )
    )

  def evaluate(self) -> bool:
    """Evaluates on the validation part; returns whether it is the best."""
    sums = to_host(
      self.program.evaluate(self.state.params, self.values, self.arrays)
    )
    loss = float(sums.loss / sums.count)
    self.last_eval = {
      'val_loss': finite(loss),
      'val_accuracy': float(sums.correct / sums.count),
    }
    self.log.write([{'step': self.step, **self.last_eval}])
    if self.best.val_loss is not None and not loss < self.best.val_loss:
      return False
    self.best = Best(loss, self.step)
    return True

  def result(self) -> Result:
    """Returns what the trial came to."""
    self._tick()
    metrics: dict[str, float | int | None] = {
      **self.last_eval,
      'best_val_loss': self.best.val_loss,
      'best_step': self.best.step,
      'train_loss': self.train_loss,
    }
    if self.diverged >= 0:
      metrics['diverged_at'] = self.diverged
    params = to_host(self.state.params)
    steps = self.step if self.diverged < 0 else self.diverged
    return Result(
      status='ok' if self.diverged < 0 else 'diverged',
      metrics=metrics,
      clock={k: round(v, 3) for k, v in dataclasses.asdict(self.clock).items()},
      steps=steps,
      tokens=steps * self.config.batch_size * self.config.seq_len,
      digest=digest(params),
      parameters=sum(int(p.size) for p in flat(params).values()),
    )

  def write_attention(self) -> None:
    """Keeps the attention maps of the first validation example."""
    tokens = self.trial.data.arrays['validation']
    tokens_1T = tokens[None, : min(MAP_TOKENS, self.config.seq_len)]
    params = to_host(self.state.params)
    maps = self.program.weights(
      params, to_host(self.values), tokens_1T.astype(np.int32)
    )
    np.savez_compressed(
      self.trial.directory / 'attention.npz',
      weights_LNTS=np.asarray(maps[:, 0], np.float16),
      tokens_T=tokens_1T[0],
    )


def run(
  trial: Trial, options: Options, devices: Devices, hooks: Hooks
) -> Result:
  """Trains a trial from where it stands to its end, and returns its result.

  Raises:
    Interrupted: `hooks.stop_requested()` came true; the state is saved.
    OSError: the disk is full or cannot be written.
  """
  trial.directory.mkdir(parents=True, exist_ok=True)
  write_json(trial.directory / 'config.json', description(trial))
  session = _Session(trial, options, devices, hooks)
  try:
    _train(session)
    session.save()
    session.write_attention()
    return session.result()
  finally:
    session.log.close()
    session.checkpoints.wait()
    session.checkpoints.close()


def _train(session: _Session) -> None:
  """Runs chunks until the last step, a divergence or an interruption."""
  config, options = session.config, session.options
  if session.step < config.steps and session.diverged < 0:
    session.compile()
  while session.step < config.steps and session.diverged < 0:
    if session.hooks.stop_requested():
      session.save()
      raise Interrupted
    session.advance()
    if session.diverged >= 0:
      return
    at_end = session.step == config.steps
    best = False
    if at_end or session.step % config.eval_every == 0:
      best = session.evaluate()
    due = time.monotonic() - session.saved >= options.checkpoint_seconds
    if best or (due and not at_end):
      session.save(best)


def description(trial: Trial) -> dict[str, Any]:
  """Returns what `load` needs to rebuild a trial."""
  vocabulary = trial.data.vocabulary
  return {
    'trial': trial.id,
    'flags': to_flags(trial.config),
    'data': trial.data.digest,
    'vocabulary': dataclasses.asdict(vocabulary),
  }


def finite(value: Any) -> float | None:
  """Returns a number, or none where JSON has no word for it."""
  return float(value) if math.isfinite(value) else None
