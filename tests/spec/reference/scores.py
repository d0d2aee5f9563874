"""Scores and scales of attention: the logit of a query and a key."""

import math
from typing import Any

from spec.reference.arithmetic import Params, Vector, dot, linear, optional

# Score: the logit of query t and key s in head n; x_D made the query. ---------


def dot_score(
  variant: Any,
  params: Params,
  n: int,
  q_H: Vector,
  k_H: Vector,
  x_D: Vector,
  t: int,
  s: int,
) -> float:
  """The product q . k."""
  return dot(q_H, k_H)


def additive_score(
  variant: Any,
  params: Params,
  n: int,
  q_H: Vector,
  k_H: Vector,
  x_D: Vector,
  t: int,
  s: int,
) -> float:
  """Bahdanau et al. 2015, appendix A.1.2: v tanh(W s + U h)."""
  total = 0.0
  for h in range(len(q_H)):
    total += params['vector'][h, n] * math.tanh(q_H[h] + k_H[h])
  return total


def l2_score(
  variant: Any,
  params: Params,
  n: int,
  q_H: Vector,
  k_H: Vector,
  x_D: Vector,
  t: int,
  s: int,
) -> float:
  """Kim et al. 2021, equation 10: -|q - k|^2."""
  return -sum((q - k) ** 2 for q, k in zip(q_H, k_H, strict=True))


def synthesizer_dense_score(
  variant: Any,
  params: Params,
  n: int,
  q_H: Vector,
  k_H: Vector,
  x_D: Vector,
  t: int,
  s: int,
) -> float:
  """Tay et al. 2021, section 3.1: place s of W_2 max(0, W_1 x + b_1) + b_2."""
  bias = [optional(params, name) for name in ('up_bias', 'down_bias')]
  up_NH = linear(x_D, params['up'], bias[0])
  total = 0.0 if bias[1] is None else bias[1][n, s]
  for h, value in enumerate(up_NH[n]):
    total += max(0.0, value) * params['down'][h, n, s]
  return total


def synthesizer_random_score(
  variant: Any,
  params: Params,
  n: int,
  q_H: Vector,
  k_H: Vector,
  x_D: Vector,
  t: int,
  s: int,
) -> float:
  """Tay et al. 2021, section 3.2: a number of the head and both places."""
  return params['table'][n, t, s]


def fixed_score(
  variant: Any,
  params: Params,
  n: int,
  q_H: Vector,
  k_H: Vector,
  x_D: Vector,
  t: int,
  s: int,
) -> float:
  """You et al. 2020, section 3: the logarithm of a normal density around c."""
  places = [t - 1, t + 1, t, 0] if variant.places == 'both' else [t - 1, t, 0]
  center = places[n % len(places)]
  return -((s - center) ** 2) / (2 * variant.std**2)


# Scale: what a logit of head n is multiplied by, where a query sees `seen`. ---


def rsqrt_scale(
  variant: Any, params: Params, n: int, head_dim: int, seen: int
) -> float:
  """1 / sqrt(d_k)."""
  return 1.0 / math.sqrt(head_dim)


def no_scale(
  variant: Any, params: Params, n: int, head_dim: int, seen: int
) -> float:
  """Nothing."""
  return 1.0


def constant_scale(
  variant: Any, params: Params, n: int, head_dim: int, seen: int
) -> float:
  """The number."""
  return variant.value


def inverse_scale(
  variant: Any, params: Params, n: int, head_dim: int, seen: int
) -> float:
  """1 / d_k (Yang et al. 2022, definition 4.1)."""
  return 1.0 / head_dim


def learned_scale(
  variant: Any, params: Params, n: int, head_dim: int, seen: int
) -> float:
  """A number of the head over sqrt(d_k)."""
  return params['head'][n] / math.sqrt(head_dim)


def logn_scale(
  variant: Any, params: Params, n: int, head_dim: int, seen: int
) -> float:
  """Nakanishi 2025, equation 2: n^(s z), with z = q k / sqrt(d_k)."""
  factor = math.log(max(seen, 1)) / math.sqrt(head_dim)
  return factor * params['head'][n] if variant.learned else factor


SCORES: dict[str, Any] = {
  'dot': dot_score,
  'additive': additive_score,
  'l2': l2_score,
  'synthesizer_dense': synthesizer_dense_score,
  'synthesizer_random': synthesizer_random_score,
  'fixed': fixed_score,
}

SCALES: dict[str, Any] = {
  'rsqrt': rsqrt_scale,
  'none': no_scale,
  'constant': constant_scale,
  'inverse': inverse_scale,
  'learned': learned_scale,
  'logn': logn_scale,
}
