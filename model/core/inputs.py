"""The inputs of a model, and the positions of their tokens."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp


class Source(NamedTuple):
  """The source text of an encoder-decoder; segment 0 is padding."""

  tokens_BS: jax.Array
  segments_BS: jax.Array | None = None


class ModelInputs(NamedTuple):
  """A batch of tokens, or of vectors, with its documents and its source.

  Attributes:
    tokens_BT: token ids; `None` if the model reads vectors.
    segments_BT: 0 for padding, else the number of the document in its row, from
      1; `None` if documents are not told apart.
    source: source text of an encoder-decoder, else `None`.
    vectors_BTI: real vectors that are read in place of tokens, else `None`.
  """

  tokens_BT: jax.Array | None = None
  segments_BT: jax.Array | None = None
  source: Source | None = None
  vectors_BTI: jax.Array | None = None

  @property
  def length(self) -> int:
    """Returns the number of positions in a row."""
    read = self.tokens_BT if self.vectors_BTI is None else self.vectors_BTI
    assert read is not None
    return read.shape[1]


class Positions(NamedTuple):
  """Positions of the queries, or of the keys, in their row and document.

  They are computed once from `ModelInputs` and passed on unchanged.

  Attributes:
    t: [T], position in the row.
    segment: [B, T], 0 for padding, else the number of the document in its row,
      from 1; `None` if documents are not told apart.
    place: [B, T], position in the document; `None` if positions are counted
      along the row.
  """

  t: jax.Array
  segment: jax.Array | None = None
  place: jax.Array | None = None


def call_with_positions(
  call: Callable[[jax.Array, jax.Array], jax.Array],
  x_BTX: jax.Array,
  at: Positions,
) -> jax.Array:
  """Calls a function of an array and positions, with the right positions.

  These are places in documents if `at` has any, one example at a time, else
  positions in the row.  So the function need not know of documents.
  """
  if at.place is None:
    return call(x_BTX, at.t)
  return jax.vmap(lambda x_TX, t_T: call(x_TX[None], t_T)[0])(x_BTX, at.place)


def broadcast_positions(
  queries: Positions, keys: Positions
) -> tuple[Positions, Positions]:
  """Returns both with arrays that broadcast to the shape of mask_B1TS."""

  def down(x_BT: jax.Array | None) -> jax.Array | None:
    return None if x_BT is None else x_BT[:, None, :, None]

  def across(x_BS: jax.Array | None) -> jax.Array | None:
    return None if x_BS is None else x_BS[:, None, None, :]

  t, s = queries.t[None, None, :, None], keys.t[None, None, None, :]
  segments = down(queries.segment), across(keys.segment)
  return (
    Positions(t, segments[0], down(queries.place)),
    Positions(s, segments[1], across(keys.place)),
  )


def document_places(
  segments_BT: jax.Array, before: tuple[jax.Array, jax.Array] | None = None
) -> jax.Array:
  """Returns place_BT, the position of each token in its document, from 0.

  Args:
    segments_BT: document of each token.
    before: document and place of the token before the first; `None` if there is
      no such token.
  """
  t_T = jnp.arange(segments_BT.shape[1])
  first_BT = segments_BT[:, 1:] != segments_BT[:, :-1]
  # Where each document begins; negative if that was before this row.
  begin_B = jnp.zeros_like(segments_BT[:, 0])
  if before is not None:
    segment_B, place_B = before
    begin_B = jnp.where(segments_BT[:, 0] == segment_B, -1 - place_B, 0)
  begin_BT = jnp.where(first_BT, t_T[1:], begin_B[:, None])
  begin_BT = jnp.concatenate([begin_B[:, None], begin_BT], 1)
  return (t_T - jax.lax.cummax(begin_BT, axis=1)).astype(jnp.int32)


class HeadGates(NamedTuple):
  """Factors that the outputs of heads are multiplied by; `None` is 1.

  The gradient at 1 is the importance of a head (Michel et al. 2019,
  arXiv:1905.10650).

  Attributes:
    self_LN: for self-attention in the last stack.
    cross_LN: for cross-attention.
    encoder_LN: for self-attention in the encoder of an encoder-decoder.
  """

  self_LN: jax.Array | None = None
  cross_LN: jax.Array | None = None
  encoder_LN: jax.Array | None = None


EVERY_HEAD = HeadGates()
