"""Text from a trained decoder: prompts continued, with a cache or without."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from model import cache, transformer
from model.architecture import Architecture
from model.decode import Sampling, generate
from model.field import Record, field
from model.parameter import Dims, Params, key_of
from model.recurrent import recurs
from train.load import Loaded
from train.task import DataError


@dataclasses.dataclass(frozen=True)
class Generation(Record):
  """Generation: how --generate goes on from each --prompt."""

  new_tokens: int = field(200, 'Tokens after the prompt.', min=1)
  sampling: Sampling = field(Sampling(), 'How each is chosen.')


def continued(
  loaded: Loaded,
  prompts: Sequence[str],
  generation: Generation,
  seed: int = 0,
  cached: bool = True,
) -> list[str]:
  """Returns what the trial writes after each prompt.

  The model sees --seq_len tokens.  What is longer is written in windows, each
  of which begins with the last half of what is there: all calls have one shape,
  so that one compilation serves every prompt.

  Args:
    loaded: the trial.
    prompts: texts of at least one token in its vocabulary.
    generation: how much, and how.
    seed: of the draws; what a prompt draws does not depend on the others.
    cached: false computes the whole window for each token.

  Raises:
    DataError: a prompt is empty, or has symbols that the vocabulary lacks; or
      the trial did not learn to go on with a text.
  """
  _check(loaded)
  arch = loaded.config.architecture
  room = max(1, loaded.config.seq_len // 2)
  cached = cached and cache.uncacheable(arch) is None
  begun = [_encoded(loaded, prompt) for prompt in prompts]
  written: list[list[int]] = [list(map(int, ids)) for ids in begun]
  total = [len(ids) + generation.new_tokens for ids in begun]
  key = key_of('generate', jax.random.key(seed))
  turn = 0
  while any(len(ids) < n for ids, n in zip(written, total, strict=True)):
    rows = [ids[-room:] for ids in written]
    keys_B = _keys(key, len(prompts), turn)
    missing = [n - len(ids) for ids, n in zip(written, total, strict=True)]
    stop = max(len(row) + n for row, n in zip(rows, missing, strict=True))
    fresh = _go_on(loaded, generation.sampling, cached, rows, keys_B, stop)
    for ids, more in zip(written, fresh, strict=True):
      ids += more
    turn += 1
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


def _go_on(
  loaded: Loaded,
  sampling: Sampling,
  cached: bool,
  rows: Sequence[Sequence[int]],
  keys_B: jax.Array,
  stop: int,
) -> list[list[int]]:
  """Returns what follows each row of tokens, up to the end of a window.

  Of it nobody needs what is at `stop` and behind: it is not computed.
  """
  tokens_BS = np.zeros((len(rows), loaded.config.seq_len), np.int32)
  for row_S, ids in zip(tokens_BS, rows, strict=True):
    row_S[: len(ids)] = ids
  tokens_BS = _window(
    loaded.config.architecture,
    loaded.config.sizes(loaded.vocabulary),
    sampling,
    cached,
    loaded.params,
    jnp.asarray(tokens_BS),
    jnp.asarray([len(ids) for ids in rows]),
    keys_B,
    jnp.asarray(stop),
  )
  written = np.asarray(tokens_BS)
  return [
    row_S[len(ids) :].tolist() for row_S, ids in zip(written, rows, strict=True)
  ]


def _encoded(loaded: Loaded, prompt: str) -> np.ndarray:
  """Returns the ids of a prompt.

  Raises:
    DataError: it is empty, or has symbols that the vocabulary lacks.
  """
  try:
    ids = loaded.encode(prompt)
  except ValueError as e:
    raise DataError(f'--prompt={prompt}: {e}') from e
  if not len(ids):
    raise DataError('--prompt: must hold a token to go on from')
  return ids


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _window(
  arch: Architecture,
  dims: Dims,
  sampling: Sampling,
  cached: bool,
  params: Params,
  tokens_BS: jax.Array,
  lengths_B: jax.Array,
  keys_B: jax.Array,
  stop: jax.Array,
) -> jax.Array:
  """Returns one window, written up to `stop`."""
  if not cached:
    return generate(
      functools.partial(_whole, arch, dims, params),
      (jnp.zeros((), jnp.int32), tokens_BS),
      tokens_BS,
      lengths_B,
      jnp.zeros((), jnp.int32),
      keys_B,
      sampling,
      None,
      stop,
    )
  batch, window = tokens_BS.shape
  begin = jnp.zeros((), jnp.int32)
  kept = cache.empty(arch, dims, batch, window)
  if not recurs(arch.parts):
    # All prompts at once.  What was written from `begin` on lies in the future
    # of the next step, which hides it until it is written again.
    room = window // 2
    _, kept = transformer.step(arch, dims, params, tokens_BS[:, :room], kept)
    begin = lengths_B.min() - 1
    kept = kept._replace(index=begin)

  def step(
    tokens_B: jax.Array, kept: cache.Cache
  ) -> tuple[jax.Array, cache.Cache]:
    out, kept = transformer.step(arch, dims, params, tokens_B[:, None], kept)
    return out.logits_BTV[:, 0], kept

  return generate(
    step, kept, tokens_BS, lengths_B, begin, keys_B, sampling, None, stop
  )


def _whole(
  arch: Architecture,
  dims: Dims,
  params: Params,
  tokens_B: jax.Array,
  at: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
  """Returns the logits after a token, by all that came before it."""
  t, seen_BS = at
  seen_BS = seen_BS.at[:, t].set(tokens_B)
  logits_BSV = transformer.apply(arch, dims, params, seen_BS).logits_BTV
  return logits_BSV[:, t], (t + 1, seen_BS)
