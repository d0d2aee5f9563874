"""Products with matrices of parameters."""

import math

import jax
import jax.numpy as jnp


def linear(
  x: jax.Array,
  kernel: jax.Array,
  axes: int = 1,
  dtype: jnp.dtype | None = None,
) -> jax.Array:
  """Multiplies the last axes of an array by a matrix of parameters.

  All leading axes become the rows of one product.  With several axes of rows,
  XLA transposes a copy of an array for the gradient of the matrix, which takes
  a third of a training step on a CPU.

  Args:
    x: array whose last `axes` axes are summed over.
    kernel: matrix; its first `axes` axes are those, the others are new.
    axes: number of axes that are summed over.
    dtype: type of the result; `None` is that of the arguments.
  """
  lead, tail = x.shape[: x.ndim - axes], kernel.shape[axes:]
  inputs, outputs = math.prod(kernel.shape[:axes]), math.prod(tail)
  y = jnp.matmul(
    x.reshape(math.prod(lead), inputs),
    kernel.reshape(inputs, outputs),
    preferred_element_type=dtype,
  )
  return y.reshape(*lead, *tail)
