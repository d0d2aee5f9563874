"""Outputs: what else attention does to values, weights and heads."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from spec.reference.arithmetic import (
  Params,
  Vector,
  add,
  dot,
  linear,
  logistic,
  optional,
)

# Output: what else attention does; defaults do nothing.


def same_value(params: Params, v_H: Vector, first_H: Vector) -> Vector:
  """The value."""
  return v_H


def no_decay(params: Params, x_TD: np.ndarray, n: int, t: int, s: int) -> float:
  """Nothing."""
  return 0.0


def same_heads(params: Params, x_N: Vector) -> Vector:
  """The numbers of all heads."""
  return x_N


def only_map(params: Params, layer: int, maps: Sequence[float]) -> float:
  """The weight of the only map."""
  (weight,) = maps
  return weight


def same_outputs(
  params: Params,
  out_NH: np.ndarray,
  x_D: Vector,
  v_KH: np.ndarray,
  layer: int,
) -> np.ndarray:
  """The outputs of the heads."""
  return out_NH


class OutputReference(NamedTuple):
  """What one output does to values, logits, weights and heads."""

  maps: int = 1
  values: Callable[..., Vector] = same_value
  decay: Callable[..., float] = no_decay
  mix_logits: Callable[..., Vector] = same_heads
  mix_weights: Callable[..., Vector] = same_heads
  join: Callable[..., float] = only_map
  finish: Callable[..., np.ndarray] = same_outputs


def gate(
  params: Params,
  out_NH: np.ndarray,
  x_D: Vector,
  v_KH: np.ndarray,
  layer: int,
) -> np.ndarray:
  """Qiu et al. 2025, equation 5: Y * sigmoid(X W)."""
  gate_NH = linear(x_D, params['kernel'], optional(params, 'bias'))
  gated_NH = np.zeros(out_NH.shape)
  for n, h in np.ndindex(*out_NH.shape):
    gated_NH[n, h] = out_NH[n, h] * logistic(gate_NH[n, h])
  return gated_NH


def differential_initial(layer: int) -> float:
  """Ye et al. 2024, section 2.1, where the first layer is 1."""
  return 0.8 - 0.6 * math.exp(-0.3 * ((layer + 1) - 1))


def differential(params: Params, layer: int, maps: Sequence[float]) -> float:
  """Ye et al. 2024, equations 1 and 2: A_1 - lambda A_2."""
  first = math.exp(dot(params['query_1'], params['key_1']))
  second = math.exp(dot(params['query_2'], params['key_2']))
  return maps[0] - (first - second + differential_initial(layer)) * maps[1]


def differential_heads(
  params: Params,
  out_NH: np.ndarray,
  x_D: Vector,
  v_KH: np.ndarray,
  layer: int,
) -> np.ndarray:
  """Ye et al. 2024, equation 3: (1 - lambda_init) LN(head), an RMS norm."""
  done = []
  for out_H in out_NH:
    square = sum(x * x for x in out_H) / len(out_H)
    done.append(
      [
        (1 - differential_initial(layer)) * g * x / math.sqrt(square + 1e-5)
        for g, x in zip(params['scale'], out_H, strict=True)
      ]
    )
  return np.array(done)


def exclusive_self(
  params: Params,
  out_NH: np.ndarray,
  x_D: Vector,
  v_KH: np.ndarray,
  layer: int,
) -> np.ndarray:
  """Zhai 2026, equation 2: z = y - (y . v) v / |v|^2."""
  done = []
  for n, y_H in enumerate(out_NH):
    v_H = v_KH[n * len(v_KH) // len(out_NH)]
    square = dot(v_H, v_H)
    share = dot(y_H, v_H) / square if square else 0.0
    done.append([y - share * v for y, v in zip(y_H, v_H, strict=True)])
  return np.array(done)


def forget(params: Params, x_TD: np.ndarray, n: int, t: int, s: int) -> float:
  """Lin et al. 2025, equation 8: the sum of log f_l over l = s + 1 ... t."""
  total = 0.0
  for later in range(s + 1, t + 1):
    gate_N = linear(x_TD[later], params['kernel'], params['bias'])
    total += math.log(logistic(gate_N[n]))
  return total


def value_residual(params: Params, v_H: Vector, first_H: Vector) -> Vector:
  """Zhou et al. 2024: a V_1 + b V, a and b being halves of the parameters."""
  a, b = params['first'] / 2, params['own'] / 2
  return [a * x + b * y for x, y in zip(first_H, v_H, strict=True)]


def talking(name: str) -> Callable[[Params, Vector], Vector]:
  """Returns x -> x (1 + P): Shazeer et al. 2020, equations 3 and 5."""

  def mixed(params: Params, x_N: Vector) -> Vector:
    return add(x_N, linear(x_N, params[name]))

  return mixed


OUTPUTS: dict[str, Any] = {
  'plain': OutputReference(),
  'gate': OutputReference(finish=gate),
  'differential': OutputReference(
    maps=2, join=differential, finish=differential_heads
  ),
  'forget': OutputReference(decay=forget),
  'exclusive_self': OutputReference(finish=exclusive_self),
  'value_residual': OutputReference(values=value_residual),
  'talking_heads': OutputReference(
    mix_logits=talking('logits'), mix_weights=talking('weights')
  ),
}
