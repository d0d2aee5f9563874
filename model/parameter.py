"""Parameters as data: what a variant owns, and how it starts.

A variant lists its parameters in `params(dims) -> {name: Param}`; one Linen
shell (`Parameters`) walks that list.  The value that a parameter starts from is
a function of (seed, path, shape) alone, never of the order in which modules
are called, so that rows of an ablation start from equal values wherever they
share a parameter.
"""

import dataclasses
import enum
import math
import zlib
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from model.field import FieldError, Variant, field
from model.limits import REAL


@dataclasses.dataclass(frozen=True)
class Dims:
  """Sizes of the axes; the glossary of letters stands in `model/__init__`."""

  num_layers: int
  d_model: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  seq_len: int
  vocab_size: int
  use_bias: bool
  num_classes: int = 0

  def sizes(self) -> dict[str, int]:
    """Returns `{axis letter: size}`."""
    return {
      'L': self.num_layers,
      'D': self.d_model,
      'N': self.num_heads,
      'K': self.num_kv_heads,
      'H': self.head_dim,
      'T': self.seq_len,
      'V': self.vocab_size,
    }


# The parameters of one part, by name.
Params = Mapping[str, jax.Array]


class Kind(enum.Enum):
  """What a parameter starts from; whether it decays is `Param.is_matrix`."""

  EMBEDDING = 'embedding'
  MATRIX = 'matrix'
  RESIDUAL = 'residual'  # a matrix whose output is added to the residual
  SCALE = 'scale'
  BIAS = 'bias'


@dataclasses.dataclass(frozen=True)
class Param:
  """One parameter: its axes, e.g. 'D->NH' (inputs, outputs), and its start.

  Gains, biases and vectors that nothing is looked up in or multiplied by have
  no inputs: '->D'.
  """

  axes: str
  shape: tuple[int, ...]
  init: Kind

  @property
  def is_matrix(self) -> bool:
    """Returns whether it maps inputs to outputs: a matrix or an embedding."""
    return not self.axes.startswith('->')

  @property
  def fans(self) -> tuple[int, int]:
    """Returns (fan in, fan out): products over the axes beside the arrow."""
    inputs = self.axes.index('->')
    return math.prod(self.shape[:inputs]), math.prod(self.shape[inputs:])


def param(
  axes: str, init: Kind, dims: Dims, extra: Mapping[str, int] | None = None
) -> Param:
  """Returns the parameter with these axes; `extra` sizes further letters."""
  sizes = dims.sizes() | dict(extra or {})
  letters = axes.replace('->', '')
  return Param(axes, tuple(sizes[letter] for letter in letters), init)


class Part(Variant):
  """Base of variants that may own parameters; most own none."""

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the parameters of one layer."""
    del dims
    return {}


def add_bias(x: jax.Array, params: Params, name: str) -> jax.Array:
  """Returns x plus the bias of this name, if the part owns one."""
  return x + params[name] if name in params else x


_STILL = (
  'starts every matrix from 0, where a product of two has no gradient and '
  'learns nothing: make it larger'
)


@dataclasses.dataclass(frozen=True)
class Gpt2(Variant, tag='gpt2'):
  """Normal(0, std), residual projections / sqrt(2L) (Radford et al. 2019).

  The 2L counts the two sub-layers that each block adds to the residual.
  """

  std: float = field(
    0.02, 'Standard deviation.', min=0.0, max=REAL, traced=True
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields what is wrong with the fields."""
    if self.std == 0:
      yield FieldError('std', self.std, _STILL)

  def sample(self, key: jax.Array, what: Param, num_layers: int) -> jax.Array:
    """Returns the initial value of one matrix or embedding."""
    std = self.std
    if what.init is Kind.RESIDUAL:
      std = std / math.sqrt(2 * num_layers)
    return std * jax.random.normal(key, what.shape)


@dataclasses.dataclass(frozen=True)
class Xavier(Variant, tag='xavier'):
  """Uniform(+-gain sqrt(6 / (fan in + fan out))) (Glorot & Bengio 2010).

  Embeddings are Normal(0, gain^2 / d_model), as in Vaswani et al. 2017's code.
  """

  gain: float = field(
    1.0, 'Multiplies every limit.', min=0.0, max=REAL, traced=True
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields what is wrong with the fields."""
    if self.gain == 0:
      yield FieldError('gain', self.gain, _STILL)

  def sample(self, key: jax.Array, what: Param, num_layers: int) -> jax.Array:
    """Returns the initial value of one matrix or embedding."""
    del num_layers
    fan_in, fan_out = what.fans
    if what.init is Kind.EMBEDDING:
      return self.gain * jax.random.normal(key, what.shape) / fan_out**0.5
    limit = self.gain * math.sqrt(6 / (fan_in + fan_out))
    return limit * jax.random.uniform(key, what.shape, minval=-1.0)


Init = Gpt2 | Xavier


def sample(
  init: Init, key: jax.Array, what: Param, num_layers: int
) -> jax.Array:
  """Returns the initial value of any parameter: ones, zeros or a sample."""
  if what.init is Kind.SCALE:
    return jnp.ones(what.shape)
  if what.init is Kind.BIAS:
    return jnp.zeros(what.shape)
  return init.sample(key, what, num_layers)


def key_of(path: str, key: jax.Array) -> jax.Array:
  """Returns the key of a parameter: a function of the seed and its path."""
  return jax.random.fold_in(key, zlib.crc32(path.encode()))


class Parameters(nn.Module):
  """The one Linen shell: owns the parameters that a variant lists."""

  table: Mapping[str, Param]
  init_rule: Init
  num_layers: int

  @nn.compact
  def __call__(self) -> dict[str, jax.Array]:
    def initializer(rng: jax.Array, what: Param) -> jax.Array:
      return sample(self.init_rule, rng, what, self.num_layers)

    return {
      name: self.param(name, initializer, what)
      for name, what in self.table.items()
    }
