"""Inputs and outputs of the model, of a block and of an attention layer."""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from model import cache
from model.architecture.family import BLOCKS, ENCODER
from model.attention.parts import Keys
from model.cache import Cache, CacheEntry
from model.core.inputs import EVERY_HEAD, HeadGates, Positions
from model.core.parameter import PartParams
from model.core.side_output import (
  CROSS_WEIGHTS,
  NOTHING,
  WEIGHTS,
  Aux,
  Request,
  SideOutput,
)
from model.layers.residual import Stream


class EncodedSource(NamedTuple):
  """The encoded source: its states and their positions.

  (Vaswani et al. 2017, section 3.1.)
  """

  x_BSD: jax.Array
  at: Positions


class CallContext(NamedTuple):
  """Inputs that all blocks share in one call of the model.

  Attributes:
    at: positions of the input.
    position: parameters of the positions.
    rngs_B: one PRNG key per example, for dropout; `None` disables it.
    index: number of positions in the cache.
    source: the encoded source; `None` if there is no source, or if the layers
      hold its keys.
  """

  at: Positions
  position: PartParams
  rngs_B: jax.Array | None
  index: jax.Array
  source: EncodedSource | None


class LayerInputs(NamedTuple):
  """Inputs that differ between blocks in one call of the model.

  Attributes:
    number: number of the block in its stack, from 0.
    gates_N: factor of each head's output; `None` is 1.
    cross_gates_N: the same for the heads of cross-attention.
    cache_entry: cached keys or state of earlier positions; `None` without a
      cache.
    source_keys: keys of the source; `None` if they are not computed yet.
  """

  number: jax.Array
  gates_N: jax.Array | None
  cross_gates_N: jax.Array | None
  cache_entry: cache.CacheEntry | None
  source_keys: Keys | None


class AttentionOutput(NamedTuple):
  """The output of an attention sub-layer.

  Attributes:
    out_BTD: array to be added to the residual stream.
    weights_BNTS: attention weights, if the backend returns them.
    first_BTKH: values of the first layer, if an output reads them.
    cache_entry: the entry after this call; of cross-attention, the keys of the
      source.
  """

  out_BTD: jax.Array
  weights_BNTS: jax.Array | None
  first_BTKH: jax.Array | None
  cache_entry: cache.CacheEntry | None


class BlockCarry(NamedTuple):
  """State that each block passes to the next.

  Attributes:
    stream: the residual stream.
    first_BTKH: values of the first layer; `None` if no output reads them.
  """

  stream: Stream
  first_BTKH: jax.Array | None


class BlockCache(NamedTuple):
  """What a block stores for later calls; all `None` without a cache.

  Attributes:
    entry: keys or state of the positions so far.
    source_keys: keys of the source, in a stack that attends to one.
  """

  entry: CacheEntry | None
  source_keys: Keys | None


class BlockResult(NamedTuple):
  """The result of a block: carry, side outputs, and entries for the cache."""

  carry: BlockCarry
  aux: Aux
  cache: BlockCache


class NetworkOutput(NamedTuple):
  """The output of the model.

  Attributes:
    logits_BTV: logits of the vocabulary at each position.  A classifier gives
      logits of its classes (T = 1, V = C); if the task predicts vectors, these
      are the vectors (V = O).
    aux: side outputs by group of layers, which is a stack or, with --pattern, a
      layer of the pattern in a stack (see `model/core/side_output.py`).
  """

  logits_BTV: jax.Array
  aux: Mapping[str, Aux]

  def layers(self, stack: str, what: SideOutput) -> jax.Array | None:
    """Returns one side output of a stack, for all layers that have it."""
    if stack in self.aux:
      return self.aux[stack].get(what)
    names = [name for name in self.aux if name.rpartition('_')[0] == stack]
    names.sort(key=lambda name: int(name.rpartition('_')[2]))
    own = [self.aux[name][what] for name in names if what in self.aux[name]]
    if not own:
      return None
    depth = max(len(x_L) for x_L in own)
    return jnp.stack([x[n] for n in range(depth) for x in own if n < len(x)])

  @property
  def weights_LBNTS(self) -> jax.Array | None:
    """Returns the self-attention weights of the last stack, if requested."""
    return self.layers(BLOCKS, WEIGHTS)

  @property
  def cross_weights_LBNTS(self) -> jax.Array | None:
    """Returns the cross-attention weights, if requested."""
    return self.layers(BLOCKS, CROSS_WEIGHTS)

  @property
  def encoder_weights_LBNTS(self) -> jax.Array | None:
    """Returns the self-attention weights of the encoder, if requested."""
    return self.layers(ENCODER, WEIGHTS)


class Call(NamedTuple):
  """Options of one call of the model.

  Attributes:
    rngs_B: one PRNG key per example, for dropout; `None` disables it.
    head_gates: factors of the outputs of heads.
    cache: cache of earlier positions; `None` computes the whole sequence.
    wanted: side outputs to return, of those that are returned only on request.
  """

  rngs_B: jax.Array | None = None
  head_gates: HeadGates = EVERY_HEAD
  cache: Cache | None = None
  wanted: Request = NOTHING


class ModelResult(NamedTuple):
  """The output of the model, and the updated cache if one was given."""

  output: NetworkOutput
  cache: Cache | None
