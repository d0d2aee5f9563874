"""Attention of one sequence, from the loops of its parts."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from spec.reference.arithmetic import Params, Vector
from spec.reference.masks import MASKS, directed, masks_of, places
from spec.reference.normalizers import FEATURES, NORMALIZERS
from spec.reference.norms import QK_NORMS
from spec.reference.outputs import OUTPUTS, OutputReference
from spec.reference.positions import POSITIONS, PositionReference
from spec.reference.projections import PROJECTIONS
from spec.reference.scores import SCALES, SCORES


class Attention(NamedTuple):
  """Outputs of the heads, weights, and the values before they are mixed."""

  out_TNH: np.ndarray
  weights_NTS: np.ndarray
  values_TKH: np.ndarray


def attention(
  arch: Any,
  params: Mapping[str, Params],
  x_TD: np.ndarray,
  segments_T: Sequence[int],
  layer: int = 0,
  first_TKH: np.ndarray | None = None,
  encodes_source: bool = False,
  source: 'Encoded | None' = None,
) -> Attention:
  """Returns attention of one sequence to itself or a source, before W_O.

  Args:
    arch: the choices and sizes.
    params: parameters by part; those of positions are the part `position`.
    x_TD: the sequence.
    segments_T: document of each position.
    layer: number of the block, from 0.
    first_TKH: values of the first layer; none in it.
    encodes_source: it is that of the encoder of a source.
    source: what keys and values are made of; none is the sequence itself.
  """
  projections = PROJECTIONS[arch.projections.tag]
  crosses = source is not None
  position = POSITIONS['none' if crosses else arch.position.tag]
  arch = directed(arch, encodes_source)
  qk_norm = QK_NORMS[arch.qk_norm.tag]
  score = arch.score.tag
  if crosses and score in UNREADING:
    score = 'dot'  # to find anything in a source
  outputs = outputs_of(arch, params, crosses)
  length, own = len(x_TD), params['attention']
  source = source or Encoded(x_TD, segments_T)
  y_SD, segments_S = source.x_SD, source.segments_S
  num_heads, shared = arch.num_heads, arch.num_kv_heads or arch.num_heads
  num_maps = max(output.maps for output, _ in outputs)
  masks = [('padding', None)] if crosses else masks_of(arch, encodes_source)
  place_T, place_S = places(masks, segments_T), places(masks, segments_S)
  seen_TS = [
    [
      all(
        MASKS[tag](m, place_T[t], place_S[s], segments_T[t], segments_S[s])
        for tag, m in masks
      )
      for s in range(len(y_SD))
    ]
    for t in range(length)
  ]

  features = FEATURES.get(arch.normalizer.tag, np.asarray)

  def side(
    given_TD: np.ndarray,
    at_T: Sequence[int],
    project: Callable,
    norm: Callable,
    count: int,
  ) -> list:
    """Returns x[t][n][m], queries or keys of map m, normalised and rotated."""
    made = []
    for t, x_D in zip(at_T, given_TD, strict=True):
      if score in UNREADING:
        made.append([[[]] * num_maps] * count)
        continue
      heads = project(arch.projections, own, x_D, count)
      made.append(
        [
          [
            features(
              rotated(
                arch, position, norm(arch.qk_norm, params['qk_norm'], part_H), t
              )
            )
            for part_H in np.split(np.asarray(head_H), num_maps)
          ]
          for head_H in heads
        ]
      )
    return made

  queries = side(x_TD, place_T, projections.query, qk_norm.query, num_heads)
  keys = side(y_SD, place_S, projections.key, qk_norm.key, shared)
  values_TKH = np.array(
    [projections.value(arch.projections, own, y_D, shared) for y_D in y_SD]
  )
  mixed_TKH = values_TKH
  for output, given in outputs:
    mixed_TKH = np.array(
      [
        [
          output.values(
            given,
            mixed_TKH[t, k],
            (values_TKH if first_TKH is None else first_TKH)[t, k],
          )
          for k in range(shared)
        ]
        for t in range(len(y_SD))
      ]
    )
  weights_MNTS = np.zeros((num_maps, num_heads, length, len(y_SD)))
  for m in range(num_maps):
    logits_NTS = np.zeros(weights_MNTS.shape[1:])
    for t, s in np.ndindex(length, len(y_SD)):
      scaled_N = [
        scaled(
          arch,
          score,
          params,
          n,
          (queries[t][n][m], keys[s][n * shared // num_heads][m]),
          x_TD[t],
          (place_T[t], place_S[s]),
          sum(seen_TS[t]),
        )
        for n in range(num_heads)
      ]
      for output, given in outputs:
        scaled_N = output.mix_logits(given, scaled_N)
      for n in range(num_heads):
        logit = scaled_N[n]
        if arch.logit_cap is not None:
          logit = arch.logit_cap * math.tanh(logit / arch.logit_cap)
        logit += position.bias(
          arch.position,
          params['position'],
          n,
          num_heads,
          place_T[t],
          place_S[s],
        )
        for output, given in outputs:
          logit += output.decay(given, x_TD, n, t, s)
        logits_NTS[n, t, s] = logit
    for t in range(length):
      for n in range(num_heads):
        weights_MNTS[m, n, t] = NORMALIZERS[arch.normalizer.tag](
          arch.normalizer, params['normalizer'], n, logits_NTS[n, t], seen_TS[t]
        )
      for s in range(len(y_SD)):
        for output, given in outputs:
          weights_MNTS[m, :, t, s] = output.mix_weights(
            given, weights_MNTS[m, :, t, s]
          )
  weights_NTS = np.zeros(weights_MNTS.shape[1:])
  (join, given), *_ = [
    (output.join, given) for output, given in outputs if output.maps == num_maps
  ]
  out_TNH = np.zeros((length, num_heads, mixed_TKH.shape[2]))
  for n, t, s in np.ndindex(*weights_NTS.shape):
    weights_NTS[n, t, s] = join(given, layer, weights_MNTS[:, n, t, s])
    for h in range(mixed_TKH.shape[2]):
      value = mixed_TKH[s, n * shared // num_heads, h]
      out_TNH[t, n, h] += weights_NTS[n, t, s] * value
  for output, given in outputs:
    for t in range(length):
      out_TNH[t] = output.finish(
        given, out_TNH[t], x_TD[t], None if crosses else mixed_TKH[t], layer
      )
  return Attention(out_TNH, weights_NTS, values_TKH)


class Encoded(NamedTuple):
  """A source as its encoder gives it."""

  x_SD: np.ndarray
  segments_S: Sequence[int]


def rotated(
  arch: Any, position: PositionReference, x_H: Vector, t: int
) -> Vector:
  """Returns a query or key with its last units rotated, or with all of them."""
  still = 0
  if arch.projections.tag == 'mla':
    still = len(x_H) - arch.projections.rope_dim
  turned = position.rotate(arch.position, x_H[still:], t)
  return np.array([*x_H[:still], *turned])


def scaled(
  arch: Any,
  score: str,
  params: Mapping[str, Params],
  n: int,
  pair: tuple[Vector, Vector],
  x_D: Vector,
  places: tuple[int, int],
  seen: int,
) -> float:
  """Returns a score of a query and a key in head n, scaled."""
  logit = SCORES[score]
  scale = SCALES[arch.scale.tag]
  # The width of a value where a score reads no query.
  width = len(pair[0]) or arch.head_dim or arch.d_model // arch.num_heads
  return logit(arch.score, params['score'], n, *pair, x_D, *places) * scale(
    arch.scale, params['scale'], n, width, seen
  )


# Scores that read neither queries nor keys, which then are not made.
UNREADING = ('synthesizer_dense', 'synthesizer_random', 'fixed')

# In this order outputs act on the heads.
FINISHING = (
  'plain',
  'value_residual',
  'talking_heads',
  'forget',
  'differential',
  'exclusive_self',
  'gate',
)


# What cross-attention leaves out: it speaks of the own or earlier positions.
ALONE = ('value_residual', 'forget', 'exclusive_self')


def outputs_of(
  arch: Any, params: Mapping[str, Params], crosses: bool
) -> list[tuple[OutputReference, Params]]:
  """Returns what the outputs do and their parameters, in order."""
  tags = sorted((v.tag for v in arch.output), key=FINISHING.index)
  if crosses:
    tags = [tag for tag in tags if tag not in ALONE] or ['plain']
  return [(OUTPUTS[tag], params.get(f'output_{tag}', {})) for tag in tags]


# All compute the same.
BACKENDS: dict[str, Any] = dict.fromkeys(
  ('auto', 'reference', 'chunked', 'cudnn', 'tokamax')
)
