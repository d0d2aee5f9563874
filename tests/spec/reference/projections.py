"""Projections: queries, keys and values, and what becomes of heads."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from spec.reference.arithmetic import Params, Vector, linear, optional

# Projections: queries of x, keys and values of y, and what becomes of heads. --


class ProjectionReference(NamedTuple):
  """`query|key|value(variant, params, x_D, N)`, `merge(params, heads_NH)`."""

  query: Callable[[Any, Params, Vector, int], np.ndarray]
  key: Callable[[Any, Params, Vector, int], np.ndarray]
  value: Callable[[Any, Params, Vector, int], np.ndarray]
  merge: Callable[[Params, np.ndarray], Vector]


def projected_by(
  name: str,
) -> Callable[[Any, Params, Vector, int], np.ndarray]:
  """Returns x -> x W, or -> max(0, x W_up) W, as heads."""

  def project(
    variant: Any, params: Params, x_D: Vector, num_heads: int
  ) -> np.ndarray:
    if variant.kind == 'mlp':
      hidden_F = linear(
        x_D, params[f'{name}_up'], optional(params, f'{name}_up_bias')
      )
      x_D = [max(0.0, h) for h in hidden_F]
    return linear(x_D, params[name], optional(params, f'{name}_bias'))

  return project


def merged_by_out(params: Params, heads_NH: np.ndarray) -> Vector:
  """concat(heads) W_O."""
  concat = [x for head_H in heads_NH for x in head_H]
  kernel = np.reshape(params['out'], (len(concat), -1))
  return linear(concat, kernel, optional(params, 'out_bias'))


def sliced(
  variant: Any, params: Params, x_D: Vector, num_heads: int
) -> np.ndarray:
  """Head n is the n-th slice of x."""
  width = len(x_D) // num_heads
  return np.array([x_D[n * width : (n + 1) * width] for n in range(num_heads)])


def side_by_side(params: Params, heads_NH: np.ndarray) -> Vector:
  """concat(heads)."""
  return np.array([x for head_H in heads_NH for x in head_H])


def projections_of(query: str, key: str, value: str) -> ProjectionReference:
  """Returns the projections that take these matrices."""
  return ProjectionReference(
    projected_by(query), projected_by(key), projected_by(value), merged_by_out
  )


def latent_query(
  variant: Any, params: Params, x_D: Vector, num_heads: int
) -> np.ndarray:
  """DeepSeek-V2, equations 6 to 8 and 14 to 16, before the rotation."""
  if variant.query_latent is not None:
    x_D = linear(x_D, params['query_latent'])
  q_NH = linear(x_D, params['query'], optional(params, 'query_bias'))
  return with_rotated(q_NH, linear(x_D, params['query_rotated']))


def latent_key(
  variant: Any, params: Params, x_D: Vector, num_heads: int
) -> np.ndarray:
  """DeepSeek-V2, equations 9, 10, 15 and 17, before the rotation."""
  c_C = linear(x_D, params['latent'])
  k_NH = linear(c_C, params['key'], optional(params, 'key_bias'))
  k_R = linear(x_D, params['key_rotated'])
  return with_rotated(k_NH, [k_R] * len(k_NH))


def with_rotated(x_NH: np.ndarray, rotated_NR: Sequence[Vector]) -> np.ndarray:
  """Each head and, behind it, the part of it that is rotated."""
  return np.array(
    [[*x_H, *x_R] for x_H, x_R in zip(x_NH, rotated_NR, strict=True)]
  )


def latent_value(
  variant: Any, params: Params, x_D: Vector, num_heads: int
) -> np.ndarray:
  """DeepSeek-V2, equations 9 and 11."""
  c_C = linear(x_D, params['latent'])
  return linear(c_C, params['value'], optional(params, 'value_bias'))


PROJECTIONS: dict[str, Any] = {
  'qkv': projections_of('query', 'key', 'value'),
  'shared_kv': projections_of('query', 'key', 'key'),
  'shared_qk': projections_of('query', 'query', 'value'),
  'shared_qkv': projections_of('query', 'query', 'query'),
  'raw': ProjectionReference(sliced, sliced, sliced, side_by_side),
  'mla': ProjectionReference(
    latent_query, latent_key, latent_value, merged_by_out
  ),
}
