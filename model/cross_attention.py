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
  keys_B: jax.Array | None,
) -> AttentionOutput:
  """Applies cross-attention.

  Args:
    attention: the choices and parameters.
    x_BTD: input.
    layer: inputs of this layer alone.
    context: inputs of all layers; holds the source unless `layer` does.
    keys_B: one PRNG key per example, for dropout of the weights.
  """
  keys = layer.cross
  if keys is None:
    assert context.memory is not None
    keys = _source_keys(attention, context.memory)
  # A source has no documents, so positions are counted along the row.
  at = context.at._replace(place=None)
  norm, gains = attention.architecture.qk_norm, attention.tables['qk_norm']
  q_BTNH = attention.project(x_BTD).q_BTNH
  q_BTNH = attention.rotate(q_BTNH, at, lambda q: norm.query(gains, q))
  queries = Queries(q_BTNH, x_BTD, at, running_BTN={})
  attended = attention.attend(queries, keys, keys_B, layer.number)
  own = QueryContext(x_BTD, keys.v_BSKH, layer.number)
  out_BTD = attention.merge_heads(attended, own, layer.cross_gates_N)
  return AttentionOutput(out_BTD, attended.weights_BNTS, None, keys)


def _source_keys(attention: AttentionLayer, memory: EncodedSource) -> Keys:
  """Computes the keys and values of the source."""
  heads = attention.project(memory.x_BSD)
  norm, gains = attention.architecture.qk_norm, attention.tables['qk_norm']
  k_BSKH = attention.rotate(
    heads.k_BSKH, memory.at, lambda k: norm.key(gains, k)
  )
  return Keys(k_BSKH, heads.v_BSKH, memory.at, running_BSN={})
