"""The training loop, which has all side effects between trials and results.

It makes the run directories, resumes, dispatches chunks of steps, evaluates,
logs and saves, for all trials of one program side by side.  Its results depend
neither on interruptions nor on the length of chunks.
"""

import contextlib
import time
from collections.abc import Iterator, Sequence

import numpy as np

from train.attention_maps import write_inspection
from train.core.metric import VAL_LOSS
from train.devices.parallel import Layout
from train.evaluation import (
  finite_or_none,
  sums_by_position,
  target_counts,
  validation_metrics,
)
from train.group import Group
from train.lane import Lane
from train.programs.program import CAPACITY
from train.programs.step import StepMetrics
from train.trial import (
  Interrupted,
  MetricValues,
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
  group = Group(trials, options, layout, listener)
  try:
    with contextlib.closing(group):
      group.fill()
      _train(group)
  except (Interrupted, OSError):
    raise
  except Exception as e:
    left = list(group.left.values())
    raise TrialsFailed(e, left, group.begun) from e


def _train(group: Group) -> None:
  """Runs chunks until every trial has ended; raises Interrupted if asked."""
  if not all(lane.is_trained for lane in group.lanes):
    _dispatch(group, [lane.step for lane in group.lanes])
    share = group.tick()
    for lane in group.lanes:
      lane.notes.compile_seconds += share
  while True:
    _end(group)
    if not group.training:
      return
    if group.listener.stop_requested():
      _save(group, group.training)
      raise Interrupted
    _advance(group)
    evaluated = [lane for lane in group.training if lane.at_evaluation]
    best = _evaluate(group, evaluated)
    now, wait = time.monotonic(), group.options.checkpoint_seconds
    due = [
      lane
      for lane in group.training
      if lane.keeps_checkpoint or now - lane.saved >= wait
    ]
    _save(group, [*best, *due])


def _advance(group: Group) -> None:
  """Runs one chunk, at most up to the next evaluation, and logs it."""
  first = [lane.step for lane in group.lanes]
  stops = [lane.next_stop(group.chunk_steps) for lane in group.lanes]
  metrics = _dispatch(group, stops)
  share = group.tick()
  moved = [
    part
    for part in zip(group.lanes, first, stops, metrics, strict=True)
    if part[1] < part[2]
  ]
  most = max(stop - start for _, start, stop, _ in moved)
  per_step = max(share, 1e-9) * len(moved) / most
  group.chunk_steps = max(1, min(CAPACITY, int(CHUNK_SECONDS / per_step)))
  for lane, start, stop, own in moved:
    lane.notes.train_seconds += share
    # No step is logged after the one that diverged.
    last = stop if lane.diverged < 0 else lane.diverged + 1
    lane.notes.train_loss = finite_or_none(own.loss[last - 1 - start])
    lane.log.write(_lines(lane, own, start, last))
  lane, start, stop, own = moved[0]
  tokens = lane.config.batch_size * lane.config.seq_len * len(moved)
  group.listener.progress(
    Progress(
      step=sum(o.goal if o.is_trained else o.step for o in group.training),
      steps=sum(o.goal for o in group.training),
      loss=float(own.loss[stop - 1 - start]),
      tokens_per_second=tokens / per_step,
    )
  )


def _dispatch(group: Group, stops: Sequence[int]) -> list[StepMetrics]:
  """Runs each lane up to its stop and returns the metrics of its steps."""
  group.feed()
  layout = group.layout
  all_stops = [np.int32(stop) for stop in [*stops, *[0] * group.idle]]
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


def _lines(
  lane: Lane, metrics: StepMetrics, first: int, last: int
) -> list[MetricValues]:
  """Returns lines of metrics.jsonl for the steps `first` to `last` - 1."""
  every = lane.options.log_every
  return [
    {'step': step + 1}
    | {
      name: finite_or_none(values[step - first])
      for name, values in metrics._asdict().items()
    }
    for step in range(first, last)
    if (step + 1) % every == 0 or step == lane.diverged
  ]


def _begin(group: Group) -> None:
  """Evaluates initial states: with all metrics if a trial trains no step.

  Other trials get only the metrics of --measure, so that this flag changes no
  other result.
  """
  fresh = [lane for lane in group.training if lane.is_fresh]
  for lane in fresh:
    lane.is_fresh = False
  _evaluate(group, [lane for lane in fresh if not lane.config.steps])
  for lane in fresh:
    if lane.config.steps and lane.config.measurements:
      found = lane.probe.figures(lane.state.eval_params)
      lane.log.write([{'step': lane.step, **found}])
  _save(group, [lane for lane in fresh if lane.keeps_checkpoint])


def _evaluate(group: Group, lanes: Sequence[Lane]) -> list[Lane]:
  """Evaluates some lanes; returns those with their lowest loss so far."""
  if not lanes:
    return []
  sums = group.layout.unpack(
    group.program.evaluate(group.state.eval_params, group.packed, group.arrays)
  )
  if any(lane.config.measurements for lane in lanes):
    group.fetch()
  group.tick()
  best = []
  for lane, own in zip(group.lanes, sums, strict=False):
    if lane not in lanes:
      continue
    notes = lane.notes
    notes.last_eval = validation_metrics(lane.config, own)
    notes.last_eval |= lane.probe.figures(lane.state.eval_params)
    notes.extent = target_counts(own)
    if lane.config.task.by_position and lane.step == lane.config.steps:
      notes.by_position = sums_by_position(own)
    lane.log.write([{'step': lane.step, **notes.last_eval}])
    loss = notes.last_eval[VAL_LOSS.name]
    if loss is not None and (
      notes.best_val_loss is None or loss < notes.best_val_loss
    ):
      notes.best_val_loss, notes.best_step = loss, lane.step
      best.append(lane)
  return best


def _save(group: Group, lanes: Sequence[Lane]) -> None:
  """Starts to write checkpoints of some lanes."""
  if not lanes:
    return
  group.tick()
  group.fetch()
  for lane in lanes:
    lane.save()


def _end(group: Group) -> None:
  """Saves and reports the trials that have ended, and begins waiting ones.

  A trial without steps to train begins and ends here.
  """
  _begin(group)
  while done := [lane for lane in group.training if lane.is_trained]:
    _save(group, done)
    for lane, values in zip(group.lanes, group.values, strict=True):
      if lane in done and not lane.is_paused:
        write_inspection(group.program, lane, values, group.is_host_fed)
        lane.compute_final_metrics()
    group.tick()
    for lane in done:
      group.end(lane)
    group.fill()
    _begin(group)
