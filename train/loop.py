"""The training loop: the one impure file between a trial and its result.

It makes the run directory, resumes, dispatches chunks of steps, evaluates,
logs and saves.  What it computes does not depend on when it was interrupted or
on how long its chunks are.
"""

import dataclasses
import math
import time
from typing import Any

import numpy as np

from train.checkpoint import Checkpoints
from train.files import digest, write_json
from train.log import Log, TensorBoard
from train.optimizer import flat
from train.parallel import Devices, to_host
from train.program import CAPACITY, program, signature
from train.schema import to_flags
from train.step import Metrics, State, init_state
from train.trial import (
  Figures,
  Hooks,
  Interrupted,
  Notes,
  Options,
  Progress,
  Result,
  Trial,
)

CHUNK_SECONDS = 0.5  # how long the host waits for the devices at a time
MAP_TOKENS = 64  # attention maps are kept for this many tokens


def run(
  trial: Trial, options: Options, devices: Devices, hooks: Hooks
) -> Result:
  """Trains a trial from where it stands to its end, and returns its result.

  Raises:
    Interrupted: `hooks.stop_requested()` came true; the state is saved.
    OSError: the disk is full or cannot be written.
  """
  trial.directory.mkdir(parents=True, exist_ok=True)
  write_json(trial.directory / 'config.json', _description(trial))
  session = _Session(trial, options, devices, hooks)
  try:
    _train(session)
    session.save()
    _write_attention(session)
    return _result(session)
  finally:
    session.close()


class _Session:
  """A trial while it runs: its program, its state and its files."""

  def __init__(
    self, trial: Trial, options: Options, devices: Devices, hooks: Hooks
  ):
    self.trial, self.options, self.hooks = trial, options, hooks
    self.config = trial.config
    self.notes = Notes()
    self.ticked = self.saved = time.monotonic()
    self.chunk_steps = 1
    sig, values = signature(self.config, trial.data, devices)
    self.program = program(sig)
    self.values = devices.place(values)
    self.arrays = devices.place(dict(trial.data.arrays))
    self.checkpoints = Checkpoints(
      trial.directory / 'checkpoints', options.keep_checkpoints, hooks.warn
    )
    state = to_host(init_state(self.config, sig.dims, trial.initial))
    if restored := self.checkpoints.restore(state):
      state, self.notes = restored.tree, Notes(**restored.extra)
    self.state: State = devices.place(state)
    folder = trial.directory
    sinks = [TensorBoard(folder / 'tensorboard')] if options.tensorboard else []
    self.log = Log(folder / 'metrics.jsonl', self.step, sinks)

  @property
  def step(self) -> int:
    """Returns how many steps are done."""
    return int(to_host(self.state.step))

  @property
  def diverged(self) -> int:
    """Returns the step whose loss was not finite, else -1."""
    return int(to_host(self.state.diverged))

  @property
  def ended(self) -> bool:
    """Returns whether there is nothing left to train."""
    return self.step >= self.config.steps or self.diverged >= 0

  def compile(self) -> None:
    """Compiles the step: a chunk of no steps changes nothing."""
    start = time.monotonic()
    self.dispatch(self.step)
    self.notes.compile_seconds += time.monotonic() - start

  def dispatch(self, stop: int) -> Metrics:
    """Runs the steps up to `stop` and returns their figures."""
    self.state, metrics = self.program.chunk(
      self.state, self.values, self.arrays, np.int32(stop)
    )
    return to_host(metrics)

  def save(self, best: bool = False) -> None:
    """Starts to save the state and the notes; at most once a step."""
    if self.step in self.checkpoints.steps():
      return
    self.tick()
    score = self.notes.best_val_loss if best else None
    notes = dataclasses.asdict(self.notes)
    self.checkpoints.save(self.step, to_host(self.state), notes, score)
    self.saved = time.monotonic()

  def tick(self) -> None:
    """Adds the time since the last tick to the trial's."""
    now = time.monotonic()
    self.notes.seconds += now - self.ticked
    self.ticked = now

  def close(self) -> None:
    """Waits for the disk; raises what went wrong there."""
    self.log.close()
    try:
      self.checkpoints.wait()
    finally:
      self.checkpoints.close()


