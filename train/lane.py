"""One running trial on the host: its progress, its files and its result."""

import dataclasses
import pathlib
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from train.code.project import current_project
from train.config.code_digest import (
  describe_code,
  executed_code,
  join_code,
  read_code,
  valid_code,
)
from train.core.trees import flatten
from train.devices.parallel import Layout, to_host
from train.files.checkpoint import Checkpoints
from train.files.durable import digest, remove_temporaries, write_json
from train.files.log import MetricsLog
from train.files.records import (
  BEGUN,
  CHECKPOINT_FOLDER,
  END,
  METRICS_FILE,
  TrialEnd,
  TrialStart,
  VocabularyDigest,
  artifact_digests,
  count_log_lines,
  read_end_file,
)
from train.files.sinks import SinkContext
from train.files.strict import DamagedFile
from train.files.version import TRIAL
from train.flags.schema import to_flags
from train.host_feed import open_feed
from train.probe import Probe
from train.programs.state import TrainState, init_state
from train.sample import write_table
from train.tasks.long_arrays import HOST_BLOCK
from train.text.store import write_vocabulary
from train.trial import (
  MetricValues,
  Options,
  Result,
  Trial,
  TrialListener,
  TrialNotes,
)


class Lane:
  """A slot of a program, with the trial that runs in it and its files.

  `feed` reads the data ahead, if the host feeds them; `probe` computes the
  metrics of --measure; `is_fresh` is True until the initial state has been
  measured.

  Args:
    trial: the trial, which starts or resumes.
    options: how it runs.
    listener: receives warnings.
    layout: how trials lie on the devices; written to the folder of the trial.
    fed: whether the host feeds its data.
  """

  def __init__(
    self,
    trial: Trial,
    options: Options,
    listener: TrialListener,
    layout: Layout,
    fed: bool,
  ):
    folder = trial.directory
    folder.mkdir(parents=True, exist_ok=True)
    write_vocabulary(folder, trial.data.vocabulary)
    remove_temporaries(folder)
    self.trial, self.options, self.config = trial, options, trial.config
    self.notes, self.ended = TrialNotes(), False
    self.final_metrics: MetricValues = {}
    self.feed = None
    if fed:
      self.feed = open_feed(trial.config, trial.data, options.feed)
    self.last_save = time.monotonic()
    self.probe = Probe(trial.config, trial.data, fed)
    self.checkpoints = Checkpoints(
      folder / CHECKPOINT_FOLDER,
      options.keep_checkpoints,
      listener.warn,
      keep_every=options.keep_every,
    )
    dims = trial.config.sizes(trial.data.vocabulary)
    self.state: TrainState = to_host(
      init_state(trial.config, dims, trial.initial)
    )
    if restored := self.checkpoints.restore(self.state.checkpoint_tree):
      self.state = TrainState.from_checkpoint(restored.tree)
      self.notes = TrialNotes(**restored.extra)
    self.is_fresh = restored is None
    code = describe_code(trial.config)
    if restored:
      # A checkpoint names its code, protected by a checksum; old ones do not.
      code = join_code(valid_code(self.notes.code) or read_code(folder), code)
    self.notes.code = code
    parts = dict(executed_code(trial.config, current_project()).parts)
    code = {**code, 'parts': parts}
    write_json(folder / BEGUN, _description(trial, layout, code))
    run = SinkContext(trial.id, folder, to_flags(trial.config), listener.warn)
    sinks = [s for to in options.log_to for s in to.open(run)]
    since = None if self.is_fresh else self.step
    self.log = MetricsLog(folder / METRICS_FILE, since, sinks)
    self._logged = _counted_before(folder, self.step)
    for line in self.log.damage:
      listener.warn(line)

  @property
  def step(self) -> int:
    """Returns how many steps are done."""
    return int(self.state.step)

  @property
  def diverged(self) -> int:
    """Returns the first step with a loss or gradient not finite, else -1."""
    return int(self.state.diverged)

  @property
  def goal(self) -> int:
    """Returns the step to train to: the last one, or the next pause."""
    return min(self.config.steps, self.trial.pause or self.config.steps)

  @property
  def is_trained(self) -> bool:
    """Returns whether training has ended: at the goal, or by divergence."""
    return self.step >= self.goal or self.diverged >= 0

  @property
  def is_paused(self) -> bool:
    """Returns whether it stopped at a pause and may continue later."""
    return (
      self.is_trained and self.diverged < 0 and self.step < self.config.steps
    )

  def next_stop(self, chunk: int) -> int:
    """Returns the step to run to: at most `chunk` steps ahead.

    A chunk ends at the next evaluation, at a checkpoint of --keep_every, and
    where the rows that are on the device end.
    """
    if self.is_trained:
      return self.step
    every = self.config.eval_every
    ends = [self.step + chunk, (self.step // every + 1) * every, self.goal]
    if self.feed:
      ends.append((self.step // HOST_BLOCK + 1) * HOST_BLOCK)
    if interval := self.options.keep_every:
      ends.append((self.step // interval + 1) * interval)
    return min(ends)

  @property
  def block(self) -> int:
    """Returns the number of the block that holds the rows of the next step."""
    return max(0, min(self.step, self.goal - 1)) // HOST_BLOCK

  @property
  def at_evaluation(self) -> bool:
    """Returns whether an evaluation is due after this step."""
    due = self.step % self.config.eval_every == 0
    return self.diverged < 0 and (due or self.step == self.config.steps)

  @property
  def keeps_checkpoint(self) -> bool:
    """Returns whether --keep_every keeps a checkpoint of this step."""
    interval = self.options.keep_every
    return interval is not None and self.step % interval == 0

  def save(self) -> None:
    """Starts to write a checkpoint of the state and the notes."""
    notes = dataclasses.asdict(self.notes)
    self.checkpoints.save(self.step, self.state.checkpoint_tree, notes)
    self.last_save = time.monotonic()

  def compute_final_metrics(self) -> None:
    """Computes the task's metrics of the trained model, such as BLEU."""
    config, data = self.config, self.trial.data
    if self.diverged >= 0:
      return
    found = config.task.final_metrics(
      config.architecture,
      config.sizes(data.vocabulary),
      jax.tree.map(jnp.asarray, self.state.eval_params),
      data,
    )
    self.final_metrics = dict(found.figures)
    if found.lines:
      write_table(self.trial.directory, found.lines)

  def end(self) -> Result:
    """Waits for the last checkpoint, writes `end.json`, returns the result."""
    self.checkpoints.wait()
    self.ended = True
    result, folder = self.result(), self.trial.directory
    end = TrialEnd(
      self.trial.id,
      result.status,
      self.step,
      result.digest,
      self.notes.best_step,
      count_log_lines(folder) if self._logged is None else self._logged,
      artifact_digests(folder),
    )
    write_json(folder / END, dataclasses.asdict(end))
    return result

  def close(self) -> None:
    """Waits until all is on the disk; raises the errors of writing."""
    if self.feed:
      self.feed.close()
    self.log.close()
    try:
      self.checkpoints.wait()
    finally:
      self.checkpoints.close()

  def result(self) -> Result:
    """Returns the result of the trial as it stands."""
    notes, config, fine = self.notes, self.config, self.diverged < 0
    metrics: MetricValues = {
      **notes.last_eval,
      **notes.extent,
      'best_val_loss': notes.best_val_loss,
      'best_step': notes.best_step,
      'train_loss': notes.train_loss,
      **self.final_metrics,
    }
    if not fine:
      metrics['diverged_at'] = self.diverged
    steps = self.step if fine else self.diverged
    return Result(
      status='paused' if self.is_paused else 'ok' if fine else 'diverged',
      metrics=metrics,
      clock={
        'seconds': round(notes.seconds, 3),
        'compile_seconds': round(notes.compile_seconds, 3),
        'train_seconds': round(notes.train_seconds, 3),
        **{name: round(s, 3) for name, s in notes.compiled.items()},
      },
      steps=steps,
      tokens=steps * config.batch_size * config.seq_len,
      digest=digest(self.state.eval_params),
      code=self.notes.code,
      parameters=sum(int(p.size) for p in flatten(self.state.params).values()),
      by_position=notes.by_position if fine and not self.is_paused else {},
    )


def _counted_before(folder: pathlib.Path, step: int) -> int | None:
  """Returns how many metrics a trial had logged, if it ended at this step.

  Lines that were lost since then cannot be computed again, so the old count
  stays: it shows that they are missing.
  """
  try:
    end = read_end_file(folder)
  except DamagedFile:
    return None
  return end.figures if end is not None and end.step == step else None


def _description(
  trial: Trial, layout: Layout, code: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns the description from which `load` rebuilds a trial."""
  vocabulary = trial.data.vocabulary
  begun = TrialStart(
    trial.id,
    to_flags(trial.config),
    trial.data.digest,
    VocabularyDigest(vocabulary.kind, vocabulary.learned, vocabulary.digest),
    layout.text,
    code,
    TRIAL.newest,
  )
  return dataclasses.asdict(begun)
