"""What a reader looks at when a trial has ended: attention, and a text."""

from collections.abc import Mapping

import numpy as np

from train.feed import held
from train.lane import Lane
from train.program import MAP_TOKENS, Look, Program
from train.sample import write_sample


def look(
  program: Program,
  lane: Lane,
  values: Mapping[str, np.ndarray],
  fed: bool,
) -> None:
  """Keeps what a reader looks at: attention, and a text that it writes.

  The maps are those of the first validation example, with which it begins.

  Args:
    program: of the trial.
    lane: the trial.
    values: its traced numbers.
    fed: whether the host reads its data.
  """
  config, data, folder = lane.config, lane.trial.data, lane.trial.directory
  first_B = np.zeros(1, np.int32)
  arrays = held(config, data, first_B) if fed else dict(data.arrays)
  nothing_1T = np.zeros((1, min(MAP_TOKENS, config.seq_len)), np.int32)

  def seen(tokens_1T: np.ndarray, given: bool) -> Look:
    return program.look(
      lane.state.evaluated, values, arrays, tokens_1T, np.asarray(given)
    )

  first = seen(nothing_1T, False)
  tokens_T = np.asarray(first.tokens_T)
  if first.weights_LNTS is not None:
    size = int(first.size)
    maps_LNTS = np.asarray(first.weights_LNTS, np.float16)
    np.savez_compressed(
      folder / 'attention.npz',
      weights_LNTS=maps_LNTS[..., :size, :size],
      tokens_T=tokens_T[:size],
    )
  if config.task.predicts_next and not config.architecture.model.has_source:
    write_sample(
      folder,
      config.architecture,
      data.vocabulary,
      tokens_T,
      lambda tokens_1T: seen(tokens_1T, True).logits_TV,
    )
