"""The attention sub-layer of a block.

For each attention map of a head it applies

  projections -> values, decay -> qk_norm -> rotation -> features -> backend

and then, to the heads

  join of maps -> outputs -> head gates -> W_O

Queries and keys are separate records (`Queries`, `Keys`), because keys can also
come from a cache or from an encoded source.
"""

import dataclasses

import jax
import jax.numpy as jnp

from model import cache
from model.architecture.choices import ArchitectureFields
from model.attention.outputs.base import QueryContext
from model.attention.parts import (
  AttentionParts,
  HeadOutputs,
  Keys,
  ParamTables,
  Queries,
  part_of,
)
from model.attention.projections.heads import Heads
from model.backends.base import BackendBase
from model.backends.recurrent import RecurrentState, recurrent_attention
from model.core.inputs import Positions, call_with_positions
from model.core.parameter import Dims
from model.interfaces import (
  AttentionOutput,
  CallContext,
  LayerInputs,
)
from model.layers.residual import ArrayFn


@dataclasses.dataclass(frozen=True)
class AttentionLayer:
  """Self-attention or cross-attention of one block, as a function.

  Attributes:
    architecture: choices of this layer.
    dims: sizes of the axes.
    parts: choices that this attention is composed of.
    tables: parameters by part.
    backend: algorithm that computes it.
  """

  architecture: ArchitectureFields
  dims: Dims
  parts: AttentionParts
  tables: ParamTables
  backend: BackendBase

  def __call__(
    self,
    x_BTD: jax.Array,
    first_BTKH: jax.Array | None,
    layer: LayerInputs,
    context: CallContext,
    rngs_B: jax.Array | None,
  ) -> AttentionOutput:
    """Applies self-attention.

    Args:
      x_BTD: input.
      first_BTKH: values of the first layer (unused in that layer); `None` if no
        output reads them.
      layer: inputs of this layer alone.
      context: inputs of all layers.
      rngs_B: one PRNG key per example, for dropout of the weights.
    """
    queries, keys, first_BTKH = self._queries_and_keys(
      x_BTD, first_BTKH, layer, context
    )
    own = QueryContext(x_BTD, keys.v_BSKH, layer.number)
    entry = layer.cache_entry
    if isinstance(entry, RecurrentState):
      attended, entry = recurrent_attention(
        self.parts, self.tables, queries, keys, entry
      )
    else:
      if entry is not None:
        keys, entry = cache.append_keys(entry, keys, context.index)
      attended = self.attend(queries, keys, rngs_B, layer.number)
    out_BTD = self.merge_heads(attended, own, layer.gates_N)
    return AttentionOutput(out_BTD, attended.weights_BNTS, first_BTKH, entry)

  def project(self, x_BTD: jax.Array) -> Heads:
    """Projects x to queries, keys and values; XLA removes the unused ones."""
    reads = self.parts.score.traits.reads
    return self.architecture.projections.split(
      self.tables['attention'], x_BTD, x_BTD, self.dims, reads
    )

  def merge_heads(
    self, attended: HeadOutputs, own: QueryContext, gates_N: jax.Array | None
  ) -> jax.Array:
    """Applies outputs, head gates and W_O to the heads."""
    out_BTNH = attended.out_BTNH
    for output in self.parts.output:
      out_BTNH = output.finish(self.tables[part_of(output)], out_BTNH, own)
    if gates_N is not None:
      out_BTNH = out_BTNH * gates_N.astype(out_BTNH.dtype)[:, None]
    merge = self.architecture.projections.merge
    return merge(self.tables['attention'], out_BTNH)

  def _queries_and_keys(
    self,
    x_BTD: jax.Array,
    first_BTKH: jax.Array | None,
    layer: LayerInputs,
    context: CallContext,
  ) -> tuple[Queries, Keys, jax.Array | None]:
    """Returns queries, keys and the values of the first layer."""
    tables, at = self.tables, context.at
    heads = self.project(x_BTD)
    v_BTKH = heads.v_BSKH
    if first_BTKH is not None:
      first_BTKH = jnp.where(layer.number == 0, v_BTKH, first_BTKH)
    running = {}
    for output in self.parts.output:
      own = tables[part_of(output)]
      if first_BTKH is not None:
        v_BTKH = output.values(own, v_BTKH, first_BTKH)
      if output.traits.decays:
        before_BN = self._last_running(output.tag, layer, context, x_BTD)
        running[output.tag] = output.running(own, x_BTD, before_BN, at.place)
    norm, gains = self.architecture.qk_norm, tables['qk_norm']
    q_BTNH = self.prepare(heads.q_BTNH, at, lambda q: norm.query(gains, q))
    k_BTKH = self.prepare(heads.k_BSKH, at, lambda k: norm.key(gains, k))
    return (
      Queries(q_BTNH, x_BTD, at, running),
      Keys(k_BTKH, v_BTKH, at, running),
      first_BTKH,
    )

  def _last_running(
    self, tag: str, layer: LayerInputs, context: CallContext, x_BTD: jax.Array
  ) -> jax.Array:
    """Returns before_BN, the running sum just before the input."""
    if isinstance(layer.cache_entry, Keys):
      return cache.last_running(layer.cache_entry, tag, context.index)
    wide = jnp.promote_types(x_BTD.dtype, jnp.float32)
    return jnp.zeros((x_BTD.shape[0], self.dims.num_heads), wide)

  def prepare(
    self, x_BTNH: jax.Array, at: Positions, norm: ArrayFn
  ) -> jax.Array:
    """Normalises, rotates and maps to features, separately for each map."""
    arch, rotate = self.architecture, self.parts.position.rotate
    maps, widths = self.parts.maps, arch.projections.widths(self.dims)
    unrotated = (widths.query - widths.rotary) // maps
    features = []
    for part_BTNH in jnp.split(x_BTNH, maps, axis=-1):
      part_BTNH = norm(part_BTNH)
      rotated_BTNH = call_with_positions(rotate, part_BTNH[..., unrotated:], at)
      both = jnp.concatenate([part_BTNH[..., :unrotated], rotated_BTNH], -1)
      features.append(arch.normalizer.features(both))
    return jnp.concatenate(features, -1)

  def attend(
    self,
    queries: Queries,
    keys: Keys,
    rngs_B: jax.Array | None,
    number: jax.Array,
  ) -> HeadOutputs:
    """Applies the backend to each map of the heads, and joins the maps."""
    parts = self.parts
    attended = [
      self.backend.attend(
        parts,
        self.tables,
        queries._replace(q_BTNH=q_BTNH),
        keys._replace(k_BSKH=k_BSKH),
        rngs_B,
      )
      for q_BTNH, k_BSKH in zip(
        jnp.split(queries.q_BTNH, parts.maps, axis=-1),
        jnp.split(keys.k_BSKH, parts.maps, axis=-1),
        strict=True,
      )
    ]
    if len(attended) == 1:
      return attended[0]
    (joining,) = (output for output in parts.output if output.traits.maps > 1)
    own = self.tables[part_of(joining)]
    return jax.tree.map(
      lambda *maps: joining.join(own, maps, number), *attended
    )
