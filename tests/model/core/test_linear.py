"""Products with matrices of parameters, against sums in loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.core.linear import linear


def looped(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
  """Returns the product, one output at a time."""
  lead, tail = x.shape[:-1], kernel.shape[1:]
  out = np.zeros((*lead, *tail))
  for row in np.ndindex(*lead):
    for column in np.ndindex(*tail):
      terms = (x[(*row, n)] * kernel[(n, *column)] for n in range(len(kernel)))
      out[row + column] = sum(terms)
  return out


@pytest.mark.parametrize(
  ('x_shape', 'kernel_shape'),
  [
    ((2, 3, 4), (4, 5)),
    ((2, 3, 4), (4, 2, 3)),
    ((4,), (4, 5)),
    ((0, 3, 4), (4, 5)),
  ],
)
def test_product(
  x_shape: tuple[int, ...], kernel_shape: tuple[int, ...]
) -> None:
  rng = np.random.default_rng(0)
  x, kernel = rng.normal(size=x_shape), rng.normal(size=kernel_shape)
  with jax.enable_x64(True):
    got = linear(jnp.asarray(x), jnp.asarray(kernel))
  np.testing.assert_allclose(np.asarray(got), looped(x, kernel), 1e-12)


def test_dtype_of_the_result() -> None:
  x, kernel = jnp.ones((2, 3), jnp.bfloat16), jnp.ones((3, 4), jnp.bfloat16)
  assert linear(x, kernel).dtype == jnp.bfloat16
  assert linear(x, kernel, dtype=jnp.float32).dtype == jnp.float32
