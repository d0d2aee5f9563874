"""Measurements: of the residual stream, attention weights, and gradients."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from spec.reference.arithmetic import Vector


class Inside(NamedTuple):
  """What is inside a model of one stack, for some examples.

  Attributes:
    streams: of each example a matrix x_TD for each layer, from 0, without
      padding.
    weights_LBNTS: attention weights.
    segments_BT: document of each token; 0 is padding.
    gradients: by path; those of blocks have a first axis of layers.
  """

  streams: Sequence[Sequence[np.ndarray]]
  weights_LBNTS: np.ndarray
  segments_BT: np.ndarray
  gradients: Mapping[str, np.ndarray]


class Figures(NamedTuple):
  """Figures by name, and those of each layer."""

  figures: Mapping[str, float]
  layers: Mapping[str, Sequence[float]]


def no_figures(variant: Any, inside: Inside) -> Figures:
  """None."""
  del variant, inside
  return Figures({}, {})


def rank_residual(variant: Any, inside: Inside) -> Figures:
  """The ratios, and that of the last layer."""
  del variant
  ratios = rank_ratios(inside.streams)
  return Figures({'rank_residual': ratios[-1]}, {'rank_residual': ratios})


def rank_ratios(streams: Sequence[Sequence[np.ndarray]]) -> list[float]:
  """Dong et al. 2021: |X - 1 x^T| / |X|, |A|^2 = |A|_1 |A|_inf; mean x."""
  ratios = []
  for layer in zip(*streams, strict=True):
    total = 0.0
    for x_TD in layer:
      length, width = len(x_TD), len(x_TD[0])
      mean_D = [
        sum(x_TD[t][d] for t in range(length)) / length for d in range(width)
      ]
      apart_TD = [
        [x_TD[t][d] - mean_D[d] for d in range(width)] for t in range(length)
      ]
      total += one_inf(apart_TD) / one_inf(x_TD)
    ratios.append(total / len(layer))
  return ratios


def one_inf(x_TD: Sequence[Vector]) -> float:
  """The root of the largest column sum and the largest row sum, absolute."""
  columns = [0.0] * len(x_TD[0])
  largest_row = 0.0
  for x_D in x_TD:
    row = 0.0
    for d, x in enumerate(x_D):
      row += abs(x)
      columns[d] += abs(x)
    largest_row = max(largest_row, row)
  return math.sqrt(max(columns) * largest_row)


def attention(variant: Any, inside: Inside) -> Figures:
  """Vaswani et al. 2017, 3.2.1: -sum p ln p, max p, |diag(p) - p p^T|."""
  del variant
  layers: dict[str, list[float]] = {}
  for layer_BNTS in inside.weights_LBNTS:
    rows: dict[str, list[float]] = {}
    for example_NTS, segments_T in zip(
      layer_BNTS, inside.segments_BT, strict=True
    ):
      for head_TS in example_NTS:
        for weights_S, segment in zip(head_TS, segments_T, strict=True):
          if segment and (weights_S > 0).any():
            for name, x in sharpness(weights_S).items():
              rows.setdefault(name, []).append(x)
    for name, values in rows.items():
      middle = np.median if name == 'softmax_slope' else np.mean
      layers.setdefault(name, []).append(float(middle(values)))
  figures = {name: float(np.mean(values)) for name, values in layers.items()}
  return Figures(figures, layers)


def sharpness(weights_S: Vector) -> dict[str, float]:
  """Figures of one query, whose weights are made to sum to 1."""
  total = sum(max(0.0, w) for w in weights_S)
  shares_S = [max(0.0, w) / total for w in weights_S]
  squares = 0.0
  for i, p in enumerate(shares_S):
    for j, q in enumerate(shares_S):
      squares += ((p if i == j else 0.0) - p * q) ** 2
  return {
    'attention_entropy': -sum(p * math.log(p) for p in shares_S if p > 0),
    'largest_weight': max(shares_S),
    'softmax_slope': math.sqrt(squares),
  }


def gradient_norm(variant: Any, inside: Inside) -> Figures:
  """Xiong et al. 2020, section 3: the Frobenius norm, layer by layer."""
  depth = len(inside.weights_LBNTS)
  squares = [0.0] * depth
  for path, gradient in inside.gradients.items():
    stack, *own = path.split('/')
    wanted = variant.of.split('/') if variant.of else []
    if stack == 'blocks' and own[: len(wanted)] == wanted:
      for layer in range(depth):
        squares[layer] += sum(float(x) ** 2 for x in np.ravel(gradient[layer]))
  norms = [math.sqrt(x) for x in squares]
  return Figures({'gradient_norm': norms[-1]}, {'gradient_norm': norms})


MEASURES: dict[str, Any] = {
  'none': no_figures,
  'rank_residual': rank_residual,
  'attention': attention,
  'gradient_norm': gradient_norm,
}
