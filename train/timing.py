"""The speed of a layout, measured with steps whose results are discarded.

The programs are imported when they are measured, since they import Flax and
Optax: every plan imports this file, and few measure.
"""

import math
import time
from collections.abc import Sequence

import jax
import numpy as np

from train.devices.parallel import Layout
from train.host_feed import Feeding, is_host_fed, read_block
from train.trial import Trial

MEASURE_STEPS = 5  # per measurement
MEASURE_SECONDS = 0.7  # least time spent; the fastest measurement counts


def seconds_per_step(
  trials: Sequence[Trial], layout: Layout, feed: Feeding | None
) -> float:
  """Returns seconds per step and trial of a layout with all lanes in use.

  Args:
    trials: of one signature; repeated if there are fewer than lanes.
    layout: the layout to measure.
    feed: value of --feed.
  """
  from train.programs.program import get_program
  from train.programs.signature import signature
  from train.programs.state import init_state

  filled = [trials[n % len(trials)] for n in range(layout.lanes)]
  config, data = trials[0].config, trials[0].data
  on_host = is_host_fed(config, data, feed, layout.devices[0])
  parts = [signature(t.config, t.data, layout, on_host) for t in filled]
  sig = parts[0][0]
  chunk = get_program(sig).chunk
  values = layout.pack([numbers for _, numbers in parts])
  arrays = (
    layout.pack([read_block(t.config, t.data, 0) for t in filled])
    if on_host
    else layout.place(dict(data.arrays))
  )
  state = layout.pack(
    [init_state(t.config, sig.dims, t.initial) for t in filled],
    sig.parameter_axes,
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
  while stop < 3 * MEASURE_STEPS or time.monotonic() - began < MEASURE_SECONDS:
    stop += MEASURE_STEPS
    best = min(best, run(stop))
  return best / MEASURE_STEPS / layout.lanes
