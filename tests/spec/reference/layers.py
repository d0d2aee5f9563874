"""Residuals, and what is read from and into vectors."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from spec.reference.arithmetic import Params, Vector, add, linear

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

READ_INS: dict[str, Any] = {
  'linear': linear_read_in,
  'identity': identity_read_in,
}

READ_OUTS: dict[str, Any] = {'linear': linear_read_out, 'last': last_read_out}
