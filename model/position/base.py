"""Position encodings: how a model knows the order of its tokens.

A variant overrides one of three hooks of `PositionBase`, which do nothing by
default: `embed` adds to the embeddings, `rotate` changes queries and keys, and
`bias` adds to the logits.
"""

import dataclasses
import functools
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from model.core.field import FieldError, Variant, field
from model.core.limits import COUNT, REAL, WIDTH
from model.core.parameter import Dims, Param, ParamRole, PartParams, param


class PositionTraits(NamedTuple):
  """Properties of a position encoding that the rules read.

  Attributes:
    rotates: it overrides `rotate`, so the score must read queries and keys.
    biases: it overrides `bias`.
    biases_by_place: `bias` is not a function of distances alone, so it needs
      positions in the document where a row has several documents.
    embeds: it overrides `embed`.
  """

  rotates: bool = False
  biases: bool = False
  biases_by_place: bool = False
  embeds: bool = False


class PositionBase(Variant):
  """Base of all position encodings; its hooks do nothing."""

  traits: ClassVar[PositionTraits] = PositionTraits()

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the parameters, which all layers share, by name."""
    del dims
    return {}

  def for_direction(self, sees_future: bool) -> 'PositionBase':
    """Returns the variant to use in a stack that does or does not see ahead."""
    del sees_future
    return self

  def problem(self, dims: Dims) -> FieldError | None:
    """Returns an error if the variant does not fit these sizes, or `None`."""
    del dims
    return None

  def embed(
    self, params: PartParams, x_BTD: jax.Array, t_T: jax.Array
  ) -> jax.Array:
    """Adds positions t to the embeddings x."""
    del params, t_T
    return x_BTD

  def rotate(self, x_BTNH: jax.Array, t_T: jax.Array) -> jax.Array:
    """Rotates queries or keys at positions t."""
    del t_T
    return x_BTNH

  def bias(
    self, params: PartParams, num_heads: int, t_T: jax.Array, s_S: jax.Array
  ) -> jax.Array | None:
    """Returns bias_NTS, added to the logits of queries at t and keys at s.

    Positions are those in the row, even if it holds several documents: only
    distances matter.  With the trait `biases_by_place`, they are those in the
    document.
    """
    del params, num_heads, t_T, s_S
    return None


@dataclasses.dataclass(frozen=True)
class NoPosition(PositionBase, tag='none'):
  """No position encoding; a causal mask still gives some information.

  (Haviv et al. 2022, arXiv:2203.16634.)
  """


@dataclasses.dataclass(frozen=True)
class Sinusoidal(PositionBase, tag='sinusoidal'):
  """Fixed sines and cosines added to the input (Vaswani et al. 2017, 3.5).

  PE(t, 2i) = sin(t / theta^(2i/D)), PE(t, 2i+1) = cos(t / theta^(2i/D)).
  """

  traits: ClassVar[PositionTraits] = PositionTraits(embeds=True)

  theta: float = field(10_000.0, 'Base of the wavelengths.', min=1.0, max=REAL)

  def problem(self, dims: Dims) -> FieldError | None:
    """Returns an error if the variant does not fit these sizes, or `None`."""
    return _odd_problem(
      'd_model', dims.d_model, 'sinusoidal positions pair its units'
    )

  def embed(
    self, params: PartParams, x_BTD: jax.Array, t_T: jax.Array
  ) -> jax.Array:
    """Returns x + PE."""
    del params
    angle_TI = _angles(t_T, x_BTD.shape[-1], self.theta)
    pair_TI2 = jnp.stack([jnp.sin(angle_TI), jnp.cos(angle_TI)], -1)
    return x_BTD + pair_TI2.reshape(x_BTD.shape[1:]).astype(x_BTD.dtype)


@dataclasses.dataclass(frozen=True)
class LearnedPosition(PositionBase, tag='learned'):
  """A trained vector for each position (Gehring et al. 2017; GPT-2)."""

  traits: ClassVar[PositionTraits] = PositionTraits(embeds=True)

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns a table of --seq_len vectors."""
    return {'table': param('T->D', ParamRole.EMBEDDING, dims)}

  def embed(
    self, params: PartParams, x_BTD: jax.Array, t_T: jax.Array
  ) -> jax.Array:
    """Returns x + table[t]."""
    return x_BTD + params['table'][t_T]


