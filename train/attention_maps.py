"""Attention maps and a sample text, written when a trial ends."""

import io
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from train.files.durable import read_file_bytes, write_atomically
from train.files.records import AGAIN
from train.files.strict import DamagedFile
from train.host_feed import validation_rows
from train.lane import Lane
from train.programs.inspection import Inspection
from train.programs.program import Program
from train.sample import write_sample

ATTENTION_FILE = 'attention.npz'
TEXT, SOURCE = 'tokens_T', 'source_S'
MAP_TOKENS = 64  # attention maps are kept for this many tokens


class MapNames(NamedTuple):
  """The names of one kind of attention map in the file.

  Attributes:
    stack: encoder or decoder, for models that have both.
    what: kind of attention.
    weights: name of the weights, in `Inspection` and in the file.
    queries: name of the tokens that attend.
    keys: name of the tokens that are attended to.
  """

  stack: str
  what: str
  weights: str
  queries: str
  keys: str


MAPS = (
  MapNames('decoder', 'cross-attention', 'cross_LNTS', TEXT, SOURCE),
  MapNames('decoder', 'self-attention', 'weights_LNTS', TEXT, TEXT),
  MapNames('encoder', 'self-attention', 'encoder_LNTS', SOURCE, SOURCE),
)


def write_inspection(
  program: Program,
  lane: Lane,
  values: Mapping[str, np.ndarray],
  fed: bool,
) -> None:
  """Writes the attention maps of the first validation example, and a sample.

  The sample continues the same example, if the model can generate text.

  Args:
    program: of the trial.
    lane: of the trial.
    values: its traced numbers.
    fed: whether the host feeds its data.
  """
  config, data, folder = lane.config, lane.trial.data, lane.trial.directory
  first_B = np.zeros(1, np.int32)
  arrays = validation_rows(config, data, first_B) if fed else dict(data.arrays)
  unused_1T = np.zeros((1, min(MAP_TOKENS, config.seq_len)), np.int32)

  def forward(tokens_1T: np.ndarray, given: bool) -> Inspection:
    return program.inspect_example(
      lane.state.eval_params, values, arrays, tokens_1T, np.asarray(given)
    )

  first = forward(unused_1T, False)
  _write_maps(folder / ATTENTION_FILE, first)
  if (
    config.task.predicts_next
    and not config.architecture.model.traits.has_source
  ):
    write_sample(
      folder,
      config.architecture,
      data.vocabulary,
      np.asarray(first.text.tokens_T),
      lambda tokens_1T: forward(tokens_1T, True).logits_TV,
    )


def _write_maps(path: pathlib.Path, found: Inspection) -> None:
  """Writes attention maps and tokens without padding; no file without maps."""
  # Any: savez_compressed has keywords of its own, which are no arrays.
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
  """Returns the attention maps and tokens of a file, by name.

  Args:
    path: the file.
    symbols: size of the vocabulary, which every token id must be below.

  Raises:
    DamagedFile: the file is not as it was written.
  """
  try:
    data = io.BytesIO(read_file_bytes(path))
    with np.load(data, allow_pickle=False) as saved:
      found = {name: np.asarray(saved[name]) for name in saved.files}
    _check_maps(found, symbols)
  # A damaged archive may raise errors of zipfile, zlib, struct or numpy.
  except Exception as e:
    reason = (str(e).splitlines() or [type(e).__name__])[0][:200]
    fault = f'{path}: is damaged ({reason})'
    raise DamagedFile(fault, f'remove it, or {AGAIN}') from e
  return found


def _check_maps(found: Mapping[str, np.ndarray], symbols: int) -> None:
  """Raises ValueError unless there are maps, with tokens that fit them."""
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
