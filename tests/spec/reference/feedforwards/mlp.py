"""A hidden layer: of one token."""

import math
from typing import Any

from spec.reference.arithmetic import Params, Vector, linear, optional


def loop(variant: Any, params: Params, x_D: Vector) -> Vector:
  """Vaswani et al. 2017, section 3.3; GELU is x Phi(x) (Hendrycks 2016)."""
  hidden_F = linear(x_D, params['up'], optional(params, 'up_bias'))
  for j, h in enumerate(hidden_F):
    if variant.activation == 'relu':
      hidden_F[j] = max(0.0, h)
    else:
      hidden_F[j] = h * 0.5 * (1.0 + math.erf(h / math.sqrt(2.0)))
  return linear(hidden_F, params['down'], optional(params, 'down_bias'))
