"""The one tolerance of the tests: from a dtype and a size."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike


def tolerance(dtype: DTypeLike, size: int, factor: float = 4.0) -> float:
  """The relative error allowed: factor * (eps(dtype) + eps(sums) * sqrt(size)).

  `size` is the number of terms in the longest sum behind one output value, such
  as the width of a matrix product. Rounding errors of a sum of n terms grow
  like sqrt(n), not n: Higham and Mary (2019, SIAM J. Sci. Comput. 41(5)) bound
  them by lambda * sqrt(n) * u, u = eps / 2, but for a probability of
  2 exp(-lambda^2 / 2) an output. lambda = 8 makes that 3e-14, hence the factor
  of 4. A chain of k such sums takes k times the factor.

  Half precision is summed in float32, as XLA does, and rounded once: with its
  own eps under the root, bfloat16 at size 1024 would be allowed 100 % error.

  Integers and booleans are compared exactly.
  """
  if not jnp.issubdtype(dtype, jnp.inexact):
    return 0.0
  eps = float(jnp.finfo(dtype).eps)
  sums = min(eps, float(jnp.finfo(jnp.float32).eps))
  return factor * (eps + sums * max(size, 1) ** 0.5)


def assert_close(
  actual: ArrayLike,
  expected: ArrayLike,
  size: int,
  *,
  factor: float = 4.0,
  scale: float | None = None,
) -> None:
  """Fails unless both have one shape and differ by the tolerance at most.

  The tolerance is that of the dtype of `actual`, relative to `scale`: how large
  the summed terms are, by default the largest finite |expected|. Give it where
  the terms cancel; all zeros are expected exactly without it.
  """
  dtype = np.asarray(actual).dtype  # not jnp's: it makes float64 float32
  got = np.asarray(actual, np.float64)
  want = np.asarray(expected, np.float64)
  assert got.shape == want.shape, f'{got.shape} is not {want.shape}'
  if scale is None:
    scale = float(np.abs(want[np.isfinite(want)]).max(initial=0.0))
  np.testing.assert_allclose(
    got, want, rtol=0.0, atol=scale * tolerance(dtype, size, factor)
  )


EXACT = 1e-12  # relative error allowed in float64


def assert_exact(actual: Any, expected: Any) -> None:
  """Fails beyond the error of float64, relative to the largest element."""
  actual, expected = np.asarray(actual), np.asarray(expected)
  assert actual.shape == expected.shape
  if actual.dtype != bool:
    assert actual.dtype == np.float64
  size = np.abs(expected).max(initial=1e-300)
  np.testing.assert_allclose(actual, expected, rtol=0.0, atol=EXACT * size)
