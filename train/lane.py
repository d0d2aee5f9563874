"""One trial on the host: where it stands, its files, and what it came to."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from train.checkpoint import Checkpoints
from train.code import code_of, describe, recorded, resumed, whole
from train.feed import opened
from train.files import digest, remove_temporaries, write_json
from train.log import Log
from train.optimizer import flat
from train.parallel import Layout, to_host
from train.project import current
from train.readable import BLOCK
from train.records import (
  BEGUN,
  END,
  FIGURES,
  FOLDER,
  Begun,
  End,
  VocabularyDigest,
  count_figures,
  digests,
  read_own_end,
)
from train.sample import write_table
from train.schema import to_flags
from train.sinks import About
from train.step import State, init_state
from train.store import write_vocabulary
from train.strict import Damaged
from train.trial import Figures, Hooks, Notes, Options, Result, Trial


class Lane:
  """One trial of a group: where it stands, and its files.

  `feed` reads its data, where these do not lie on a device.

  Args:
    trial: which.
    options: how it runs.
    hooks: what to tell.
    layout: how it and others lie on the devices; kept beside it.
    fed: whether the host reads its data.
  """

  def __init__(
    self,
    trial: Trial,
    options: Options,
    hooks: Hooks,
    layout: Layout,
    fed: bool,
  ):
    folder = trial.directory
    folder.mkdir(parents=True, exist_ok=True)
    write_vocabulary(folder, trial.data.vocabulary)
    remove_temporaries(folder)
    self.trial, self.options, self.config = trial, options, trial.config
    self.notes, self.ended = Notes(), False
    self.judged: Figures = {}
    self.feed = None
    if fed:
      self.feed = opened(trial.config, trial.data, options.feed)
    self.saved = time.monotonic()
    self.checkpoints = Checkpoints(
      folder / FOLDER, options.keep_checkpoints, hooks.warn
    )
    dims = trial.config.sizes(trial.data.vocabulary)
    self.state: State = to_host(init_state(trial.config, dims, trial.initial))
    if restored := self.checkpoints.restore(self.state.saved):
      self.state = State(*restored.tree)
      self.notes = Notes(**restored.extra)
    code = describe(trial.config)
    if restored:
      # What the checkpoint says is under its digest; older ones say nothing.
      code = resumed(whole(self.notes.code) or recorded(folder), code)
    self.notes.code = code
    parts = dict(code_of(trial.config, current()).parts)
    code = {**code, 'parts': parts}
    write_json(folder / BEGUN, _description(trial, layout, code))
    about = About(trial.id, folder, to_flags(trial.config), hooks.warn)
    sinks = [s for to in options.log_to for s in to.open(about)]
    self.log = Log(folder / FIGURES, self.step, sinks)
    self._logged = _counted_before(folder, self.step)
    for line in self.log.damage:
      hooks.warn(line)

  @property
  def step(self) -> int:
    """Returns how many steps are done."""
    return int(self.state.step)

  @property
  def diverged(self) -> int:
    """Returns the step whose loss was not finite, else -1."""
    return int(self.state.diverged)

  @property
  def goal(self) -> int:
    """Returns the step to train to: the last, or that of a pause."""
    return min(self.config.steps, self.trial.pause or self.config.steps)

  @property
  def trained(self) -> bool:
    """Returns whether there is nothing left to train."""
    return self.step >= self.goal or self.diverged >= 0

  @property
  def paused(self) -> bool:
    """Returns whether it ends for now, to go on later."""
    return self.trained and self.diverged < 0 and self.step < self.config.steps

  def next_stop(self, chunk: int) -> int:
    """Returns the step to run to: at most up to the next evaluation.

    Nor does it go beyond the rows that are on the device.
    """
    if self.trained:
      return self.step
    every = self.config.eval_every
    ends = [self.step + chunk, (self.step // every + 1) * every, self.goal]
    if self.feed:
      ends.append((self.step // BLOCK + 1) * BLOCK)
    return min(ends)

  @property
  def block(self) -> int:
    """Returns the number of the block of steps of which the next one is."""
    return min(self.step, self.goal - 1) // BLOCK

  @property
  def at_evaluation(self) -> bool:
    """Returns whether the validation part is looked at after this step."""
    due = self.step % self.config.eval_every == 0
    return self.diverged < 0 and (due or self.step == self.config.steps)

  def save(self) -> None:
    """Starts to save the state and the notes."""
    notes = dataclasses.asdict(self.notes)
    self.checkpoints.save(self.step, self.state.saved, notes)
    self.saved = time.monotonic()

  def judge(self) -> None:
    """Lets the task say what there is to say of the trained model."""
    config, data = self.config, self.trial.data
    if self.diverged >= 0:
      return
    found = config.task.judge(
      config.architecture,
      config.sizes(data.vocabulary),
      jax.tree.map(jnp.asarray, self.state.evaluated),
      data,
    )
    self.judged = dict(found.figures)
    if found.lines:
      write_table(self.trial.directory, found.lines)

  def end(self) -> Result:
    """Waits for the last checkpoint; returns what the trial came to."""
    self.checkpoints.wait()
    self.ended = True
    found, folder = self.result(), self.trial.directory
    about = End(
      self.trial.id,
      found.status,
      self.step,
      found.digest,
      self.notes.best_step,
      count_figures(folder) if self._logged is None else self._logged,
      digests(folder),
    )
    write_json(folder / END, dataclasses.asdict(about))
    return found

  def close(self) -> None:
    """Waits for the disk; raises what went wrong there."""
    if self.feed:
      self.feed.close()
    self.log.close()
    try:
      self.checkpoints.wait()
    finally:
      self.checkpoints.close()

  def result(self) -> Result:
    """Returns what a trial came to."""
    notes, config, fine = self.notes, self.config, self.diverged < 0
    metrics: Figures = {
      **notes.last_eval,
      **notes.extent,
      'best_val_loss': notes.best_val_loss,
      'best_step': notes.best_step,
      'train_loss': notes.train_loss,
      **self.judged,
    }
    if not fine:
      metrics['diverged_at'] = self.diverged
    steps = self.step if fine else self.diverged
    return Result(
      status='paused' if self.paused else 'ok' if fine else 'diverged',
      metrics=metrics,
      clock={
        'seconds': round(notes.seconds, 3),
        'compile_seconds': round(notes.compile_seconds, 3),
        'train_seconds': round(notes.train_seconds, 3),
      },
      steps=steps,
      tokens=steps * config.batch_size * config.seq_len,
      digest=digest(self.state.evaluated),
      code=self.notes.code,
      parameters=sum(int(p.size) for p in flat(self.state.params).values()),
      by_position=notes.by_position if fine and not self.paused else {},
    )


def _counted_before(folder: pathlib.Path, step: int) -> int | None:
  """Returns how many figures a trial had when it ended at this step, if it did.

  Those that were lost since cannot be made again: they stay missed.
  """
  try:
    end = read_own_end(folder)
  except Damaged:
    return None
  return end.figures if end is not None and end.step == step else None


def _description(
  trial: Trial, layout: Layout, code: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns what `load` needs to rebuild a trial, how it lay, and its code."""
  vocabulary = trial.data.vocabulary
  about = Begun(
    trial.id,
    to_flags(trial.config),
    trial.data.digest,
    VocabularyDigest(vocabulary.kind, vocabulary.learned, vocabulary.digest),
    layout.text,
    code,
  )
  return dataclasses.asdict(about)
