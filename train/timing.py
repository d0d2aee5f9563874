"""How fast a layout is, measured with steps that are thrown away."""

import math
import time
from collections.abc import Sequence

import jax
import numpy as np

from train.feed import Feeding, block, fed
from train.parallel import Layout
from train.program import program, signature
from train.step import init_state
from train.trial import Trial

STEPS = 5  # in one measurement
MEASURE_SECONDS = 0.7  # for the best of several measurements


def seconds_per_step(
  trials: Sequence[Trial], layout: Layout, feed: Feeding | None
) -> float:
  """Returns seconds of one step of one trial, where all lanes are taken.

  Args:
    trials: of one signature; repeated if there are fewer than lanes.
    layout: what is measured.
    feed: as --feed says.
  """
  filled = [trials[n % len(trials)] for n in range(layout.lanes)]
  config, data = trials[0].config, trials[0].data
  on_host = fed(config, data, feed, layout.devices[0])
  parts = [signature(t.config, t.data, layout, on_host) for t in filled]
  sig = parts[0][0]
  chunk = program(sig).chunk
  values = layout.pack([numbers for _, numbers in parts])
  arrays = (
    layout.pack([block(t.config, t.data, 0) for t in filled])
    if on_host
    else layout.place(dict(data.arrays))
  )
  state = layout.pack(
    [init_state(t.config, sig.dims, t.initial) for t in filled]
  )

  def run(stop: int) -> float:
    nonlocal state
    stops = layout.pack([np.int32(stop)] * layout.lanes)
    start = time.monotonic()
    state, _ = chunk(state, values, arrays, stops)
    jax.block_until_ready(state.step)
    return time.monotonic() - start

  run(0)  # compiles, and runs no step
  best, stop, began = math.inf, 0, time.monotonic()
  while stop < 3 * STEPS or time.monotonic() - began < MEASURE_SECONDS:
    stop += STEPS
    best = min(best, run(stop))
  return best / STEPS / layout.lanes
