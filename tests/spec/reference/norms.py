"""Norms: of one vector, and of one query or key."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from spec.reference.arithmetic import Params, Vector, optional

# Normalisation of one query or key. -------------------------------------------


class QkNormReference(NamedTuple):
  """`query(variant, params, q_H)` and `key(variant, params, k_H)`."""

  query: Callable[[Any, Params, Vector], Vector]
  key: Callable[[Any, Params, Vector], Vector]


def same_vector(variant: Any, params: Params, x_H: Vector) -> Vector:
  """The vector."""
  return x_H


def unit(variant: Any, params: Params, x_H: Vector) -> Vector:
  """Henry et al. 2020, equation 3: x / |x|."""
  length = math.sqrt(sum(x * x for x in x_H) + variant.eps)
  return np.array([x / length for x in x_H])


def unit_times_gain(variant: Any, params: Params, x_H: Vector) -> Vector:
  """Henry et al. 2020, equation 4: g x / |x|, g in multiples of its start."""
  gain = variant.start * float(params['gain'])
  return np.array([gain * x for x in unit(variant, params, x_H)])


def layer_by(name: str) -> Callable[[Any, Params, Vector], Vector]:
  """Returns g (x - mean) / sqrt(var + eps) with the gain of this name."""

  def normalize(variant: Any, params: Params, x_H: Vector) -> Vector:
    return layernorm(variant, {'scale': params[name]}, x_H)

  return normalize


def rms_by(name: str) -> Callable[[Any, Params, Vector], Vector]:
  """Returns g x / sqrt(mean(x^2) + eps) with the gain of this name."""

  def normalize(variant: Any, params: Params, x_H: Vector) -> Vector:
    return rmsnorm(variant, {'scale': params[name]}, x_H)

  return normalize


# Norm: of one vector. ---------------------------------------------------------


def layernorm(variant: Any, params: Params, x_D: Vector) -> Vector:
  """Ba et al. 2016: g (x - mean) / sqrt(var + eps) + b, var over n."""
  mean = sum(x_D) / len(x_D)
  var = sum((x - mean) ** 2 for x in x_D) / len(x_D)
  bias, out_D = optional(params, 'bias'), np.zeros(len(x_D))
  for j, x in enumerate(x_D):
    out_D[j] = params['scale'][j] * (x - mean) / math.sqrt(var + variant.eps)
    out_D[j] += 0.0 if bias is None else bias[j]
  return out_D


def rmsnorm(variant: Any, params: Params, x_D: Vector) -> Vector:
  """Zhang & Sennrich 2019: g x / sqrt(mean(x^2) + eps)."""
  square = sum(x * x for x in x_D) / len(x_D)
  return np.array(
    [
      g * x / math.sqrt(square + variant.eps)
      for g, x in zip(params['scale'], x_D, strict=True)
    ]
  )


def no_norm(variant: Any, params: Params, x_D: Vector) -> Vector:
  """The input."""
  return x_D


NORMS: dict[str, Any] = {
  'layernorm': layernorm,
  'rmsnorm': rmsnorm,
  'none': no_norm,
}

QK_NORMS: dict[str, Any] = {
  'none': QkNormReference(same_vector, same_vector),
  'rms': QkNormReference(rms_by('query'), rms_by('key')),
  'layernorm': QkNormReference(layer_by('query'), layer_by('key')),
  'l2': QkNormReference(unit_times_gain, unit),
}
