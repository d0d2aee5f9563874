"""Positions: how a model knows the order of its tokens.

A variant overrides one of the hooks of `NoPosition`, which do nothing: `embed`
adds to the embeddings, `rotate` changes queries and keys.
"""

import dataclasses

import jax
import jax.numpy as jnp

from model.field import FieldError, Variant, field
from model.parameter import Dims, Kind, Param, Params, param


@dataclasses.dataclass(frozen=True)
class NoPosition(Variant, tag='none'):
  """No information on positions; a causal mask still gives some.

  (Haviv et al. 2022, arXiv:2203.16634.)
  """

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the parameters, which all layers share."""
    del dims
    return {}

  def problem(self, dims: Dims) -> FieldError | None:
    """Returns why the variant does not fit these sizes, if it does not."""
    del dims
    return None

  def embed(
    self, params: Params, x_BTD: jax.Array, t_T: jax.Array
  ) -> jax.Array:
    """Returns the embeddings of tokens at positions t."""
    del params, t_T
    return x_BTD

  def rotate(self, x_BTNH: jax.Array, t_T: jax.Array) -> jax.Array:
    """Returns the queries or keys of positions t."""
    del t_T
    return x_BTNH


@dataclasses.dataclass(frozen=True)
class Sinusoidal(NoPosition, tag='sinusoidal'):
  """Fixed sines and cosines added to the input (Vaswani et al. 2017, 3.5).

  PE(t, 2i) = sin(t / theta^(2i/D)), PE(t, 2i+1) = cos(t / theta^(2i/D)).
  """

  theta: float = field(10_000.0, 'Base of the wavelengths.', min=1.0)

  def problem(self, dims: Dims) -> FieldError | None:
    """Returns why the variant does not fit these sizes, if it does not."""
    return _even('d_model', dims.d_model, 'sinusoidal positions pair its units')

  def embed(
    self, params: Params, x_BTD: jax.Array, t_T: jax.Array
  ) -> jax.Array:
    """Returns x + PE."""
    del params
    angle_TI = _angles(t_T, x_BTD.shape[-1], self.theta)
    pair_TI2 = jnp.stack([jnp.sin(angle_TI), jnp.cos(angle_TI)], -1)
    return x_BTD + pair_TI2.reshape(x_BTD.shape[1:]).astype(x_BTD.dtype)


@dataclasses.dataclass(frozen=True)
class Learned(NoPosition, tag='learned'):
  """A trained vector for each position (Gehring et al. 2017; GPT-2)."""

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the table of --seq_len vectors."""
    return {'table': param('T->D', Kind.EMBEDDING, dims)}

  def embed(
    self, params: Params, x_BTD: jax.Array, t_T: jax.Array
  ) -> jax.Array:
    """Returns x + table[t]."""
    return x_BTD + params['table'][t_T]


@dataclasses.dataclass(frozen=True)
class Rope(NoPosition, tag='rope'):
  """Rotary embeddings (Su et al. 2021, arXiv:2104.09864).

  The pair i of each query and key turns by t theta^(-2i/H).  Departure: a pair
  is units (i, i + H/2), as in GPT-NeoX and Llama, not (2i, 2i + 1); the two
  differ by a fixed permutation of the units of a head.
  """

  theta: float = field(10_000.0, 'Base of the wavelengths.', min=1.0)

  def problem(self, dims: Dims) -> FieldError | None:
    """Returns why the variant does not fit these sizes, if it does not."""
    return _even('head_dim', dims.head_dim, 'rotary positions pair its units')

  def rotate(self, x_BTNH: jax.Array, t_T: jax.Array) -> jax.Array:
    """Returns queries or keys, turned by their positions."""
    angle_T1I = _angles(t_T, x_BTNH.shape[-1], self.theta)[:, None, :]
    sin, cos = jnp.sin(angle_T1I), jnp.cos(angle_T1I)
    sin, cos = sin.astype(x_BTNH.dtype), cos.astype(x_BTNH.dtype)
    low, high = jnp.split(x_BTNH, 2, axis=-1)
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], -1)


Position = NoPosition | Sinusoidal | Learned | Rope


def _angles(t_T: jax.Array, width: int, theta: float) -> jax.Array:
  """Returns t / theta^(2i/width) for i in 0 .. width/2 - 1, at least float32.

  The frequencies are in float32 whatever the model computes in: bfloat16
  cannot tell position 256 from 257.
  """
  exponent_I = jnp.arange(0, width, 2) / width
  return t_T[:, None] * jnp.power(theta, -exponent_I)[None, :]


def _even(name: str, size: int, why: str) -> FieldError | None:
  if size % 2 == 0:
    return None
  return FieldError(name, size, f'must be even, because {why}')
