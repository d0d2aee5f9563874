"""What a reader looks at when a trial has ended: attention, and a text."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from train.feed import held
from train.lane import Lane
from train.program import MAP_TOKENS, Look, Program
from train.sample import write_sample

FILE = 'attention.npz'
TEXT, SOURCE = 'tokens_T', 'source_S'


class Maps(NamedTuple):
  """Attention maps as they lie in the file.

  Attributes:
    stack: whose attention it is, where a source has a stack of its own.
    what: kind of attention.
    weights: name of the weights, in `Look` and in the file.
    queries: name of the tokens that attend.
    keys: name of those attended to.
  """

  stack: str
  what: str
  weights: str
  queries: str
  keys: str


MAPS = (
  Maps('decoder', 'cross-attention', 'cross_LNTS', TEXT, SOURCE),
  Maps('decoder', 'self-attention', 'weights_LNTS', TEXT, TEXT),
  Maps('encoder', 'self-attention', 'encoder_LNTS', SOURCE, SOURCE),
)


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
  _write_maps(folder / FILE, first)
  if config.task.predicts_next and not config.architecture.model.has_source:
    write_sample(
      folder,
      config.architecture,
      data.vocabulary,
      np.asarray(first.text.tokens_T),
      lambda tokens_1T: seen(tokens_1T, True).logits_TV,
    )


def _write_maps(path: pathlib.Path, found: Look) -> None:
  """Writes attention maps and their tokens, without padding, if any attends."""
  # Any, for numpy has keywords of its own that no array is meant for.
  tokens: dict[str, Any] = {
    name: np.asarray(seen.tokens_T)[: int(seen.size)]
    for name, seen in ((TEXT, found.text), (SOURCE, found.source))
    if seen is not None
  }
  weights: dict[str, Any] = {}
  for maps in MAPS:
    whole_LNTS = found._asdict()[maps.weights]
    if whole_LNTS is not None:
      queries, keys = len(tokens[maps.queries]), len(tokens[maps.keys])
      maps_LNTS = np.asarray(whole_LNTS, np.float16)
      weights[maps.weights] = maps_LNTS[..., :queries, :keys]
  if weights:
    np.savez_compressed(path, **weights, **tokens)
