"""Text from a trained decoder: prompts continued, with a cache or without."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model import cache, transformer
from model.architecture import Architecture
from model.beam import Rules, beam_search
from model.decode import Sampling, Step, generate
from model.field import FieldError, Record, field
from model.mask import Prefix
from model.parameter import Dims, Params, key_of
from model.recurrent import recurs
from train.load import Loaded
from train.task import DataError


@dataclasses.dataclass(frozen=True)
class Generation(Record):
  """Generation: how --generate goes on from each --prompt."""

  new_tokens: int = field(200, 'Tokens after the prompt.', min=1)
  sampling: Sampling = field(Sampling(), 'How each is chosen.')
  beam: int | None = field(
    None,
    'Hypotheses at a time of a search for the most likely text; none draws a '
    'text, and translates by --task.beam of the trial.',
    min=1,
  )
  length_penalty: float | None = field(
    None,
    'Of a translation, in place of --task.length_penalty of the trial.',
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields what is wrong between fields."""
    if self.beam is not None and self.sampling != Sampling():
      yield FieldError(
        'beam', self.beam, 'draws nothing: drop --temperature, --top_k, --top_p'
      )


class Model(NamedTuple):
  """What a program is compiled for.

  Attributes:
    arch: the architecture.
    dims: sizes of the axes.
    cached: false computes the whole window for each token.
    room: most tokens that a prompt may have.
  """

  arch: Architecture
  dims: Dims
  cached: bool
  room: int


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
    generation: how much, and how.
    seed: of the draws; what a prompt draws does not depend on the others.
    cached: false computes the whole window for each token.

  Raises:
    DataError: a prompt is empty or shorter than --mask.prefix, or has symbols
      that the vocabulary lacks; or the trial did not learn to go on with a
      text.
  """
  _check(loaded)
  window = loaded.config.seq_len
  least = _prefix(loaded)
  begun = [_encoded(loaded, prompt, least) for prompt in prompts]
  written: list[list[int]] = [list(map(int, ids)) for ids in begun]
  total = [len(ids) + generation.new_tokens for ids in begun]
  key = key_of('generate', jax.random.key(seed))
  turn, room = 0, window - 1
  while any(len(ids) < n for ids, n in zip(written, total, strict=True)):
    rows = [ids[-room:] for ids in written]
    missing = [n - len(ids) for ids, n in zip(written, total, strict=True)]
    stops = [len(row) + n for row, n in zip(rows, missing, strict=True)]
    model = _model(loaded, rows, cached)
    if generation.beam is not None:
      fresh = _searched(model, loaded.params, generation.beam, rows, stops)
    else:
      keys_B = _keys(key, len(prompts), turn)
      how = generation.sampling
      fresh = _drawn(model, loaded.params, how, rows, keys_B, max(stops))
    for ids, more in zip(written, fresh, strict=True):
      ids += more
    turn, room = turn + 1, max(1, window // 2, least)
  return [
    loaded.vocabulary.decode(np.asarray(ids[len(old) : n]))
    for ids, old, n in zip(written, begun, total, strict=True)
  ]


def _check(loaded: Loaded) -> None:
  """Raises a DataError for a trial that cannot go on with a text."""
  config = loaded.config
  if config.architecture.model.has_source or not config.task.predicts_next:
    raise DataError(
      f'--generate: a model that learned --task={config.task.tag} does not go '
      'on with a text: give a trial of --task=text'
    )
  if config.seq_len < 2:
    raise DataError('--generate: the trial sees one token: none can follow')


def _keys(key: jax.Array, count: int, turn: int) -> jax.Array:
  """Returns a key for each prompt in one window."""
  numbers_B = jnp.arange(count)
  fold = jax.random.fold_in
  return jax.vmap(lambda n: fold(fold(key, n), turn))(numbers_B)


def _model(
  loaded: Loaded, rows: Sequence[Sequence[int]], cached: bool
) -> Model:
  """Returns what serves these rows."""
  config, room = loaded.config, max(1, loaded.config.seq_len // 2)
  if max(map(len, rows)) > room:
    room = config.seq_len
  dims = config.sizes(loaded.vocabulary)
  return Model(config.architecture, dims, cached, room)


def _filled(model: Model, rows: Sequence[Sequence[int]]) -> jax.Array:
  """Returns tokens_BS of a window each, 0 behind the rows."""
  tokens_BS = np.zeros((len(rows), model.dims.seq_len), np.int32)
  for row_S, ids in zip(tokens_BS, rows, strict=True):
    row_S[: len(ids)] = ids
  return jnp.asarray(tokens_BS)


def _drawn(
  model: Model,
  params: Params,
  sampling: Sampling,
  rows: Sequence[Sequence[int]],
  keys_B: jax.Array,
  stop: int,
) -> list[list[int]]:
  """Returns what follows each row of tokens, up to the end of a window.

  Of it nobody needs what is at `stop` and behind: it is not computed.
  """
  lengths_B = jnp.asarray([len(ids) for ids in rows])
  tokens_BS = _window(
    model,
    sampling,
    params,
    _filled(model, rows),
    lengths_B,
    keys_B,
    jnp.asarray(stop),
  )
  return [
    row_S[len(ids) :].tolist()
    for row_S, ids in zip(np.asarray(tokens_BS), rows, strict=True)
  ]


def _searched(
  model: Model,
  params: Params,
  beam: int,
  rows: Sequence[Sequence[int]],
  stops: Sequence[int],
) -> list[list[int]]:
  """Returns the most likely text after each row, up to the end of a window."""
  found = []
  for ids, stop in zip(rows, stops, strict=True):
    count = min(stop, model.dims.seq_len) - len(ids)
    best_S = _best(
      model,
      beam,
      params,
      _filled(model, [ids]),
      jnp.asarray([len(ids)]),
      jnp.asarray([max(0, count)]),
    )
    found.append(np.asarray(best_S)[: max(0, count)].tolist())
  return found


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


@functools.partial(jax.jit, static_argnums=(0, 1))
def _window(
  model: Model,
  sampling: Sampling,
  params: Params,
  tokens_BS: jax.Array,
  lengths_B: jax.Array,
  keys_B: jax.Array,
  stop: jax.Array,
) -> jax.Array:
  """Returns one window, written up to `stop`."""
  begin = lengths_B.min() - 1
  step, kept, begin = _begun(model, params, tokens_BS, begin)
  return generate(
    step, kept, tokens_BS, lengths_B, begin, keys_B, sampling, None, stop
  )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _best(
  model: Model,
  beam: int,
  params: Params,
  tokens_1S: jax.Array,
  lengths_1: jax.Array,
  counts_1: jax.Array,
) -> jax.Array:
  """Returns the most likely tokens_S after one row, so many of them."""
  last = lengths_1[0] - 1
  step, kept, begin = _begun(model, params, tokens_1S, last)
  kept = jax.lax.fori_loop(
    begin, last, lambda t, kept: step(tokens_1S[:, t], kept)[1], kept
  )
  reorder = cache.reordered if model.cached else _chosen
  found = beam_search(
    step,
    reorder,
    reorder(kept, jnp.zeros(beam, jnp.int32)),
    tokens_1S[:, last],
    Rules(beam, model.dims.seq_len, None),
    counts_1,
  )
  return found.tokens_BWS[0, 0]


def _begun(
  model: Model, params: Params, tokens_BS: jax.Array, last: jax.Array
) -> tuple[Step, Any, jax.Array]:
  """Returns a step, the cache before its first, and which position that has.

  Args:
    model: what is run.
    params: of the model.
    tokens_BS: prompts.
    last: position of the last token of the shortest.
  """
  arch, dims, cached, room = model
  if not cached:
    seen = _Seen(last, tokens_BS)
    return functools.partial(_whole, model, params), seen, last
  kept = cache.empty(arch, dims, *tokens_BS.shape, prompt=room)
  begin = jnp.zeros((), jnp.int32)

  def run(tokens_BT: jax.Array, kept: cache.Cache) -> Any:
    one_BT = transformer.one_document(arch, tokens_BT)
    return transformer.step(arch, dims, params, tokens_BT, kept, one_BT)

  if not recurs(arch.parts):
    # All prompts at once.  What was written from `last` on lies in the future
    # of the next step, which hides it until it is written again.
    _, kept = run(tokens_BS[:, :room], kept)
    begin, kept = last, kept._replace(index=last)

  def one(
    tokens_B: jax.Array, kept: cache.Cache
  ) -> tuple[jax.Array, cache.Cache]:
    out, kept = run(tokens_B[:, None], kept)
    return out.logits_BTV[:, 0], kept

  return one, kept, begin


class _Seen(NamedTuple):
  """What is written, and how far."""

  t: jax.Array
  tokens_BS: jax.Array


def _whole(
  model: Model,
  params: Params,
  tokens_B: jax.Array,
  seen: _Seen,
) -> tuple[jax.Array, _Seen]:
  """Returns the logits after a token, by all that came before it."""
  t, seen_BS = seen
  seen_BS = seen_BS.at[:, t].set(tokens_B)
  one_BS = transformer.one_document(model.arch, seen_BS)
  logits_BSV = transformer.apply(
    model.arch, model.dims, params, seen_BS, segments_BT=one_BS
  ).logits_BTV
  return logits_BSV[:, t], _Seen(t + 1, seen_BS)


def _chosen(seen: _Seen, index_X: jax.Array) -> _Seen:
  """Returns what was written by these of the hypotheses."""
  return seen._replace(tokens_BS=seen.tokens_BS[index_X])
