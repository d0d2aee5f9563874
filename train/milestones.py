"""What happens to trials between chunks of steps.

Trials begin and end, are evaluated and saved.
"""

from collections.abc import Sequence

from train.attention_maps import write_inspection
from train.core.metric import VAL_LOSS
from train.evaluation import (
  sums_by_position,
  target_counts,
  validation_metrics,
)
from train.group import TrialGroup
from train.lane import Lane


def replace_ended(group: TrialGroup) -> None:
  """Saves and reports the trials that have ended, and begins waiting ones.

  A trial without steps to train begins and ends here.
  """
  _begin(group)
  while done := [lane for lane in group.training if lane.is_trained]:
    save_lanes(group, done)
    for lane, values in zip(group.lanes, group.values, strict=True):
      if lane in done and not lane.is_paused:
        write_inspection(group.program, lane, values, group.is_host_fed)
        lane.compute_final_metrics()
    group.tick()
    for lane in done:
      group.end(lane)
    group.fill()
    _begin(group)


def _begin(group: TrialGroup) -> None:
  """Evaluates initial states: with all metrics if a trial trains no step.

  Other trials get only the metrics of --measure, so that this flag changes no
  other result.
  """
  fresh = [lane for lane in group.training if lane.is_fresh]
  for lane in fresh:
    lane.is_fresh = False
  evaluate_lanes(group, [lane for lane in fresh if not lane.config.steps])
  for lane in fresh:
    if lane.config.steps and lane.config.measurements:
      found = lane.probe.figures(lane.state.eval_params)
      lane.log.write([{'step': lane.step, **found}])
  save_lanes(group, [lane for lane in fresh if lane.keeps_checkpoint])


def evaluate_lanes(group: TrialGroup, lanes: Sequence[Lane]) -> list[Lane]:
  """Evaluates some lanes; returns those with their lowest loss so far."""
  if not lanes:
    return []
  with group.compilations.purpose('evaluation'):
    sums_of_lanes = group.program.evaluate(
      group.state.eval_params, group.packed, group.arrays
    )
  sums = group.layout.unpack(sums_of_lanes)
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


def save_lanes(group: TrialGroup, lanes: Sequence[Lane]) -> None:
  """Starts to write checkpoints of some lanes."""
  if not lanes:
    return
  group.tick()
  group.fetch()
  for lane in lanes:
    lane.save()
