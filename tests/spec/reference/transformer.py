"""Blocks and whole models, from the loops of their parts."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from spec.reference.arithmetic import (
  Params,
  Vector,
  below,
  dot,
  linear,
  optional,
)
from spec.reference.attention_layer import Attention, Encoded, attention
from spec.reference.feedforwards import FEEDFORWARDS
from spec.reference.layers import READ_INS, READ_OUTS, RESIDUALS
from spec.reference.masks import FAMILIES, masks_of, places
from spec.reference.norms import NORMS
from spec.reference.positions import POSITIONS
from spec.reference.projections import PROJECTIONS


class Stack(NamedTuple):
  """Where the parameters of some blocks lie, how many, and what they do."""

  path: str
  num_layers: int
  encodes_source: bool
  has_self_attention: bool
  source: Encoded | None


def block(
  arch: Any,
  stack: Stack,
  params: Mapping[str, Params],
  x_TD: np.ndarray,
  segments_T: Sequence[int],
  layer: int,
  first_TKH: np.ndarray | None,
) -> tuple[np.ndarray, dict[str, Attention]]:
  """Returns one sequence after one block, and what its attentions were."""
  projections = PROJECTIONS[arch.projections.tag]
  normalize = NORMS[arch.norm.tag]
  residual = RESIDUALS[arch.residual.tag]
  feedforward = FEEDFORWARDS[arch.feedforward.tag]
  seen = {}

  def norm(part: str) -> Callable[[Vector], Vector]:
    return lambda y_D: normalize(arch.norm, params[part], y_D)

  def attend(y_TD: np.ndarray) -> np.ndarray:
    seen['own'] = attention(
      arch, params, y_TD, segments_T, layer, first_TKH, stack.encodes_source
    )
    return merged('own', params['attention'])

  def cross(y_TD: np.ndarray) -> np.ndarray:
    own = {
      k.removeprefix('cross_'): v for k, v in params.items() if 'cross_' in k
    }
    seen['cross'] = attention(
      arch,
      own | {'position': {}},
      y_TD,
      segments_T,
      layer,
      source=stack.source,
    )
    return merged('cross', own['attention'])

  def merged(which: str, own: Params) -> np.ndarray:
    return np.array(
      [projections.merge(own, out_NH) for out_NH in seen[which].out_TNH]
    )

  def network(y_TD: np.ndarray) -> np.ndarray:
    return np.array(
      [feedforward(arch.feedforward, params['feedforward'], y) for y in y_TD]
    )

  if stack.has_self_attention:
    x_TD = residual.connect(x_TD, norm('norm_attention'), attend)
  if stack.source is not None:
    x_TD = residual.connect(x_TD, norm('norm_cross'), cross)
  if feedforward is not None:
    x_TD = residual.connect(x_TD, norm('norm_feedforward'), network)
  return x_TD, seen


def blocks(
  arch: Any,
  params: Mapping[str, np.ndarray],
  stack: Stack,
  x_TD: np.ndarray,
  segments_T: Sequence[int],
) -> tuple[np.ndarray, dict[str, list[np.ndarray]]]:
  """Returns one sequence after all blocks, and the weights of each."""
  weights, first_TKH = {'own': [], 'cross': []}, None
  # In front of the name of a position's parameters, the encoder's have its own.
  position = 'position_encoder' if stack.encodes_source else 'position'
  period = len(arch.pattern) or 1
  for layer in range(stack.num_layers):
    mine, path, n = arch, stack.path, layer
    if arch.pattern:
      chosen = {
        k: v for k, v in vars(arch.pattern[layer % period]).items() if v
      }
      mine = dataclasses.replace(arch, pattern=(), **chosen)
      path, n = f'{path}_{layer % period}', layer // period
    parts = [*BLOCK_PARTS, *(f'output_{v.tag}' for v in mine.output)]
    parts += [f'cross_{part}' for part in parts]
    own = {
      part: {k: v[n] for k, v in below(params, f'{path}/{part}').items()}
      for part in [*parts, 'norm_cross']
    } | {'position': below(params, position)}
    x_TD, seen = block(mine, stack, own, x_TD, segments_T, layer, first_TKH)
    if layer == 0 and 'own' in seen:
      first_TKH = seen['own'].values_TKH
    for which, attended in seen.items():
      weights[which].append(attended.weights_NTS)
  return x_TD, weights


def streams(
  arch: Any,
  params: Mapping[str, np.ndarray],
  tokens_T: np.ndarray,
  segments_T: np.ndarray,
) -> list[np.ndarray]:
  """Returns x_TD of the tokens that are no padding, at each layer, from 0."""
  where = places(masks_of(arch, False), segments_T)
  x_TD = embedded(arch, params, tokens_T, where, 'position')
  found = []
  for depth in range(arch.num_layers + 1):
    stack = Stack('blocks', depth, False, True, None)
    y_TD, _ = blocks(arch, params, stack, x_TD, segments_T)
    found.append(y_TD[np.asarray(segments_T) > 0])
  return found


class ModelOutput(NamedTuple):
  """Logits over the vocabulary or classes, and weights of all layers.

  Those of self-attention, of attention to the source, and of its encoder.
  """

  logits_BTV: np.ndarray
  weights_LBNTS: np.ndarray | None
  cross_weights_LBNTS: np.ndarray | None
  encoder_weights_LBNTS: np.ndarray | None


def model(
  arch: Any,
  params: Mapping[str, np.ndarray],
  tokens_BT: np.ndarray,
  segments_BT: np.ndarray | None = None,
  source: tuple[np.ndarray, np.ndarray] | None = None,
  num_outputs: int = 0,
) -> ModelOutput:
  """Returns what the model returns, from its parameters by path.

  Args:
    arch: the choices and sizes.
    params: `{path: array}`; arrays of blocks have a first axis of layers.
    tokens_BT: token ids; or vectors, with an axis more.
    segments_BT: document of each token; none is one document.
    source: tokens_BS and segments_BS of what an encoder-decoder reads.
    num_outputs: width of vectors that are predicted, if these are.
  """
  if segments_BT is None:
    segments_BT = np.ones(np.shape(tokens_BT)[:2], int)
  logits, weights = [], {'own': [], 'cross': [], 'encoder': []}
  for b, (tokens_T, segments_T) in enumerate(
    zip(tokens_BT, segments_BT, strict=True)
  ):
    encoded, itself, crosses = None, True, True
    if source is not None:
      itself, crosses = arch.model.self_attention, arch.model.cross_attention
    if source is not None and crosses:
      tokens_S, segments_S = source[0][b], source[1][b]
      depth = arch.model.encoder_layers or arch.num_layers
      x_SD, own = blocks(
        arch,
        params,
        Stack('encoder', depth, True, True, None),
        embedded(
          arch, params, tokens_S, range(len(tokens_S)), 'position_encoder'
        ),
        segments_S,
      )
      x_SD = np.array([finished(arch, params, x, 'norm_encoder') for x in x_SD])
      encoded = Encoded(x_SD, segments_S)
      weights['encoder'].append(own['own'])
    x_TD, own = blocks(
      arch,
      params,
      Stack('blocks', arch.num_layers, False, itself, encoded),
      embedded(
        arch,
        params,
        tokens_T,
        places(masks_of(arch, False), segments_T),
        'position',
      ),
      segments_T,
    )
    for which, layers in own.items():
      weights[which].append(layers)
    x_TD = np.array([finished(arch, params, x, 'norm_final') for x in x_TD])
    if num_outputs:
      read_out = READ_OUTS[arch.read_out.tag]
      own_params = below(params, 'read_out')
      logits.append(
        [read_out(arch.read_out, own_params, x, num_outputs) for x in x_TD]
      )
    else:
      logits.append(predicted(arch, params, x_TD, segments_T))

  def of(which: str) -> np.ndarray | None:
    found = np.array(weights[which])
    return np.moveaxis(found, 1, 0) if found.size else None

  return ModelOutput(np.array(logits), of('own'), of('cross'), of('encoder'))


def embedded(
  arch: Any,
  params: Mapping[str, np.ndarray],
  tokens_T: Sequence[int],
  place_T: Sequence[int],
  position: str,
) -> np.ndarray:
  """Returns the input of the first block."""
  embed = POSITIONS[arch.position.tag].embed
  factor = math.sqrt(arch.d_model) if arch.scale_embeddings else 1.0

  def read(token: Any) -> Vector:
    if np.ndim(token):
      read_in = READ_INS[arch.read_in.tag]
      return read_in(arch.read_in, below(params, 'read_in'), token)
    return [factor * x for x in params['embedding/token'][token]]

  return np.array(
    [
      embed(arch.position, below(params, position), read(token), t)
      for t, token in zip(place_T, tokens_T, strict=True)
    ]
  )


def finished(
  arch: Any, params: Mapping[str, np.ndarray], x_D: Vector, part: str
) -> Vector:
  """Returns one position behind the last block of a stack."""
  if not RESIDUALS[arch.residual.tag].final_norm:
    return x_D
  return NORMS[arch.norm.tag](arch.norm, below(params, part), x_D)


def predicted(
  arch: Any,
  params: Mapping[str, np.ndarray],
  x_TD: np.ndarray,
  segments_T: Sequence[int],
) -> list[list[float]]:
  """Returns the logits of each position, or of the classes."""
  if not FAMILIES[arch.model.tag].classes:
    return [unembed(arch, params, x_D) for x_D in x_TD]
  pooled_D = x_TD[0]
  if arch.model.pooling == 'mean':
    real = [t for t, segment in enumerate(segments_T) if segment > 0]
    pooled_D = [
      sum(x_TD[t, d] for t in real) / max(1, len(real))
      for d in range(arch.d_model)
    ]
  own = below(params, 'classes')
  return [list(linear(pooled_D, own['kernel'], optional(own, 'bias')))]


BLOCK_PARTS = (
  'attention',
  'qk_norm',
  'score',
  'scale',
  'normalizer',
  'norm_attention',
  'feedforward',
  'norm_feedforward',
)


def unembed(arch: Any, params: Params, x_D: Vector) -> list[float]:
  """Returns the logits of one position."""
  if arch.tie_embeddings:
    return [dot(x_D, row_D) for row_D in params['embedding/token']]
  return list(linear(x_D, params['unembedding/kernel']))