def _train(session: _Session) -> None:
  """Runs chunks until the last step, a divergence or an interruption."""
  config, options = session.config, session.options
  if not session.ended:
    session.compile()
  while not session.ended:
    if session.hooks.stop_requested():
      session.save()
      raise Interrupted
    _advance(session)
    if session.diverged >= 0:
      return
    best = False
    if session.step == config.steps or session.step % config.eval_every == 0:
      best = _evaluate(session)
    due = time.monotonic() - session.saved >= options.checkpoint_seconds
    if best or due:
      session.save(best)


def _advance(session: _Session) -> None:
  """Runs one chunk, at most up to the next evaluation, and logs it."""
  config, first = session.config, session.step
  evaluation = (first // config.eval_every + 1) * config.eval_every
  stop = min(first + session.chunk_steps, evaluation, config.steps)
  start = time.monotonic()
  metrics = session.dispatch(stop)
  seconds = time.monotonic() - start
  session.notes.train_seconds += seconds
  per_step = max(seconds, 1e-9) / (stop - first)
  session.chunk_steps = max(1, min(CAPACITY, int(CHUNK_SECONDS / per_step)))
  # Steps after a divergence are none.
  last = stop if session.diverged < 0 else session.diverged + 1
  session.notes.train_loss = _finite(metrics.loss[last - 1 - first])
  session.log.write(_lines(session, metrics, first, last))
  tokens = config.batch_size * config.seq_len
  loss = float(metrics.loss[last - 1 - first])
  session.hooks.progress(Progress(stop, config.steps, loss, tokens / per_step))


def _lines(
  session: _Session, metrics: Metrics, first: int, last: int
) -> list[Figures]:
  """Returns the lines of metrics.jsonl of the steps from `first` to `last`."""
  every = session.options.log_every
  return [
    {'step': step + 1}
    | {
      name: _finite(values[step - first])
      for name, values in metrics._asdict().items()
    }
    for step in range(first, last)
    if (step + 1) % every == 0 or step == session.diverged
  ]


def _evaluate(session: _Session) -> bool:
  """Evaluates on the validation part; returns whether it is the best."""
  notes = session.notes
  sums = to_host(
    session.program.evaluate(
      session.state.params, session.values, session.arrays
    )
  )
  loss = _finite(sums.loss / sums.count)
  notes.last_eval = {
    'val_loss': loss,
    'val_accuracy': float(sums.correct / sums.count),
  }
  session.log.write([{'step': session.step, **notes.last_eval}])
  best = loss is not None and (
    notes.best_val_loss is None or loss < notes.best_val_loss
  )
  if best:
    notes.best_val_loss, notes.best_step = loss, session.step
  return best


def _result(session: _Session) -> Result:
  """Returns what the trial came to."""
  session.tick()
  notes, config = session.notes, session.config
  metrics: Figures = {
    **notes.last_eval,
    'best_val_loss': notes.best_val_loss,
    'best_step': notes.best_step,
    'train_loss': notes.train_loss,
  }
  fine = session.diverged < 0
  if not fine:
    metrics['diverged_at'] = session.diverged
  steps = session.step if fine else session.diverged
  params = to_host(session.state.params)
  return Result(
    status='ok' if fine else 'diverged',
    metrics=metrics,
    clock={
      'seconds': round(notes.seconds, 3),
      'compile_seconds': round(notes.compile_seconds, 3),
      'train_seconds': round(notes.train_seconds, 3),
    },
    steps=steps,
    tokens=steps * config.batch_size * config.seq_len,
    digest=digest(params),
    parameters=sum(int(p.size) for p in flat(params).values()),
  )


def _write_attention(session: _Session) -> None:
  """Keeps the attention maps of the first validation tokens."""
  tokens = session.trial.data.arrays['validation']
  tokens_1T = tokens[None, : min(MAP_TOKENS, session.config.seq_len)]
  params, values = to_host((session.state.params, session.values))
  maps = session.program.weights(params, values, tokens_1T.astype(np.int32))
  np.savez_compressed(
    session.trial.directory / 'attention.npz',
    weights_LNTS=np.asarray(maps[:, 0], np.float16),
    tokens_T=tokens_1T[0],
  )


def _description(trial: Trial) -> dict[str, Any]:
  """Returns what `load` needs to rebuild a trial."""
  return {
    'trial': trial.id,
    'flags': to_flags(trial.config),
    'data': trial.data.digest,
    'vocabulary': dataclasses.asdict(trial.data.vocabulary),
  }


def _finite(value: Any) -> float | None:
  """Returns a number, or none where JSON has no word for it."""
  return float(value) if math.isfinite(value) else None
