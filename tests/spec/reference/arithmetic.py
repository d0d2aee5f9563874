"""Sums and products of vectors, as loops."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Vector = Sequence[float] | np.ndarray
Params = Mapping[str, np.ndarray]


def dot(a: Vector, b: Vector) -> float:
  """Returns the sum of a_i b_i."""
  total = 0.0
  for x, y in zip(a, b, strict=True):
    total += float(x) * float(y)
  return total


def linear(x_D: Vector, w_DF: np.ndarray, bias: Any = None) -> np.ndarray:
  """Returns x W + b, of a W with any number of output axes."""
  flat_DF = np.reshape(w_DF, (len(x_D), -1))
  out_F = np.zeros(flat_DF.shape[1])
  for j in range(flat_DF.shape[1]):
    out_F[j] = dot(x_D, flat_DF[:, j])
    if bias is not None:
      out_F[j] += np.reshape(bias, -1)[j]
  return out_F.reshape(w_DF.shape[1:])


def optional(params: Params, name: str) -> np.ndarray | None:
  """Returns a bias if the model has it."""
  return params.get(name)


def logistic(x: float) -> float:
  """1 / (1 + exp(-x))."""
  if x < 0:
    return math.exp(x) / (1.0 + math.exp(x))
  return 1.0 / (1.0 + math.exp(-x))


def add(a_D: Vector, b_D: Vector) -> np.ndarray:
  """The elementwise sum."""
  return np.array([a + b for a, b in zip(a_D, b_D, strict=True)])


def below(params: Mapping[str, np.ndarray], part: str) -> Params:
  """Returns the parameters under one path, by their last name."""
  return {
    path.removeprefix(f'{part}/'): value
    for path, value in params.items()
    if path.startswith(f'{part}/')
  }
