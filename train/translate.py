"""Translations by a trained encoder-decoder: sources in, texts out."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model import cache, transformer
from model.architecture import Architecture
from model.beam import Rules, beam_search
from model.decode import Step
from model.network import Source
from model.parameter import Dims, Params
from train.task import DataError
from train.vocabulary import Special, Vocabulary

ROWS = 64  # translated at a time, at most


class Translator(NamedTuple):
  """A model and its symbols."""

  arch: Architecture
  dims: Dims
  params: Params
  vocabulary: Vocabulary


def translated(
  translator: Translator,
  sources: Sequence[np.ndarray],
  beam: int,
  penalty: float,
  cached: bool = True,
) -> list[np.ndarray]:
  """Returns the ids of the best translation of each source.

  A call has a power of two of rows, at most `ROWS`: one compilation serves all
  texts that round up to the same number.

  Args:
    translator: the model.
    sources: ids, without special tokens; at most --seq_len - 1 of each count.
    beam: hypotheses of each.
    penalty: exponent of the length by which their scores are divided.
    cached: false computes the whole translation for each token.
  """
  arch, dims, vocabulary = (
    translator.arch,
    translator.dims,
    translator.vocabulary,
  )
  end = vocabulary.id_of(Special.EOS)
  rules = Rules(beam, dims.seq_len, end, penalty, least=1)
  size = min(ROWS, 1 << max(0, len(sources) - 1).bit_length())
  # Those of similar length end together.
  order = np.argsort([len(ids) for ids in sources], kind='stable')
  found: list[np.ndarray] = [np.zeros(0, np.int32)] * len(sources)
  for first in range(0, len(order), size):
    numbers = order[first : first + size]
    rows = [sources[n] for n in numbers]
    source = _padded(rows, size, dims.seq_len, vocabulary)
    tokens_BS = np.asarray(
      _best(
        arch,
        dims,
        rules,
        cached,
        translator.params,
        source,
        jnp.full(size, vocabulary.id_of(Special.BOS)),
      )
    )
    for n, ids_S in zip(numbers, tokens_BS, strict=False):
      found[n] = ids_S[: np.argmax(ids_S == end)]
  return found


def texts_of(
  translator: Translator, texts: Sequence[str], beam: int, penalty: float
) -> list[str]:
  """Returns the translation of each text.

  Raises:
    DataError: it is empty, or longer than the model reads.
  """
  vocabulary, longest = translator.vocabulary, translator.dims.seq_len - 1
  ids = vocabulary.encode_all(texts)
  for text, own in zip(texts, ids, strict=True):
    if not 0 < len(own) <= longest:
      raise DataError(
        f'--prompt={text}: has {len(own)} tokens, and the trial reads 1 to '
        f'{longest}'
      )
  return [
    vocabulary.decode(found)
    for found in translated(translator, ids, beam, penalty)
  ]


def _padded(
  rows: Sequence[np.ndarray], size: int, length: int, vocabulary: Vocabulary
) -> Source:
  """Returns so many rows, ended and filled up; rows of nothing below them."""
  tokens_BS = np.full((size, length), vocabulary.id_of(Special.PAD), np.int32)
  segments_BS = np.zeros((size, length), np.int32)
  segments_BS[:, 0] = 1
  for b, ids in enumerate(rows):
    ended = [*ids[: length - 1], vocabulary.id_of(Special.EOS)]
    tokens_BS[b, : len(ended)] = ended
    segments_BS[b, : len(ended)] = 1
  return Source(jnp.asarray(tokens_BS), jnp.asarray(segments_BS))


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _best(
  arch: Architecture,
  dims: Dims,
  rules: Rules,
  cached: bool,
  params: Params,
  source: Source,
  first_B: jax.Array,
) -> jax.Array:
  """Returns tokens_BS of the best hypotheses."""
  if cached:
    step, start = _cached(arch, dims, rules, params, source, first_B)
    found = beam_search(step, cache.reordered, start, first_B, rules)
  else:
    step, start = _whole(arch, dims, rules, params, source)
    found = beam_search(step, _chosen, start, first_B, rules)
  return found.tokens_BWS[:, 0]


def _cached(
  arch: Architecture,
  dims: Dims,
  rules: Rules,
  params: Params,
  source: Source,
  first_B: jax.Array,
) -> tuple[Step, cache.Cache]:
  """Returns a step by the cache, and the cache that holds the source."""
  batch, width = len(first_B), rules.width
  # The first step encodes the source, once for all hypotheses.
  _, kept = transformer.step(
    arch,
    dims,
    params,
    first_B[:, None],
    cache.empty(arch, dims, batch, 1),
    source=source,
  )
  empty = cache.empty(arch, dims, batch * width, rules.size)
  start = empty._replace(cross=cache.repeated(kept.cross, width))

  def step(tokens_B: jax.Array, kept: Any) -> tuple[jax.Array, Any]:
    out, kept = transformer.step(arch, dims, params, tokens_B[:, None], kept)
    return out.logits_BTV[:, 0], kept

  return step, start


class _Seen(NamedTuple):
  """What was said so far, and of what."""

  t: jax.Array
  tokens_BS: jax.Array
  source: Source


def _whole(
  arch: Architecture,
  dims: Dims,
  rules: Rules,
  params: Params,
  source: Source,
) -> tuple[Step, _Seen]:
  """Returns a step that computes all positions, and where it begins."""
  wide = jax.tree.map(lambda x: jnp.repeat(x, rules.width, axis=0), source)
  nothing_BS = jnp.zeros((len(wide.tokens_BS), rules.size), jnp.int32)

  def step(tokens_B: jax.Array, seen: _Seen) -> tuple[jax.Array, _Seen]:
    seen = seen._replace(tokens_BS=seen.tokens_BS.at[:, seen.t].set(tokens_B))
    out = transformer.apply(
      arch, dims, params, seen.tokens_BS, source=seen.source
    )
    return out.logits_BTV[:, seen.t], seen._replace(t=seen.t + 1)

  return step, _Seen(jnp.zeros((), jnp.int32), nothing_BS, wide)


def _chosen(seen: _Seen, index_X: jax.Array) -> _Seen:
  """Returns what was said by these of the hypotheses, of the same source."""
  return seen._replace(tokens_BS=seen.tokens_BS[index_X])
