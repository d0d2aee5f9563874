"""Linear regression by one step of gradient descent: a baseline for models.

From w = 0, one step on 1/(2N) sum_i (w.x_i - y_i)^2 gives w = eta/N sum_i y_i
x_i, which predicts eta/N sum_i y_i x_i.x for x (von Oswald et al. 2023,
arXiv:2212.07677, section 3).  `rate` is eta/N.
"""

import numpy as np


def products(
  x_BNI: np.ndarray, y_BN: np.ndarray, query_BI: np.ndarray
) -> np.ndarray:
  """Returns sum_i y_i x_i.x for each query x: the prediction at rate 1."""
  slope_BI = np.einsum('BN,BNI->BI', y_BN, x_BNI)
  return np.einsum('BI,BI->B', slope_BI, query_BI)


def best_rate(products_B: np.ndarray, target_B: np.ndarray) -> float:
  """Returns the rate with the least squared error, in closed form."""
  return float(products_B @ target_B / (products_B @ products_B))


def loss(prediction_B: np.ndarray, target_B: np.ndarray) -> float:
  """Returns half the mean squared error."""
  return float(0.5 * np.mean(np.square(prediction_B - target_B)))
