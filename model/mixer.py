"""An attention sub-layer of one block, composed of the parts.

  projections -> qk_norm -> rotation -> backend, for each map of a head
  -> join -> finish -> head gates -> W_O

What a query computes and what a key brings are apart (`Queries`, `Keys`), so
that keys can come from a cache, or from an encoded source.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from model import cache
from model.architecture import Architecture
from model.attention import (
  Attended,
  Keys,
  Parts,
  Queries,
  Tables,
  part_of,
  placed,
)
from model.backend import Reference
from model.heads import Heads
from model.norm import Map
from model.output import Own
from model.parameter import Dims, Params
from model.recurrent import State, recur


class Memory(NamedTuple):
  """An encoded source: its states and, where it is packed or padded, segments.

  (Vaswani et al. 2017, section 3.1.)
  """

  x_BSD: jax.Array
  segments_BS: jax.Array | None


class Context(NamedTuple):
  """What all blocks of one call share.

  Attributes:
    t_T: positions of the input.
    segments_BT: document of each position; none if the masks read none.
    position: parameters of positions.
    keys_B: one key an example for dropout; none switches it off.
    index: how many positions the cache holds.
    memory: of a source; none without one, or where layers keep its keys.
    place_BT: place of each position in its document; none where the row is one.
  """

  t_T: jax.Array
  segments_BT: jax.Array | None
  position: Params
  keys_B: jax.Array | None
  index: jax.Array
  memory: Memory | None
  place_BT: jax.Array | None = None


class Layer(NamedTuple):
  """What one block is given of its own.

  Attributes:
    number: of the block, from 0.
    gates_N: factor of each head's output; none is 1.
    cross_gates_N: the same of the heads that attend to a source.
    kept: keys of earlier positions; none where there is no cache.
    cross: keys of the source; none if they are yet to be computed.
  """

  number: jax.Array
  gates_N: jax.Array | None
  cross_gates_N: jax.Array | None
  kept: cache.Kept | None
  cross: Keys | None


class Mixed(NamedTuple):
  """What the sub-layer returns, and leaves to later layers and calls."""

  out_BTD: jax.Array
  weights_BNTS: jax.Array | None
  first_BTKH: jax.Array | None
  kept: cache.Kept | None


@dataclasses.dataclass(frozen=True)
class Mixer:
  """One attention of a block.

  Attributes:
    architecture: of which the projections are taken.
    dims: sizes of the axes.
    parts: what it is composed of.
    tables: parameters by part.
    backend: how it is computed.
  """

  architecture: Architecture
  dims: Dims
  parts: Parts
  tables: Tables
  backend: Reference

  def __call__(
    self,
    x_BTD: jax.Array,
    first_BTKH: jax.Array | None,
    layer: Layer,
    context: Context,
    keys_B: jax.Array | None,
  ) -> Mixed:
    """Returns what attention of the positions to each other adds.

    Args:
      x_BTD: input.
      first_BTKH: values of the first layer, in all layers but the first; none
        if no output reads them.
      layer: what is this layer's own.
      context: what all layers share.
      keys_B: one key an example for dropout of the weights.
    """
    queries, keys, first_BTKH = self._sides(x_BTD, first_BTKH, layer, context)
    own = Own(x_BTD, keys.v_BSKH, layer.number)
    kept = layer.kept
    if isinstance(kept, State):
      attended, kept = recur(self.parts, self.tables, queries, keys, kept)
    else:
      if kept is not None:
        keys, kept = cache.extended(kept, keys, context.index)
      attended = self._attend(queries, keys, keys_B, layer.number)
    out_BTD = self._finished(attended, own, layer.gates_N)
    return Mixed(out_BTD, attended.weights_BNTS, first_BTKH, kept)

  def cross(
    self,
    x_BTD: jax.Array,
    layer: Layer,
    context: Context,
    keys_B: jax.Array | None,
  ) -> Mixed:
    """Returns what attention of the positions to the source adds.

    Args:
      x_BTD: input.
      layer: what is this layer's own.
      context: what all layers share; holds the source unless the layer does.
      keys_B: one key an example for dropout of the weights.
    """
    keys = layer.cross
    if keys is None:
      assert context.memory is not None
      keys = self._remembered(context.memory)
    queries = Queries(
      q_BTNH=self._rotated(
        self._split(x_BTD).q_BTNH,
        context.t_T,
        lambda q: self.architecture.qk_norm.query(self.tables['qk_norm'], q),
      ),
      x_BTD=x_BTD,
      t_T=context.t_T,
      segments_BT=context.segments_BT,
      running_BTN={},
    )
    attended = self._attend(queries, keys, keys_B, layer.number)
    own = Own(x_BTD, keys.v_BSKH, layer.number)
    out_BTD = self._finished(attended, own, layer.cross_gates_N)
    return Mixed(out_BTD, attended.weights_BNTS, None, keys)

  def _remembered(self, memory: Memory) -> Keys:
    """Returns the keys of the source."""
    heads = self._split(memory.x_BSD)
    s_S = jnp.arange(memory.x_BSD.shape[1])
    norm, gains = self.architecture.qk_norm, self.tables['qk_norm']
    k_BSKH = self._rotated(heads.k_BSKH, s_S, lambda k: norm.key(gains, k))
    return Keys(k_BSKH, heads.v_BSKH, s_S, memory.segments_BS, {})

  def _split(self, x_BTD: jax.Array) -> Heads:
    """Returns queries, keys and values of x; what is unused costs nothing."""
    reads = self.parts.score.reads
    return self.architecture.projections.split(
      self.tables['attention'], x_BTD, x_BTD, self.dims, reads
    )

  def _finished(
    self, attended: Attended, own: Own, gates_N: jax.Array | None
  ) -> jax.Array:
    """Returns what is added to the residual."""
    out_BTNH = attended.out_BTNH
    for output in self.parts.output:
      out_BTNH = output.finish(self.tables[part_of(output)], out_BTNH, own)
    if gates_N is not None:
      out_BTNH = out_BTNH * gates_N.astype(out_BTNH.dtype)[:, None]
    merge = self.architecture.projections.merge
    return merge(self.tables['attention'], out_BTNH)

  def _sides(
    self,
    x_BTD: jax.Array,
    first_BTKH: jax.Array | None,
    layer: Layer,
    context: Context,
  ) -> tuple[Queries, Keys, jax.Array | None]:
    """Returns what the positions bring as queries and as keys."""
    tables, t_T, place_BT = self.tables, context.t_T, context.place_BT
    heads = self._split(x_BTD)
    v_BTKH = heads.v_BSKH
    if first_BTKH is not None:
      first_BTKH = jnp.where(layer.number == 0, v_BTKH, first_BTKH)
    running = {}
    for output in self.parts.output:
      own = tables[part_of(output)]
      if first_BTKH is not None:
        v_BTKH = output.values(own, v_BTKH, first_BTKH)
      if output.fades:
        running[output.tag] = output.running(
          own, x_BTD, self._before(output.tag, layer, context, x_BTD), place_BT
        )
    norm, gains = self.architecture.qk_norm, tables['qk_norm']
    q_BTNH = self._rotated(
      heads.q_BTNH, t_T, lambda q: norm.query(gains, q), place_BT
    )
    k_BTKH = self._rotated(
      heads.k_BSKH, t_T, lambda k: norm.key(gains, k), place_BT
    )
    where = t_T, context.segments_BT, running, place_BT
    return (
      Queries(q_BTNH, x_BTD, *where),
      Keys(k_BTKH, v_BTKH, *where),
      first_BTKH,
    )

  def _before(
    self, tag: str, layer: Layer, context: Context, x_BTD: jax.Array
  ) -> jax.Array:
    """Returns before_BN, the running quantity where the input begins."""
    if isinstance(layer.kept, Keys):
      return cache.last(layer.kept, tag, context.index)
    wide = jnp.promote_types(x_BTD.dtype, jnp.float32)
    return jnp.zeros((x_BTD.shape[0], self.dims.num_heads), wide)

  def _rotated(
    self,
    x_BTNH: jax.Array,
    t_T: jax.Array,
    norm: Map,
    place_BT: jax.Array | None = None,
  ) -> jax.Array:
    """Returns queries or keys, normalised and rotated, each map by itself."""
    arch, rotate = self.architecture, self.parts.position.rotate
    maps, widths = self.parts.maps, arch.projections.widths(self.dims)
    still = (widths.query - widths.rotary) // maps
    done = []
    for part_BTNH in jnp.split(x_BTNH, maps, axis=-1):
      part_BTNH = norm(part_BTNH)
      turned_BTNH = placed(rotate, part_BTNH[..., still:], t_T, place_BT)
      both = jnp.concatenate([part_BTNH[..., :still], turned_BTNH], -1)
      done.append(arch.normalizer.features(both))
    return jnp.concatenate(done, -1)

  def _attend(
    self,
    queries: Queries,
    keys: Keys,
    keys_B: jax.Array | None,
    number: jax.Array,
  ) -> Attended:
    """Returns what the heads give, their maps joined."""
    parts = self.parts
    attended = [
      self.backend.attend(
        parts,
        self.tables,
        queries._replace(q_BTNH=q_BTNH),
        keys._replace(k_BSKH=k_BSKH),
        keys_B,
      )
      for q_BTNH, k_BSKH in zip(
        jnp.split(queries.q_BTNH, parts.maps, axis=-1),
        jnp.split(keys.k_BSKH, parts.maps, axis=-1),
        strict=True,
      )
    ]
    if len(attended) == 1:
      return attended[0]
    (joining,) = (output for output in parts.output if output.maps > 1)
    own = self.tables[part_of(joining)]
    return jax.tree.map(
      lambda *maps: joining.join(own, maps, number), *attended
    )
