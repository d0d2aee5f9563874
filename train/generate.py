"""Text from a trained decoder: prompts continued, with a cache or without."""

import dataclasses
from collections.abc import Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from model.cache import uncacheable
from model.decode import Sampling
from model.field import FieldError, Record, field
from model.limits import BATCH, BEAM, POWER
from model.mask import Prefix
from model.parameter import key_of
from train.load import Loaded
from train.task import DataError
from train.vocabulary import Special
from train.writing import Writer, drawn, searched


@dataclasses.dataclass(frozen=True)
class Generation(Record):
  """Generation: how --generate goes on from each --prompt."""

  new_tokens: int = field(200, 'Tokens after the prompt.', min=1, max=BATCH)
  sampling: Sampling = field(Sampling(), 'How each is chosen.')
  beam: int | None = field(
    None,
    'Hypotheses at a time of a search for the most likely text; none draws a '
    'text, and translates by --task.beam of the trial.',
    min=1,
    max=BEAM,
  )
  length_penalty: float | None = field(
    None,
    'Of a translation, in place of --task.length_penalty of the trial.',
    min=-10.0,
    max=POWER,
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields what is wrong between fields."""
    if self.beam is not None and self.sampling != Sampling():
      yield FieldError(
        'beam', self.beam, 'draws nothing: drop --temperature, --top_k, --top_p'
      )


def continued(
  loaded: Loaded,
  prompts: Sequence[str],
  generation: Generation,
  seed: int = 0,
  cached: bool = True,
) -> list[str]:
  """Returns what the trial writes after each prompt.

  The model sees --seq_len tokens.  What is longer is written in windows, each
  of which begins with the last half of what is there.  All calls have one of
  two shapes, so that one compilation serves every prompt of up to half a window
  and another those that are longer, of which the model sees the end.

  Args:
    loaded: the trial.
    prompts: texts of at least one token in its vocabulary.
    generation: how much, or up to <eos> if that was learned, and how.
    seed: of the draws; what a prompt draws does not depend on the others.
    cached: false computes the whole window for each token.

  Raises:
    DataError: a prompt is empty or shorter than --mask.prefix, or has symbols
      that the vocabulary lacks; or the trial did not learn to go on with a
      text.
  """
  _check(loaded)
  window, least, end = loaded.config.seq_len, _prefix(loaded), _end(loaded)
  begun = [_encoded(loaded, prompt, least) for prompt in prompts]
  written: list[list[int]] = [list(map(int, ids)) for ids in begun]
  total = [len(ids) + generation.new_tokens for ids in begun]
  key = key_of('generate', jax.random.key(seed))
  turn, room = 0, window - 1
  while any(len(ids) < n for ids, n in zip(written, total, strict=True)):
    rows = [ids[-room:] for ids in written]
    missing = [n - len(ids) for ids, n in zip(written, total, strict=True)]
    stops = [len(row) + n for row, n in zip(rows, missing, strict=True)]
    writer = _writer(loaded, rows, cached)
    if generation.beam is not None:
      fresh = searched(writer, loaded.params, generation.beam, rows, stops)
    else:
      keys_B, how = _keys(key, len(rows), turn), generation.sampling
      fresh = drawn(writer, loaded.params, how, rows, keys_B, max(stops))
    every = zip(written, fresh, total, strict=True)
    total = [_grown(ids, more, n, end) for ids, more, n in every]
    turn, room = turn + 1, max(1, window // 2, least)
  return [
    loaded.vocabulary.decode_after(old, ids[len(old) :])
    for ids, old in zip(written, begun, strict=True)
  ]


def _grown(ids: list[int], more: list[int], total: int, end: int | None) -> int:
  """Adds tokens up to an end, and returns how many there are to be in all."""
  more = more[: total - len(ids)]
  if end not in more:
    ids += more
    return total
  ids += more[: more.index(end)]
  return len(ids)


def _check(loaded: Loaded) -> None:
  """Raises a DataError for a trial that cannot go on with a text."""
  config = loaded.config
  if config.architecture.model.has_source or not config.task.predicts_next:
    raise DataError(
      f'--generate: a model that learned --task={config.task.tag} does not go '
      'on with a text: give a trial of --task=text'
    )
  if reason := uncacheable(config.architecture, config.seq_len):
    raise DataError(f'--generate: {reason}')
  if config.seq_len < 2:
    raise DataError('--generate: the trial sees one token: none can follow')


def _keys(key: jax.Array, count: int, turn: int) -> jax.Array:
  """Returns a key for each prompt in one window."""
  numbers_B = jnp.arange(count)
  fold = jax.random.fold_in
  return jax.vmap(lambda n: fold(fold(key, n), turn))(numbers_B)


def _writer(
  loaded: Loaded, rows: Sequence[Sequence[int]], cached: bool
) -> Writer:
  """Returns what serves these rows."""
  config, room = loaded.config, max(1, loaded.config.seq_len // 2)
  if max(map(len, rows)) > room:
    room = config.seq_len
  dims = config.sizes(loaded.vocabulary)
  return Writer(config.architecture, dims, cached, room, _end(loaded))


def _end(loaded: Loaded) -> int | None:
  """Returns the token behind a document, if the trial has learned of one."""
  vocabulary = loaded.vocabulary
  ends = Special.EOS in vocabulary.specials
  return vocabulary.id_of(Special.EOS) if ends else None


def _prefix(loaded: Loaded) -> int:
  """Returns how many tokens the model reads as a whole, before it writes."""
  masks = loaded.config.architecture.masks
  sizes = [mask.prefix for mask in masks if isinstance(mask, Prefix)]
  return max(sizes, default=1)


def _encoded(loaded: Loaded, prompt: str, least: int) -> np.ndarray:
  """Returns the ids of a prompt.

  Raises:
    DataError: it has fewer tokens than that, or symbols that the vocabulary
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
