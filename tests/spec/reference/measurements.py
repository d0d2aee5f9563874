"""Measurements: of the residual stream before and after each block."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from spec.reference.arithmetic import Vector

# Measurements: of the stream of each example, before and behind each block. ---

# Of an example: a matrix x_TD for each layer.
Streams = Sequence[Sequence[np.ndarray]]


class Figures(NamedTuple):
  """Figures by name, and those of each layer."""

  figures: Mapping[str, float]
  layers: Mapping[str, Sequence[float]]


def no_figures(streams: Streams) -> Figures:
  """None."""
  del streams
  return Figures({}, {})


def rank_residual(streams: Streams) -> Figures:
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
  return Figures({'rank_residual': ratios[-1]}, {'rank_residual': ratios})


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


MEASURES: dict[str, Any] = {'none': no_figures, 'rank_residual': rank_residual}
