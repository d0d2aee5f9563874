"""The trials that run side by side in a program, and their packed state."""

import time
from collections.abc import Iterator

from train.devices.compilations import Compilations
from train.devices.parallel import Layout
from train.host_feed import is_host_fed, validation_batches
from train.lane import Lane
from train.programs.program import get_program
from train.programs.signature import signature
from train.trial import Options, Trial, TrialListener


class TrialGroup:
  """The trials that run side by side in a program, and their packed state.

  `num_begun` counts the trials that have begun; `unfinished` has those of them
  that have not ended, by id; `compilations` has what was compiled since the
  last tick.
  """

  def __init__(
    self,
    trials: Iterator[Trial],
    options: Options,
    layout: Layout,
    listener: TrialListener,
  ):
    self.options, self.layout, self.listener = options, layout, listener
    self.waiting = trials
    self.num_begun, self.unfinished = 0, dict[str, Trial]()
    self.last_tick = time.monotonic()
    self.compilations = Compilations()
    self.chunk_steps = 1
    self.lanes: list[Lane] = []

  def fill(self) -> None:
    """Fills free lanes with waiting trials, and packs the states of all lanes.

    The states of the running trials must be on the host.
    """
    changed = False
    for n in range(self.layout.lanes):
      if n < len(self.lanes) and not self.lanes[n].ended:
        continue
      trial = self._next()
      if trial is None:
        break
      changed = True
      lane = Lane(
        trial,
        self.options,
        self.listener,
        self.layout,
        self._is_host_fed(trial),
      )
      if n < len(self.lanes):
        before, self.lanes[n] = self.lanes[n], lane
        before.close()
      else:
        self.lanes.append(lane)
    if changed:
      self._pack()

  def _next(self) -> Trial | None:
    """Begins the next waiting trial and returns it, or None if none waits."""
    trial = next(self.waiting, None)
    if trial is not None:
      self.num_begun += 1
      self.unfinished[trial.id] = trial
      self.listener.begin(trial)
    return trial

  def end(self, lane: Lane) -> None:
    """Reports the end of a trial."""
    result = lane.end()
    self.unfinished.pop(lane.trial.id, None)
    self.listener.end(lane.trial, result)

  def _is_host_fed(self, trial: Trial) -> bool:
    """Returns whether the host feeds the data of a trial."""
    feed, device = self.options.feed, self.layout.devices[0]
    return is_host_fed(trial.config, trial.data, feed, device)

  def _pack(self) -> None:
    """Copies the states of all lanes to the devices."""
    first, layout = self.lanes[0].trial, self.layout
    self.is_host_fed = self._is_host_fed(first)
    signatures = [
      signature(lane.config, lane.trial.data, layout, self.is_host_fed)
      for lane in self.lanes
    ]
    self.program = get_program(signatures[0][0])
    self.values = [values for _, values in signatures]
    # Idle lanes hold a copy of the first trial and take no steps.
    self.idle = layout.lanes - len(self.lanes)
    states = [lane.state for lane in self.lanes]
    self.packed = layout.pack(self.values + self.values[:1] * self.idle)
    # The validation data; the training data too unless the host feeds them.
    self.arrays = layout.place(
      validation_batches(first.config, first.data)
      if self.is_host_fed
      else dict(first.data.arrays)
    )
    self.blocks: list[int] = []  # numbers of the blocks on the devices
    axes = signatures[0][0].parameter_axes
    self.state = layout.pack(states + states[:1] * self.idle, axes)

  @property
  def training(self) -> list[Lane]:
    """Returns the lanes whose trials have not ended."""
    return [lane for lane in self.lanes if not lane.ended]

  def feed(self) -> None:
    """Copies the rows of the next steps of all lanes to the devices."""
    if not self.is_host_fed:
      return
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
    """Copies the states of all lanes to the host."""
    states = self.layout.unpack(self.state)
    for lane, state in zip(self.lanes, states, strict=False):
      lane.state = state

  def tick(self) -> float:
    """Divides the seconds since the last tick equally among the trials.

    What was compiled meanwhile is noted by each, because each waited for it.

    Returns:
      The share of each, in seconds.
    """
    now = time.monotonic()
    share = (now - self.last_tick) / max(1, len(self.training))
    compiled = self.compilations.take()
    for lane in self.training:
      lane.notes.seconds += share
      for name, seconds in compiled.items():
        before = lane.notes.compiled.get(name, 0.0)
        lane.notes.compiled[name] = before + seconds
    self.last_tick = now
    return share

  def close(self) -> None:
    """Waits until all is on the disk; raises the first error of writing."""
    self.compilations.close()
    problems: list[Exception] = []
    for lane in self.lanes:
      try:
        lane.close()
      except Exception as e:
        problems.append(e)
    if problems:
      raise problems[0]
