"""Text generation: a trained decoder continues prompts, cached or not."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from model.attention.mask_list import prefix_length
from model.cache import decoding_problem
from model.core.parameter import key_of
from train.core.errors import DataError
from train.inference.generation import Generation
from train.inference.load import TrainedTrial
from train.inference.window import GenerationSpec, sample_window, search_window
from train.text.vocabulary import Special


def generate_texts(
  loaded: TrainedTrial,
  prompts: Sequence[str],
  generation: Generation,
  seed: int = 0,
  cached: bool = True,
) -> list[str]:
  """Returns the text that a trained decoder generates after each prompt.

  The model sees a window of --seq_len tokens.  A longer text is written in
  several windows, each of which begins with the last half of the text so far.
  There are only two shapes, so two compilations: one for prompts of up to half
  a window, one for longer prompts, of which the model sees the end.

  Args:
    loaded: the trial.
    prompts: texts of at least one token in its vocabulary.
    generation: number of tokens, which <eos> may end early, and sampling.
    seed: of the samples; that of a prompt does not depend on other prompts.
    cached: False computes the whole window again for each token.

  Raises:
    DataError: a prompt is empty, shorter than --mask.prefix or has symbols that
      the vocabulary lacks; or the task of the trial is not to continue text.
  """
  _check(loaded)
  window, least, end = loaded.config.seq_len, _prefix(loaded), _end(loaded)
  start = [_encode(loaded, prompt, least) for prompt in prompts]
  written: list[list[int]] = [list(map(int, ids)) for ids in start]
  total = [len(ids) + generation.new_tokens for ids in start]
  key = key_of('generate', jax.random.key(seed))
  turn, room = 0, window - 1
  while any(len(ids) < n for ids, n in zip(written, total, strict=True)):
    rows = [ids[-room:] for ids in written]
    missing = [n - len(ids) for ids, n in zip(written, total, strict=True)]
    stops = [len(row) + n for row, n in zip(rows, missing, strict=True)]
    writer = _writer(loaded, rows, cached)
    if generation.beam is not None:
      fresh = search_window(writer, loaded.params, generation.beam, rows, stops)
    else:
      draws = generation.sampling, rows, _keys(key, len(rows), turn)
      fresh = sample_window(writer, loaded.params, *draws, max(stops))
    every = zip(written, fresh, total, strict=True)
    total = [_extend(ids, more, n, end) for ids, more, n in every]
    turn, room = turn + 1, max(1, window // 2, least)
  return [
    loaded.vocabulary.decode_after(old, ids[len(old) :])
    for ids, old in zip(written, start, strict=True)
  ]


def _extend(
  ids: list[int], more: list[int], total: int, end: int | None
) -> int:
  """Appends tokens up to an end token; returns the final number of tokens."""
  more = more[: total - len(ids)]
  if end not in more:
    ids += more
    return total
  ids += more[: more.index(end)]
  return len(ids)


def _check(loaded: TrainedTrial) -> None:
  """Raises a DataError for a trial that cannot continue a text."""
  config = loaded.config
  if (
    config.architecture.model.traits.has_source or not config.task.predicts_next
  ):
    raise DataError(
      f'--generate: a model that learned --task={config.task.tag} does not go '
      'on with a text: give a trial of --task=text'
    )
  if reason := decoding_problem(config.architecture, config.seq_len):
    raise DataError(f'--generate: {reason}')
  if config.seq_len < 2:
    raise DataError('--generate: the trial sees one token: none can follow')


def _keys(key: jax.Array, count: int, turn: int) -> jax.Array:
  """Returns a random key for each prompt, in the window number `turn`."""
  numbers_B = jnp.arange(count)
  fold = jax.random.fold_in
  return jax.vmap(lambda n: fold(fold(key, n), turn))(numbers_B)


def _writer(
  loaded: TrainedTrial, rows: Sequence[Sequence[int]], cached: bool
) -> GenerationSpec:
  """Returns the writer with room for these rows: half a window, or a whole."""
  config, room = loaded.config, max(1, loaded.config.seq_len // 2)
  if max(map(len, rows)) > room:
    room = config.seq_len
  dims = config.sizes(loaded.vocabulary)
  return GenerationSpec(config.architecture, dims, cached, room, _end(loaded))


def _end(loaded: TrainedTrial) -> int | None:
  """Returns the token that ends a document, or None if there is none."""
  vocabulary = loaded.vocabulary
  ends = Special.EOS in vocabulary.specials
  return vocabulary.id_of(Special.EOS) if ends else None


def _prefix(loaded: TrainedTrial) -> int:
  """Returns the length of the prefix that the model sees as a whole, or 1."""
  masks = loaded.config.architecture.masks
  return max(1, prefix_length(masks))


def _encode(loaded: TrainedTrial, prompt: str, least: int) -> np.ndarray:
  """Returns the token ids of a prompt.

  Raises:
    DataError: it has fewer than `least` tokens, or symbols that the vocabulary
      lacks.
  """
  try:
    ids = loaded.encode(prompt)
  except ValueError as e:
    raise DataError(f'--prompt={prompt}: {e}') from e
  if not len(ids):
    raise DataError('--prompt: must hold a token to go on from')
  if len(ids) < least:
    raise DataError(
      f'--prompt={prompt}: has {len(ids)} tokens, and the trial reads the '
      f'first {least} as a whole, by --mask.prefix: give at least {least}'
    )
  return ids
