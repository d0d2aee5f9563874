"""The training loop: the one impure file between trials and their results.

It makes the run directories, resumes, dispatches chunks of steps, evaluates,
logs and saves, for all trials of one program side by side.  What it computes
does not depend on when it was interrupted or on how long its chunks are.
"""

import time
from collections.abc import Iterator, Sequence

import numpy as np

from train.evaluation import by_position, extent, figures, finite
from train.feed import evaluation, fed
from train.figure import VAL_LOSS
from train.lane import Lane
from train.look import look
from train.parallel import Layout
from train.program import CAPACITY, program, signature
from train.step import Metrics
from train.trial import Figures, Hooks, Interrupted, Options, Progress, Trial

CHUNK_SECONDS = 0.5  # how long the host waits for the devices at a time


def run(
  trials: Iterator[Trial], options: Options, layout: Layout, hooks: Hooks
) -> None:
  """Trains trials of one program from where they stand to their end.

  As one ends, the next takes its lane: the number of lanes, on which bits may
  depend, stays.  Each is reported through `hooks.ended`.

  Args:
    trials: at least one, all with one signature.
    options: how to run them.
    layout: how they lie on the devices.
    hooks: what to tell and to ask.

  Raises:
    Interrupted: `hooks.stop_requested()` came true; all states are saved.
    OSError: the disk is full or cannot be written.
  """
  group = _Group(trials, options, layout, hooks)
  try:
    group.fill()
    _train(group)
  finally:
    group.close()


class _Group:
  """The trials of a program while they run, and their packed state."""

  def __init__(
    self,
    trials: Iterator[Trial],
    options: Options,
    layout: Layout,
    hooks: Hooks,
  ):
    self.options, self.layout, self.hooks = options, layout, hooks
    self.waiting = trials
    self.ticked = time.monotonic()
    self.chunk_steps = 1
    self.lanes: list[Lane] = []

  def fill(self) -> None:
    """Gives the lanes without a trial to those that wait; packs the states.

    The states of the others must be on the host.
    """
    taken = False
    for n in range(self.layout.lanes):
      if n < len(self.lanes) and not self.lanes[n].ended:
        continue
      trial = next(self.waiting, None)
      if trial is None:
        break
      taken = True
      about = self.options, self.hooks, self.layout, self._fed(trial)
      lane = Lane(trial, *about)
      if n < len(self.lanes):
        before, self.lanes[n] = self.lanes[n], lane
        before.close()
      else:
        self.lanes.append(lane)
    if taken:
      self._pack()

  def _fed(self, trial: Trial) -> bool:
    """Returns whether the host reads the rows of a trial."""
    where = self.options.feed, self.layout.devices[0]
    return fed(trial.config, trial.data, *where)

  def _pack(self) -> None:
    """Brings the states of all lanes to the devices."""
    first, layout = self.lanes[0].trial, self.layout
    self.fed = self._fed(first)
    signed = [
      signature(lane.config, lane.trial.data, layout, self.fed)
      for lane in self.lanes
    ]
    self.program = program(signed[0][0])
    self.values = [values for _, values in signed]
    # Lanes without a trial of their own repeat the first, and take no steps.
    self.idle = layout.lanes - len(self.lanes)
    states = [lane.state for lane in self.lanes]
    self.packed = layout.pack(self.values + self.values[:1] * self.idle)
    # What is evaluated on; and where the device reads, trained on.
    self.arrays = layout.place(
      evaluation(first.config, first.data)
      if self.fed
      else dict(first.data.arrays)
    )
    self.blocks: list[int] = []  # whose rows are on the devices
    self.state = layout.pack(states + states[:1] * self.idle)

  @property
  def training(self) -> list[Lane]:
    """Returns the trials that have not ended."""
    return [lane for lane in self.lanes if not lane.ended]

  def dispatch(self, stops: Sequence[int]) -> list[Metrics]:
    """Runs each lane up to its stop and returns the figures of its steps."""
    if self.fed:
      self._feed()
    all_stops = [np.int32(stop) for stop in [*stops, *[0] * self.idle]]
    self.state, metrics = self.program.chunk(
      self.state,
      self.packed,
      self.rows if self.fed else self.arrays,
      self.layout.pack(all_stops),
    )
    steps = self.layout.unpack((self.state.step, self.state.diverged))
    for lane, (step, diverged) in zip(self.lanes, steps, strict=False):
      lane.state = lane.state._replace(step=step, diverged=diverged)
    return self.layout.unpack(metrics)[: len(self.lanes)]

  def _feed(self) -> None:
    """Brings the rows of the next steps of all lanes to the devices."""
    blocks = [lane.block for lane in self.lanes]
    if blocks == self.blocks:
      return
    rows = [
      lane.feed.block(n)
      for lane, n in zip(self.lanes, blocks, strict=True)
      if lane.feed
    ]
    self.blocks = blocks
    self.rows = self.layout.pack(rows + rows[:1] * self.idle)

  def fetch(self) -> None:
    """Brings the states of all trials to the host."""
    states = self.layout.unpack(self.state)
    for lane, state in zip(self.lanes, states, strict=False):
      lane.state = state

  def tick(self) -> float:
    """Adds the time since the last tick to the trials in equal shares."""
    now = time.monotonic()
    share = (now - self.ticked) / max(1, len(self.training))
    for lane in self.training:
      lane.notes.seconds += share
    self.ticked = now
    return share

  def close(self) -> None:
    """Waits for the disk; raises the first thing that went wrong there."""
    problems: list[Exception] = []
    for lane in self.lanes:
      try:
        lane.close()
      except Exception as e:
        problems.append(e)
    if problems:
      raise problems[0]


