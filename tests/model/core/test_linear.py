"""Products with matrices of parameters, against sums in loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.core.linear import linear


def looped(x: np.ndarray, kernel: np.ndarray, axes: int) -> np.ndarray:
  """Returns the product, one output at a time."""
  lead, tail = x.shape[: x.ndim - axes], kernel.shape[axes:]
  out = np.zeros((*lead, *tail))
  for row in np.ndindex(*lead):
    for column in np.ndindex(*tail):
      out[row + column] = sum(
        x[row + own] * kernel[own + column]
        for own in np.ndindex(*kernel.shape[:axes])
      )
  return out


@pytest.mark.parametrize(
  ('x_shape', 'kernel_shape', 'axes'),
  [
    ((2, 3, 4), (4, 5), 1),
    ((2, 3, 4), (4, 2, 3), 1),
    ((2, 3, 2, 4), (2, 4, 5), 2),
    ((4,), (4, 5), 1),
    ((0, 3, 4), (4, 5), 1),
  ],
)
def test_product(
  x_shape: tuple[int, ...], kernel_shape: tuple[int, ...], axes: int
) -> None:
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=x_shape), rng.normal(size=kernel_shape)
  with jax.enable_x64(True):
    got = linear(jnp.asarray(x), jnp.asarray(kernel), axes)
  np.testing.assert_allclose(np.asarray(got), looped(x, kernel, axes), 1e-12)


def test_dtype_of_the_result() -> None:
  x, kernel = jnp.ones((2, 3), jnp.bfloat16), jnp.ones((3, 4), jnp.bfloat16)
  assert linear(x, kernel).dtype == jnp.bfloat16
  assert linear(x, kernel, dtype=jnp.float32).dtype == jnp.float32
