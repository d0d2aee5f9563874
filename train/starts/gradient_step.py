"""Weights under which linear attention computes a gradient descent step."""

import dataclasses

import numpy as np

from model.architecture.family import BLOCKS
from model.core.field import field
from model.core.limits import REAL
from train.starts.base import Start, StartInput, Values


@dataclasses.dataclass(frozen=True)
class GradientStep(Start, tag='gradient_step'):
  """One step of gradient descent on the pairs (x, y) that attention reads.

  Von Oswald et al. 2023, arXiv:2212.07677, proposition 1, from w = 0: W_Q and
  W_K select x, W_V selects y, and W_O adds `rate` times it to y, so that the
  prediction is rate sum_j y_j x_j.x.  Departure: the paper writes the negative,
  and negates it when it reads the prediction.
  """

  rate: float = field(
    0.605,
    'Step size over the number of pairs, eta / N.',
    min=-REAL.most,
    max=REAL,
  )

  def values(self, given: StartInput) -> Values:
    """Returns W_Q, W_K, W_V and W_O of each layer, for one head."""
    width = given.dims.d_model
    x_DH = np.diag([1.0] * (width - 1) + [0.0])
    y_DH = np.eye(width) - x_DH
    matrices = {
      'query': x_DH[:, None],
      'key': x_DH[:, None],
      'value': y_DH[:, None],
      'out': self.rate * y_DH[None],
    }
    return {
      f'{BLOCKS}/attention/{name}': np.stack([matrix] * given.dims.num_layers)
      for name, matrix in matrices.items()
    }
