"""What a model predicts for one example, and its attention weights."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from model.core.field import bind
from model.core.parameter import Params
from model.core.side_output import ATTENTION_MAPS
from train.programs.signature import Signature
from train.programs.step import model_output
from train.tasks.base import Arrays


class TokenSpan(NamedTuple):
  """A sequence of tokens, of which those after the first `size` are padding."""

  size: jax.Array
  tokens_T: jax.Array


class Inspection(NamedTuple):
  """A text with the model's logits and attention weights.

  The weights are those of `NetworkOutput`; each is None if the model has no
  such attention.
  """

  text: TokenSpan
  source: TokenSpan | None
  logits_TV: jax.Array
  weights_LNTS: jax.Array | None
  cross_LNTS: jax.Array | None
  encoder_LNTS: jax.Array | None


def inspect(
  sig: Signature,
  params: Params,
  values: Arrays,
  arrays: Arrays,
  tokens_1T: jax.Array,
  given: jax.Array,
) -> Inspection:
  """Returns logits and attention weights of one validation example or text.

  Args:
    sig: of the program.
    params: of the model.
    values: the traced numbers.
    arrays: the data, or the first validation example as the host read it.
    tokens_1T: a text, no longer than an example.
    given: whether to use this text in place of the first validation example.
  """
  config = bind(sig.static, values)
  one = jnp.zeros(1, jnp.int32)
  batch = config.task.evaluation_batch(arrays, one, config.seq_len)
  length = tokens_1T.shape[1]
  batch = jax.tree.map(lambda x: x[:, :length], batch._replace(ids_B=None))
  inputs = batch.inputs
  if inputs.tokens_BT is None:  # vectors, labelled by their positions
    tokens_1T = jnp.arange(length)[None]
  else:
    tokens_1T = jnp.where(given, tokens_1T, inputs.tokens_BT)
    inputs = inputs._replace(tokens_BT=tokens_1T)
  segments_1T = inputs.segments_BT
  if segments_1T is not None:  # the given text is one document
    segments_1T = jnp.where(given, 1, segments_1T)
  inputs = inputs._replace(segments_BT=segments_1T)
  batch = batch._replace(inputs=inputs)
  out = model_output(config, sig.dims, params, batch, None, ATTENTION_MAPS)
  size = jnp.asarray(length)
  if config.task.gives_padding:
    used_1T = batch.weights_BT if segments_1T is None else segments_1T
    size = (used_1T > 0).sum()
  source = None
  if inputs.source is not None and inputs.source.segments_BS is not None:
    read = (inputs.source.segments_BS > 0).sum()
    source = TokenSpan(read, inputs.source.tokens_BS[0])
  maps = out.weights_LBNTS, out.cross_weights_LBNTS, out.encoder_weights_LBNTS
  weights, cross, encoder = (x if x is None else x[:, 0] for x in maps)
  text = TokenSpan(size, tokens_1T[0])
  return Inspection(text, source, out.logits_BTV[0], weights, cross, encoder)
