"""The exact GELU: its value and its slope, against the error function."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from model.layers.activations import gelu

X = np.linspace(-8.0, 8.0, 401)


def value(x: float) -> float:
  """Returns x Phi(x)."""
  return x * 0.5 * math.erfc(-x / math.sqrt(2.0))


def slope(x: float) -> float:
  """Returns Phi(x) + x phi(x)."""
  density = math.exp(-x * x / 2.0) / math.sqrt(2.0 * math.pi)
  return 0.5 * math.erfc(-x / math.sqrt(2.0)) + x * density


@pytest.mark.parametrize(
  ('dtype', 'error'),
  [
    (jnp.float64, 4e-15),
    (jnp.float32, 2e-6),
    (jnp.bfloat16, 0.02),
  ],
  ids=['float64', 'float32', 'bfloat16'],
)
def test_value_and_slope(dtype: jnp.dtype, error: float) -> None:
  with jax.enable_x64(True):
    x = jnp.asarray(X, dtype)
    values, slopes = jax.vmap(jax.value_and_grad(gelu))(x)
    assert values.dtype == slopes.dtype == dtype
    seen = [float(one) for one in x]
  np.testing.assert_allclose(
    np.asarray(values, np.float64), [*map(value, seen)], atol=error
  )
  np.testing.assert_allclose(
    np.asarray(slopes, np.float64), [*map(slope, seen)], atol=error
  )


def test_backward_pass_has_no_error_function() -> None:
  """The slope is kept: computed again, it would cost as much as the value."""
  _, pull = jax.vjp(gelu, jnp.ones(3))
  assert 'erf' not in str(jax.make_jaxpr(pull)(jnp.ones(3)))
