"""Cross-attention, from the positions of a sequence to an encoded source.

(Vaswani et al. 2017, section 3.2.3.)
"""

import jax

from model.attention.outputs.base import QueryContext
from model.attention.parts import Keys, Queries
from model.attention_layer import AttentionLayer
from model.interfaces import (
  AttentionOutput,
  CallContext,
  EncodedSource,
  LayerInputs,
)


def cross_attention(
  attention: AttentionLayer,
  x_BTD: jax.Array,
  layer: LayerInputs,
  context: CallContext,
  rngs_B: jax.Array | None,
) -> AttentionOutput:
  """Applies cross-attention.

  Args:
    attention: the choices and parameters.
    x_BTD: input.
    layer: inputs of this layer alone.
    context: inputs of all layers; holds the source unless `layer` does.
    rngs_B: one PRNG key per example, for dropout of the weights.
  """
  keys = layer.source_keys
  if keys is None:
    assert context.source is not None
    keys = _source_keys(attention, context.source)
  # A source has no documents, so positions are counted along the row.
  at = context.at._replace(place=None)
  norm, gains = attention.architecture.qk_norm, attention.tables['qk_norm']
  q_BTNH = attention.project(x_BTD).q_BTNH
  q_BTNH = attention.prepare(q_BTNH, at, lambda q: norm.query(gains, q))
  queries = Queries(q_BTNH, x_BTD, at, running_BTN={})
  attended = attention.attend(queries, keys, rngs_B, layer.number)
  own = QueryContext(x_BTD, keys.v_BSKH, layer.number)
  out_BTD = attention.merge_heads(attended, own, layer.cross_gates_N)
  return AttentionOutput(out_BTD, attended.weights_BNTS, None, keys)


def _source_keys(attention: AttentionLayer, source: EncodedSource) -> Keys:
  """Computes the keys and values of the source."""
  heads = attention.project(source.x_BSD)
  norm, gains = attention.architecture.qk_norm, attention.tables['qk_norm']
  k_BSKH = attention.prepare(
    heads.k_BSKH, source.at, lambda k: norm.key(gains, k)
  )
  return Keys(k_BSKH, heads.v_BSKH, source.at, running_BSN={})