@dataclasses.dataclass(frozen=True)
class Rope(PositionBase, tag='rope'):
  """Rotary embeddings (Su et al. 2021, arXiv:2104.09864).

  The pair i of each query and key turns by t theta^(-2i/H).  Departure: a pair
  is units (i, i + H/2), as in GPT-NeoX and Llama, not (2i, 2i + 1); the two
  differ by a fixed permutation of the units of a head.
  """

  traits: ClassVar[PositionTraits] = PositionTraits(rotates=True)

  theta: float = field(10_000.0, 'Base of the wavelengths.', min=1.0, max=REAL)

  def problem(self, dims: Dims) -> FieldError | None:
    """Returns an error if the variant does not fit these sizes, or `None`."""
    return _odd_problem(
      'head_dim', dims.head_dim, 'rotary positions pair its units'
    )

  def rotate(self, x_BTNH: jax.Array, t_T: jax.Array) -> jax.Array:
    """Rotates queries or keys by their positions."""
    angle_T1I = _angles(t_T, x_BTNH.shape[-1], self.theta)[:, None, :]
    sin, cos = jnp.sin(angle_T1I), jnp.cos(angle_T1I)
    sin, cos = sin.astype(x_BTNH.dtype), cos.astype(x_BTNH.dtype)
    low, high = jnp.split(x_BTNH, 2, axis=-1)
    return jnp.concatenate([low * cos - high * sin, high * cos + low * sin], -1)


@dataclasses.dataclass(frozen=True)
class Alibi(PositionBase, tag='alibi'):
  """Logits - m |t - s|, m fixed for each head (Press et al. 2022).

  arXiv:2108.12409.  m = 2^(-8 i / N) for head i of N = 1, 2, 4, ...; for other
  N, the slopes of the next lower power of two, then every other slope of the
  next higher one, as in the authors' code.  A later key has the same bias as an
  earlier one at the same distance.
  """

  traits: ClassVar[PositionTraits] = PositionTraits(biases=True)

  def bias(
    self, params: PartParams, num_heads: int, t_T: jax.Array, s_S: jax.Array
  ) -> jax.Array | None:
    """Returns -m |t - s|."""
    del params
    slope_N = jnp.asarray(_slopes(num_heads))
    distance_TS = jnp.abs(t_T[:, None] - s_S[None, :])
    return -slope_N[:, None, None] * distance_TS


