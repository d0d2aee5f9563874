"""Translates texts by a trained encoder-decoder with beam search."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model import cache, transformer
from model.architecture.architecture import Architecture
from model.core.inputs import ModelInputs, Source
from model.core.parameter import Dims, PartParams
from model.decoding.beam import BeamSettings, beam_search
from model.decoding.decode import DecodeStep
from train.core.errors import DataError
from train.text.vocabulary import Special, Vocabulary

ROWS = 64  # largest batch of sources


class Translator(NamedTuple):
  """A trained encoder-decoder and its vocabulary."""

  arch: Architecture
  dims: Dims
  params: PartParams
  vocabulary: Vocabulary


def translate_ids(
  translator: Translator,
  sources: Sequence[np.ndarray],
  beam: int,
  penalty: float,
  cached: bool = True,
) -> list[np.ndarray]:
  """Returns the ids of the best translation of each source.

  The batch size is the number of sources rounded up to a power of two, at most
  `ROWS`, so that few different programs are compiled.

  Args:
    translator: the model.
    sources: ids without special tokens; each is truncated to --seq_len - 1.
    beam: width of the beam.
    penalty: exponent of the length by which scores are divided.
    cached: whether to use the cache of keys and values; False computes all
      positions again for each token.
  """
  arch, dims, vocabulary = (
    translator.arch,
    translator.dims,
    translator.vocabulary,
  )
  end = vocabulary.id_of(Special.EOS)
  rules = BeamSettings(beam, dims.seq_len, end, penalty, least=1)
  size = min(ROWS, 1 << max(0, len(sources) - 1).bit_length())
  # Translations of sources of similar length end at similar steps.
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


def translate_texts(
  translator: Translator, texts: Sequence[str], beam: int, penalty: float
) -> list[str]:
  """Returns the translation of each text.

  Raises:
    DataError: a text is empty, or longer than the model can read.
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
    for found in translate_ids(translator, ids, beam, penalty)
  ]


def _padded(
  rows: Sequence[np.ndarray], size: int, length: int, vocabulary: Vocabulary
) -> Source:
  """Returns sources with <eos> and padding; empty rows fill up to `size`."""
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
  rules: BeamSettings,
  cached: bool,
  params: PartParams,
  source: Source,
  first_B: jax.Array,
) -> jax.Array:
  """Returns tokens_BS, the best hypothesis of each source."""
  if cached:
    step, start = _cached_step(arch, dims, rules, params, source, first_B)
    found = beam_search(step, cache.select_examples, start, first_B, rules)
  else:
    step, start = _uncached_step(arch, dims, rules, params, source)
    found = beam_search(step, _select, start, first_B, rules)
  return found.tokens_BWS[:, 0]


def _cached_step(
  arch: Architecture,
  dims: Dims,
  rules: BeamSettings,
  params: PartParams,
  source: Source,
  first_B: jax.Array,
) -> tuple[DecodeStep, cache.Cache]:
  """Returns a decoding step that uses the cache, and the initial cache.

  The cache holds the encoded source.
  """
  batch, width = len(first_B), rules.width
  # The first step encodes the source, once for all hypotheses.
  _, kept = transformer.decode_step(
    arch,
    dims,
    params,
    ModelInputs(first_B[:, None], source=source),
    cache.empty(arch, dims, batch, 1),
  )
  empty = cache.empty(arch, dims, batch * width, rules.size)
  start = empty._replace(
    source_keys=cache.repeat_sources(kept.source_keys, width)
  )

  def step(tokens_B: jax.Array, kept: Any) -> tuple[jax.Array, Any]:
    inputs = ModelInputs(tokens_B[:, None])
    out, kept = transformer.decode_step(arch, dims, params, inputs, kept)
    return out.logits_BTV[:, 0], kept

  return step, start


class _Prefix(NamedTuple):
  """State of decoding without a cache.

  Attributes:
    t: the number of tokens so far.
    tokens_BS: these tokens, for each hypothesis.
    source: the source of each hypothesis.
  """

  t: jax.Array
  tokens_BS: jax.Array
  source: Source


def _uncached_step(
  arch: Architecture,
  dims: Dims,
  rules: BeamSettings,
  params: PartParams,
  source: Source,
) -> tuple[DecodeStep, _Prefix]:
  """Returns a decoding step that computes all positions, and its state."""
  wide = jax.tree.map(lambda x: jnp.repeat(x, rules.width, axis=0), source)
  nothing_BS = jnp.zeros((len(wide.tokens_BS), rules.size), jnp.int32)

  def step(tokens_B: jax.Array, seen: _Prefix) -> tuple[jax.Array, _Prefix]:
    seen = seen._replace(tokens_BS=seen.tokens_BS.at[:, seen.t].set(tokens_B))
    inputs = ModelInputs(seen.tokens_BS, source=seen.source)
    out = transformer.apply(arch, dims, params, inputs)
    return out.logits_BTV[:, seen.t], seen._replace(t=seen.t + 1)

  return step, _Prefix(jnp.zeros((), jnp.int32), nothing_BS, wide)


def _select(seen: _Prefix, index_X: jax.Array) -> _Prefix:
  """Returns the state of these hypotheses; those of a source are adjacent."""
  return seen._replace(tokens_BS=seen.tokens_BS[index_X])
