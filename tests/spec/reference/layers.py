"""Residuals, feed-forward networks, and what is read from and into vectors."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from spec.reference.arithmetic import Params, Vector, add, linear, optional

# Residual: one sub-layer around a sequence. -----------------------------------


class ResidualReference(NamedTuple):
  """`connect(x_TD, norm of a vector, sub-layer of a sequence)`."""

  connect: Callable[..., np.ndarray]
  final_norm: bool


def pre(x_TD: np.ndarray, norm: Callable, sublayer: Callable) -> np.ndarray:
  """Pre-norm, x + f(norm(x)): Xiong et al. 2020, figure 1b."""
  out_TD = sublayer(np.array([norm(x_D) for x_D in x_TD]))
  return np.array([add(x_TD[t], out_TD[t]) for t in range(len(x_TD))])


def post(x_TD: np.ndarray, norm: Callable, sublayer: Callable) -> np.ndarray:
  """Post-norm, norm(x + f(x)): Vaswani et al. 2017, section 3.1."""
  out_TD = sublayer(x_TD)
  return np.array([norm(add(x_TD[t], out_TD[t])) for t in range(len(x_TD))])


def without(x_TD: np.ndarray, norm: Callable, sublayer: Callable) -> np.ndarray:
  """No skip connection, f(norm(x)): Dong et al. 2021, section 2."""
  return sublayer(np.array([norm(x_D) for x_D in x_TD]))


# Feed-forward: of one position; none if there is no such sub-layer. -----------


def mlp(variant: Any, params: Params, x_D: Vector) -> Vector:
  """Vaswani et al. 2017, section 3.3; GELU is x Phi(x) (Hendrycks 2016)."""
  hidden_F = linear(x_D, params['up'], optional(params, 'up_bias'))
  for j, h in enumerate(hidden_F):
    if variant.activation == 'relu':
      hidden_F[j] = max(0.0, h)
    else:
      hidden_F[j] = h * 0.5 * (1.0 + math.erf(h / math.sqrt(2.0)))
  return linear(hidden_F, params['down'], optional(params, 'down_bias'))


def moe(variant: Any, params: Params, x_D: Vector) -> Vector:
  """Shazeer et al. 2017, section 2; gates of Mixtral or of Switch."""
  logits_E = linear(x_D, params['router'], None)
  top = max(logits_E)
  total = sum(math.exp(x - top) for x in logits_E)
  p_E = [math.exp(x - top) / total for x in logits_E]
  # Of equals the first.
  chosen = sorted(range(len(p_E)), key=lambda e: (-p_E[e], e))[: variant.top_k]
  whole = sum(p_E[e] for e in chosen) if variant.renormalize else 1.0
  out_D = np.zeros(len(x_D))
  for e in chosen:
    own = {name: x[e] for name, x in params.items() if name != 'router'}
    out_D = add(out_D, [p_E[e] / whole * y for y in mlp(variant, own, x_D)])
  return out_D


# Vectors in place of tokens: what is read of one, what is predicted of one. ---


def linear_read_in(variant: Any, params: Params, v_I: Vector) -> np.ndarray:
  """Garg et al. 2022, section 2.2: a learned linear map."""
  return linear(v_I, params['kernel'])


def identity_read_in(variant: Any, params: Params, v_I: Vector) -> np.ndarray:
  """Von Oswald et al. 2023, section 3: tokens are the vectors themselves."""
  return np.array(v_I, np.float64)


def linear_read_out(
  variant: Any, params: Params, x_D: Vector, width: int
) -> np.ndarray:
  """Garg et al. 2022, section 2.2: a learned linear map."""
  return linear(x_D, params['kernel'])


def last_read_out(
  variant: Any, params: Params, x_D: Vector, width: int
) -> np.ndarray:
  """Von Oswald et al. 2023, section 3: the entries that hold y."""
  return np.array([x_D[len(x_D) - width + o] for o in range(width)])


RESIDUALS: dict[str, Any] = {
  'pre': ResidualReference(pre, final_norm=True),
  'post': ResidualReference(post, final_norm=False),
  'none': ResidualReference(without, final_norm=True),
}

FEEDFORWARDS: dict[str, Any] = {'mlp': mlp, 'moe': moe, 'none': None}

READ_INS: dict[str, Any] = {
  'linear': linear_read_in,
  'identity': identity_read_in,
}

READ_OUTS: dict[str, Any] = {'linear': linear_read_out, 'last': last_read_out}
