"""The training loop, which has all side effects between trials and results.

It makes the run directories, resumes, dispatches chunks of steps, evaluates,
logs and saves, for all trials of one program side by side.  Its results depend
neither on interruptions nor on the length of chunks.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence

import numpy as np

from train.devices.parallel import Layout
from train.evaluation import finite_or_none, step_lines
from train.group import TrialGroup
from train.milestones import evaluate_lanes, replace_ended, save_lanes
from train.programs.program import MAX_CHUNK_STEPS
from train.programs.step import StepMetrics
from train.trial import (
  Interrupted,
  Options,
  Progress,
  Trial,
  TrialListener,
  TrialsFailed,
)

CHUNK_SECONDS = 0.5  # how long the host waits for the devices at a time


def run(
  trials: Iterator[Trial],
  options: Options,
  layout: Layout,
  listener: TrialListener,
) -> None:
  """Trains or resumes all trials of one program.

  When a trial ends, the next one takes its lane, so that the number of lanes,
  on which rounding may depend, stays the same.

  Args:
    trials: at least one, all with one signature.
    options: how to run them.
    layout: how they lie on the devices.
    listener: is told that trials begin, progress and end, and may ask to stop.

  Raises:
    Interrupted: the listener asked to stop; all states are saved.
    OSError: the disk is full or cannot be written.
    TrialsFailed: any other error, of an unknown trial among those that ran.
  """
  group = TrialGroup(trials, options, layout, listener)
  try:
    with contextlib.closing(group):
      group.fill()
      _train(group)
  except (Interrupted, OSError):
    raise
  except Exception as e:
    left = list(group.unfinished.values())
    raise TrialsFailed(e, left, group.num_begun) from e


def _train(group: TrialGroup) -> None:
  """Runs chunks until every trial has ended; raises Interrupted if asked."""
  is_compiled = False
  while True:
    replace_ended(group)
    if not group.training:
      return
    if group.listener.stop_requested():
      save_lanes(group, group.training)
      raise Interrupted
    if not is_compiled:
      _compile(group)
      is_compiled = True
    _advance(group)
    evaluated = [lane for lane in group.training if lane.at_evaluation]
    best = evaluate_lanes(group, evaluated)
    now, wait = time.monotonic(), group.options.checkpoint_seconds
    due = [
      lane
      for lane in group.training
      if lane.keeps_checkpoint or now - lane.last_save >= wait
    ]
    save_lanes(group, [*best, *due])


def _compile(group: TrialGroup) -> None:
  """Runs no step, so that compilation does not count as time of training."""
  _dispatch(group, [lane.step for lane in group.lanes])
  share = group.tick()
  for lane in group.lanes:
    lane.notes.compile_seconds += share


def _advance(group: TrialGroup) -> None:
  """Runs one chunk, at most up to the next evaluation, and logs it."""
  first = [lane.step for lane in group.lanes]
  stops = [lane.next_stop(group.chunk_steps) for lane in group.lanes]
  metrics = _dispatch(group, stops)
  share = group.tick()
  advanced = [
    part
    for part in zip(group.lanes, first, stops, metrics, strict=True)
    if part[1] < part[2]
  ]
  most = max(stop - start for _, start, stop, _ in advanced)
  per_step = max(share, 1e-9) * len(advanced) / most
  group.chunk_steps = max(
    1, min(MAX_CHUNK_STEPS, int(CHUNK_SECONDS / per_step))
  )
  for lane, start, stop, steps in advanced:
    lane.notes.train_seconds += share
    # No step is logged after the one that diverged.
    last = stop if lane.diverged < 0 else lane.diverged + 1
    lane.notes.train_loss = finite_or_none(steps.loss[last - 1 - start])
    every = lane.options.log_every
    logged = [
      step
      for step in range(start, last)
      if (step + 1) % every == 0 or step == lane.diverged
    ]
    lane.log.write(step_lines(steps, start, logged))
  lane, start, stop, steps = advanced[0]
  tokens = lane.config.batch_size * lane.config.seq_len * len(advanced)
  group.listener.progress(
    Progress(
      step=sum(p.goal if p.is_trained else p.step for p in group.training),
      steps=sum(p.goal for p in group.training),
      loss=float(steps.loss[stop - 1 - start]),
      tokens_per_second=tokens / per_step,
    )
  )


def _dispatch(group: TrialGroup, stops: Sequence[int]) -> list[StepMetrics]:
  """Runs each lane up to its stop and returns the metrics of its steps."""
  group.feed()
  layout = group.layout
  all_stops = [np.int32(stop) for stop in [*stops, *[0] * group.idle]]
  with group.compilations.purpose('training step'):
    group.state, metrics = group.program.chunk(
      group.state,
      group.packed,
      group.rows if group.is_host_fed else group.arrays,
      layout.pack(all_stops),
    )
  steps = layout.unpack((group.state.step, group.state.diverged))
  for lane, (step, diverged) in zip(group.lanes, steps, strict=False):
    lane.state = lane.state._replace(step=step, diverged=diverged)
  return layout.unpack(metrics)[: len(group.lanes)]
