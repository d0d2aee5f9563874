"""Windows of text: the compiled programs that --generate is made of.

A window is as long as the context of the model: prompts, and what is drawn or
searched after them.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model import cache, transformer
from model.architecture import Architecture
from model.beam import Rules, beam_search
from model.decode import Sampling, Step, generate
from model.parameter import Dims, Params
from model.recurrent import recurs


class Writer(NamedTuple):
  """What a program is compiled for.

  Attributes:
    arch: the architecture.
    dims: sizes of the axes.
    cached: false computes the whole window for each token.
    room: most tokens that a prompt may have.
    end: the token that ends a text; none never ends.
  """

  arch: Architecture
  dims: Dims
  cached: bool
  room: int
  end: int | None = None


def _filled(writer: Writer, rows: Sequence[Sequence[int]]) -> jax.Array:
  """Returns tokens_BS of a window each, 0 behind the rows."""
  tokens_BS = np.zeros((len(rows), writer.dims.seq_len), np.int32)
  for row_S, ids in zip(tokens_BS, rows, strict=True):
    row_S[: len(ids)] = ids
  return jnp.asarray(tokens_BS)


def drawn(
  writer: Writer,
  params: Params,
  sampling: Sampling,
  rows: Sequence[Sequence[int]],
  keys_B: jax.Array,
  stop: int,
) -> list[list[int]]:
  """Returns what follows each row of tokens, up to the end of a window.

  Of it nobody needs what is at `stop` and behind: it is not computed.  Behind
  an end there is nothing but ends.
  """
  lengths_B = jnp.asarray([len(ids) for ids in rows])
  tokens_BS = _window(
    writer,
    sampling,
    params,
    _filled(writer, rows),
    lengths_B,
    keys_B,
    jnp.asarray(stop),
  )
  return [
    row_S[len(ids) :].tolist()
    for row_S, ids in zip(np.asarray(tokens_BS), rows, strict=True)
  ]


def searched(
  writer: Writer,
  params: Params,
  beam: int,
  rows: Sequence[Sequence[int]],
  stops: Sequence[int],
) -> list[list[int]]:
  """Returns the most likely text after each row, up to the end of a window."""
  found = []
  for ids, stop in zip(rows, stops, strict=True):
    count = min(stop, writer.dims.seq_len) - len(ids)
    best_S = _best(
      writer,
      beam,
      params,
      _filled(writer, [ids]),
      jnp.asarray([len(ids)]),
      jnp.asarray([max(0, count)]),
    )
    found.append(np.asarray(best_S)[: max(0, count)].tolist())
  return found


@functools.partial(jax.jit, static_argnums=(0, 1))
def _window(
  writer: Writer,
  sampling: Sampling,
  params: Params,
  tokens_BS: jax.Array,
  lengths_B: jax.Array,
  keys_B: jax.Array,
  stop: jax.Array,
) -> jax.Array:
  """Returns one window, written up to `stop`."""
  begin = lengths_B.min() - 1
  step, kept, begin = _begun(writer, params, tokens_BS, begin)
  return generate(
    step, kept, tokens_BS, lengths_B, begin, keys_B, sampling, writer.end, stop
  )


@functools.partial(jax.jit, static_argnums=(0, 1))
def _best(
  writer: Writer,
  beam: int,
  params: Params,
  tokens_1S: jax.Array,
  lengths_1: jax.Array,
  counts_1: jax.Array,
) -> jax.Array:
  """Returns the most likely tokens_S after one row, so many of them."""
  last = lengths_1[0] - 1
  step, kept, begin = _begun(writer, params, tokens_1S, last)
  kept = jax.lax.fori_loop(
    begin, last, lambda t, kept: step(tokens_1S[:, t], kept)[1], kept
  )
  reorder = cache.reordered if writer.cached else _chosen
  found = beam_search(
    step,
    reorder,
    reorder(kept, jnp.zeros(beam, jnp.int32)),
    tokens_1S[:, last],
    Rules(beam, writer.dims.seq_len, writer.end, open=True),
    counts_1,
  )
  return found.tokens_BWS[0, 0]


def _begun(
  writer: Writer, params: Params, tokens_BS: jax.Array, last: jax.Array
) -> tuple[Step, Any, jax.Array]:
  """Returns a step, the cache before its first, and which position that has.

  Args:
    writer: what is run.
    params: of the model.
    tokens_BS: prompts.
    last: position of the last token of the shortest.
  """
  arch, dims, cached, room, _ = writer
  if not cached:
    seen = _Seen(last, tokens_BS)
    return functools.partial(_whole, writer, params), seen, last
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
  writer: Writer,
  params: Params,
  tokens_B: jax.Array,
  seen: _Seen,
) -> tuple[jax.Array, _Seen]:
  """Returns the logits after a token, by all that came before it."""
  t, seen_BS = seen
  seen_BS = seen_BS.at[:, t].set(tokens_B)
  one_BS = transformer.one_document(writer.arch, seen_BS)
  logits_BSV = transformer.apply(
    writer.arch, writer.dims, params, seen_BS, segments_BT=one_BS
  ).logits_BTV
  return logits_BSV[:, t], _Seen(t + 1, seen_BS)


def _chosen(seen: _Seen, index_X: jax.Array) -> _Seen:
  """Returns what was written by these of the hypotheses."""
  return seen._replace(tokens_BS=seen.tokens_BS[index_X])
