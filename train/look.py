"""What a reader looks at when a trial has ended: attention, and a text."""

import io
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from train.feed import held
from train.files import content, write_atomically
from train.lane import Lane
from train.program import MAP_TOKENS, Look, Program
from train.records import AGAIN
from train.sample import write_sample
from train.strict import Damaged

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
    packed = io.BytesIO()
    np.savez_compressed(packed, **weights, **tokens)
    write_atomically(path, packed.getvalue())


def read_maps(path: pathlib.Path, symbols: int) -> dict[str, np.ndarray]:
  """Returns the attention maps of a file and their tokens, by their names.

  Args:
    path: the file.
    symbols: how many there are; a token is below that.

  Raises:
    Damaged: it is not as it was written.
  """
  try:
    data = io.BytesIO(content(path))
    with np.load(data, allow_pickle=False) as saved:
      found = {name: np.asarray(saved[name]) for name in saved.files}
    _check_maps(found, symbols)
  # A packed file goes wrong in zipfile, zlib, struct and numpy.
  except Exception as e:
    reason = (str(e).splitlines() or [type(e).__name__])[0][:200]
    fault = f'{path}: is damaged ({reason})'
    raise Damaged(fault, f'remove it, or {AGAIN}') from e
  return found


def _check_maps(found: Mapping[str, np.ndarray], symbols: int) -> None:
  """Raises ValueError unless there are maps, each with its tokens."""
  there = [maps for maps in MAPS if maps.weights in found]
  wanted = {
    name for maps in there for name in (maps.weights, maps.queries, maps.keys)
  }
  if not there or not wanted <= found.keys() <= wanted | {TEXT, SOURCE}:
    raise ValueError(f'holds {", ".join(sorted(found)) or "nothing"}'[:200])
  for name in (TEXT, SOURCE):
    ids_T = found.get(name)
    if ids_T is None:
      continue
    if ids_T.ndim != 1 or ids_T.dtype.kind not in 'iu':
      raise ValueError(f'{name} are no tokens')
    if ids_T.size and not 0 <= ids_T.min() <= ids_T.max() < symbols:
      raise ValueError(f'{name} has a token outside the vocabulary')
  for maps in there:
    weights_LNTS = found[maps.weights]
    sizes = len(found[maps.queries]), len(found[maps.keys])
    if weights_LNTS.ndim != 4 or weights_LNTS.shape[2:] != sizes:
      raise ValueError(f'{maps.weights} does not fit its tokens')
    if weights_LNTS.dtype.kind != 'f':
      raise ValueError(f'{maps.weights} are no weights')