@dataclasses.dataclass(frozen=True)
class T5(PositionBase, tag='t5'):
  """A trained bias for each distance bucket and head (Raffel et al. 2020).

  arXiv:1910.10683, section 2.1, and the authors' code.  The first half of the
  buckets hold one distance each; the others grow geometrically up to
  `max_distance`, from which on all distances share the last.  All layers of a
  stack share the biases.  Departure: they start from 0.
  """

  traits: ClassVar[PositionTraits] = PositionTraits(biases=True)

  buckets: int = field(32, 'Trained biases for each head.', min=4, max=WIDTH)
  max_distance: int = field(
    128, 'Distance from which all share one bucket.', min=2, max=COUNT
  )
  bidirectional: bool | None = field(
    None,
    'Use half of the buckets for later keys, which otherwise have distance 0; '
    '`none` is true in a stack whose mask shows later keys.',
  )

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the biases, with shape [buckets, N]."""
    return {'bias': param('->RN', ParamRole.BIAS, dims, {'R': self.buckets})}

  def for_direction(self, sees_future: bool) -> 'T5':
    """Returns the variant to use in a stack that does or does not see ahead."""
    if self.bidirectional is not None:
      return self
    return dataclasses.replace(self, bidirectional=sees_future)

  def problem(self, dims: Dims) -> FieldError | None:
    """Returns an error if the variant does not fit these sizes, or `None`."""
    del dims
    if self.bidirectional and self.buckets % 2:
      return _odd_problem(
        'position.buckets',
        self.buckets,
        'half are for the future: or set --position.bidirectional=false',
      )
    near = self._buckets_per_direction() // 2
    if self.max_distance > near:
      return None
    return FieldError(
      'position.max_distance',
      self.max_distance,
      f'must be more than {near}: nearer distances have a bucket each',
    )

  def bias(
    self, params: PartParams, num_heads: int, t_T: jax.Array, s_S: jax.Array
  ) -> jax.Array | None:
    """Returns the biases of the buckets of t - s."""
    del num_heads
    bucket_TS = self._bucket(t_T[:, None] - s_S[None, :])
    return jnp.moveaxis(params['bias'][bucket_TS], -1, 0)

  def _buckets_per_direction(self) -> int:
    return self.buckets // 2 if self.bidirectional else self.buckets

  def _bucket(self, back_TS: jax.Array) -> jax.Array:
    """Returns the bucket of each distance back from a query to a key."""
    count = self._buckets_per_direction()
    near = count // 2
    if self.bidirectional:
      first_TS = jnp.where(back_TS < 0, count, 0)
      distance_TS = jnp.abs(back_TS)
    else:
      first_TS = jnp.zeros_like(back_TS)
      distance_TS = jnp.maximum(back_TS, 0)
    first = np.array(_first_distances(count, self.max_distance), np.int32)
    far_TS = near + jnp.searchsorted(
      first, distance_TS, side='right', method='scan_unrolled'
    ).astype(distance_TS.dtype)
    return first_TS + jnp.where(distance_TS < near, distance_TS, far_TS)


@functools.cache
def _first_distances(count: int, largest: int) -> tuple[int, ...]:
  """Returns the first distance of each growing bucket but the first.

  There are n buckets of one distance each, and c that grow.  Distance d is in
  growing bucket number floor(c log(d / n) / log(largest / n)).  So bucket j
  begins at the smallest d with d^c n^j >= largest^j n^c.  Integers decide this
  exactly; a rounded logarithm may fall on either side of a whole number.
  """
  near = count // 2
  growing = count - near
  found = []
  for j in range(1, growing):
    common = math.gcd(j, growing)
    up, c = j // common, growing // common
    about = near * (largest / near) ** (j / growing)
    least = math.ceil(about)
    if abs(about - round(about)) > 1e-6 * about:
      found.append(min(least, 2**31 - 1))
      continue
    while (least - 1) ** c * near**up >= largest**up * near**c:
      least -= 1
    while least**c * near**up < largest**up * near**c:
      least += 1
    found.append(min(least, 2**31 - 1))
  return tuple(found)


def _slopes(num_heads: int) -> list[float]:
  """Returns the slope m of each head."""
  below = 1 << (num_heads.bit_length() - 1)
  slopes = [2.0 ** (-8.0 * (n + 1) / below) for n in range(below)]
  between = [2.0 ** (-4.0 * (n + 1) / below) for n in range(0, 2 * below, 2)]
  return (slopes + between)[:num_heads]


def _angles(t_T: jax.Array, width: int, theta: float) -> jax.Array:
  """Returns t / theta^(2i/width) for i in 0 .. width/2 - 1.

  It is in float32 or wider, whatever type the model computes in: bfloat16
  cannot distinguish positions 256 and 257.
  """
  exponent_I = jnp.arange(0, width, 2) / width
  return t_T[:, None] * jnp.power(theta, -exponent_I)[None, :]


def _odd_problem(name: str, size: int, why: str) -> FieldError | None:
  if size % 2 == 0:
    return None
  return FieldError(name, size, f'must be even, because {why}')