def _train(group: _Group) -> None:
  """Runs chunks until every trial ended, or an interruption."""
  if not all(lane.trained for lane in group.lanes):
    group.dispatch([lane.step for lane in group.lanes])
    share = group.tick()
    for lane in group.lanes:
      lane.notes.compile_seconds += share
  while True:
    _end(group)
    if not group.training:
      return
    if group.hooks.stop_requested():
      _save(group, group.training)
      raise Interrupted
    _advance(group)
    best = _evaluate(group)
    now, wait = time.monotonic(), group.options.checkpoint_seconds
    due = [lane for lane in group.training if now - lane.saved >= wait]
    _save(group, [*best, *due])


def _advance(group: _Group) -> None:
  """Runs one chunk, at most up to the next evaluation, and logs it."""
  first = [lane.step for lane in group.lanes]
  stops = [lane.next_stop(group.chunk_steps) for lane in group.lanes]
  metrics = group.dispatch(stops)
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
    # Steps after a divergence are none.
    last = stop if lane.diverged < 0 else lane.diverged + 1
    lane.notes.train_loss = finite(own.loss[last - 1 - start])
    lane.log.write(_lines(lane, own, start, last))
  lane, start, stop, own = moved[0]
  tokens = lane.config.batch_size * lane.config.seq_len * len(moved)
  group.hooks.progress(
    Progress(
      step=sum(o.goal if o.trained else o.step for o in group.training),
      steps=sum(o.goal for o in group.training),
      loss=float(own.loss[stop - 1 - start]),
      tokens_per_second=tokens / per_step,
    )
  )


def _lines(
  lane: Lane, metrics: Metrics, first: int, last: int
) -> list[Figures]:
  """Returns the lines of metrics.jsonl of the steps from `first` to `last`."""
  every = lane.options.log_every
  return [
    {'step': step + 1}
    | {
      name: finite(values[step - first])
      for name, values in metrics._asdict().items()
    }
    for step in range(first, last)
    if (step + 1) % every == 0 or step == lane.diverged
  ]


def _evaluate(group: _Group) -> list[Lane]:
  """Evaluates the trials whose turn it is; returns those at their best."""
  turn = [lane for lane in group.training if lane.at_evaluation]
  if not turn:
    return []
  sums = group.layout.unpack(
    group.program.evaluate(group.state.evaluated, group.packed, group.arrays)
  )
  group.tick()
  best = []
  for lane, own in zip(group.lanes, sums, strict=False):
    if lane not in turn:
      continue
    notes = lane.notes
    notes.last_eval = figures(lane.config, own)
    notes.extent = extent(own)
    if lane.config.task.by_position and lane.step == lane.config.steps:
      notes.by_position = by_position(own)
    lane.log.write([{'step': lane.step, **notes.last_eval}])
    loss = notes.last_eval[VAL_LOSS.name]
    if loss is not None and (
      notes.best_val_loss is None or loss < notes.best_val_loss
    ):
      notes.best_val_loss, notes.best_step = loss, lane.step
      best.append(lane)
  return best


def _save(group: _Group, lanes: Sequence[Lane]) -> None:
  """Starts to save the states of some trials."""
  if not lanes:
    return
  group.tick()
  group.fetch()
  for lane in lanes:
    lane.save()


def _end(group: _Group) -> None:
  """Saves and reports the trials that have come to their end; takes others."""
  while done := [lane for lane in group.training if lane.trained]:
    _save(group, done)
    for lane, values in zip(group.lanes, group.values, strict=True):
      if lane in done and not lane.paused:
        look(group.program, lane, values, group.fed)
        lane.judge()
    group.tick()
    for lane in done:
      group.hooks.ended(lane.trial, lane.end())
    group.fill()
