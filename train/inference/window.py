"""Compiled programs that generate one window of text, for --generate.

A window is as long as the context of the model.  It holds prompts, and the
tokens that are sampled or searched after them.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model import cache, transformer
from model.architecture.architecture import Architecture
from model.backends.recurrent import is_recurrence
from model.core.parameter import Dims, PartParams
from model.decoding.beam import BeamSettings, beam_search
from model.decoding.decode import DecodeStep, Sampling, generate
from train.inference.document import one_document


class GenerationSpec(NamedTuple):
  """The static arguments of the programs.

  Attributes:
    arch: the architecture.
    dims: sizes of the axes.
    cached: False computes the whole window again for each token.
    room: most tokens of a prompt.
    end: the token that ends a text, or None if a text does not end.
  """

  arch: Architecture
  dims: Dims
  cached: bool
  room: int
  end: int | None = None


def _pad(writer: GenerationSpec, rows: Sequence[Sequence[int]]) -> jax.Array:
  """Returns tokens_BS: rows padded with 0 to the length of a window."""
  tokens_BS = np.zeros((len(rows), writer.dims.seq_len), np.int32)
  for row_S, ids in zip(tokens_BS, rows, strict=True):
    row_S[: len(ids)] = ids
  return jnp.asarray(tokens_BS)


def sample_window(
  writer: GenerationSpec,
  params: PartParams,
  sampling: Sampling,
  rows: Sequence[Sequence[int]],
  rngs_B: jax.Array,
  stop: int,
) -> list[list[int]]:
  """Returns tokens sampled after each row, up to the end of a window.

  Tokens at position `stop` and later are not computed, since no caller needs
  them.  After an end token come only end tokens.
  """
  lengths_B = jnp.asarray([len(ids) for ids in rows])
  tokens_BS = _window(
    writer,
    sampling,
    params,
    _pad(writer, rows),
    lengths_B,
    rngs_B,
    jnp.asarray(stop),
  )
  return [
    row_S[len(ids) :].tolist()
    for row_S, ids in zip(np.asarray(tokens_BS), rows, strict=True)
  ]


def search_window(
  writer: GenerationSpec,
  params: PartParams,
  beam: int,
  rows: Sequence[Sequence[int]],
  stops: Sequence[int],
) -> list[list[int]]:
  """Returns the text that beam search finds after each row, in one window."""
  found = []
  for ids, stop in zip(rows, stops, strict=True):
    count = min(stop, writer.dims.seq_len) - len(ids)
    best_S = _best(
      writer,
      beam,
      params,
      _pad(writer, [ids]),
      jnp.asarray([len(ids)]),
      jnp.asarray([max(0, count)]),
    )
    found.append(np.asarray(best_S)[: max(0, count)].tolist())
  return found


@functools.partial(jax.jit, static_argnums=(0, 1))
def _window(
  writer: GenerationSpec,
  sampling: Sampling,
  params: PartParams,
  tokens_BS: jax.Array,
  lengths_B: jax.Array,
  rngs_B: jax.Array,
  stop: jax.Array,
) -> jax.Array:
  """Returns one window, with tokens sampled up to position `stop`."""
  begin = lengths_B.min() - 1
  step, state, begin = _prefill(writer, params, tokens_BS, begin)
  return generate(
    step, state, tokens_BS, lengths_B, begin, rngs_B, sampling, writer.end, stop
  )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _best(
  writer: GenerationSpec,
  beam: int,
  params: PartParams,
  tokens_1S: jax.Array,
  lengths_1: jax.Array,
  counts_1: jax.Array,
) -> jax.Array:
  """Returns tokens_S that beam search finds after a row, `counts_1` of them."""
  last = lengths_1[0] - 1
  step, state, begin = _prefill(writer, params, tokens_1S, last)
  state = jax.lax.fori_loop(
    begin, last, lambda t, state: step(tokens_1S[:, t], state)[1], state
  )
  reorder = cache.select_examples if writer.cached else _reorder
  found = beam_search(
    step,
    reorder,
    reorder(state, jnp.zeros(beam, jnp.int32)),
    tokens_1S[:, last],
    BeamSettings(beam, writer.dims.seq_len, writer.end, open=True),
    counts_1,
  )
  return found.tokens_BWS[0, 0]


def _prefill(
  writer: GenerationSpec,
  params: PartParams,
  tokens_BS: jax.Array,
  last: jax.Array,
) -> tuple[DecodeStep, Any, jax.Array]:
  """Returns a decoding step, the state before it, and its first position.

  The state is the cache, or the tokens so far without one.

  Args:
    writer: static arguments.
    params: of the model.
    tokens_BS: prompts.
    last: position of the last token of the shortest prompt.
  """
  arch, dims, cached, room, _ = writer
  if not cached:
    history = _History(last, tokens_BS)
    return functools.partial(_uncached_step, writer, params), history, last
  filled = cache.empty(arch, dims, *tokens_BS.shape, prompt=room)
  begin = jnp.zeros((), jnp.int32)

  def run(tokens_BT: jax.Array, old: cache.Cache) -> Any:
    inputs = one_document(arch, tokens_BT)
    return transformer.decode_step(arch, dims, params, inputs, old)

  if not any(is_recurrence(layer.parts) for layer in arch.layers):
    # All prompts at once.  Entries from `last` on are in the future of the next
    # step, whose mask hides them until they are written again.
    _, filled = run(tokens_BS[:, :room], filled)
    begin, filled = last, filled._replace(index=last)

  def step(
    tokens_B: jax.Array, old: cache.Cache
  ) -> tuple[jax.Array, cache.Cache]:
    out, new = run(tokens_B[:, None], old)
    return out.logits_BTV[:, 0], new

  return step, filled, begin


class _History(NamedTuple):
  """The tokens so far, and the position of the next one."""

  t: jax.Array
  tokens_BS: jax.Array


def _uncached_step(
  writer: GenerationSpec,
  params: PartParams,
  tokens_B: jax.Array,
  history: _History,
) -> tuple[jax.Array, _History]:
  """Returns the logits after a token, computed from the whole window."""
  t, tokens_BS = history
  tokens_BS = tokens_BS.at[:, t].set(tokens_B)
  inputs = one_document(writer.arch, tokens_BS)
  logits_BSV = transformer.apply(
    writer.arch, writer.dims, params, inputs
  ).logits_BTV
  return logits_BSV[:, t], _History(t + 1, tokens_BS)


def _reorder(history: _History, index_X: jax.Array) -> _History:
  """Returns the tokens of the hypotheses that an index chooses."""
  return history._replace(tokens_BS=history.tokens_BS[index_X])
