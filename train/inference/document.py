"""Texts outside of training data as inputs of the model."""

import jax
import jax.numpy as jnp

from model.architecture.architecture import Architecture
from model.core.inputs import ModelInputs


def one_document(
  arch: Architecture,
  tokens_BT: jax.Array | None,
  vectors_BTI: jax.Array | None = None,
) -> ModelInputs:
  """Returns model inputs in which each row is one document.

  Segments are added only if a mask needs them.
  """
  inputs = ModelInputs(tokens_BT, vectors_BTI=vectors_BTI)
  if not any(mask.traits.reads_segments for mask in arch.every_mask):
    return inputs
  if tokens_BT is not None:
    return inputs._replace(segments_BT=jnp.ones_like(tokens_BT))
  assert vectors_BTI is not None
  ones_BT = jnp.ones(vectors_BTI.shape[:2], jnp.int32)
  return inputs._replace(segments_BT=ones_BT)
