"""Parameters as data: their shapes, and their initial values.

A variant lists its parameters in `params(dims) -> {name: Param}`, and the Linen
modules of `model/linen.py` read them.  An initial value is a function of
the seed, the path and the shape alone, and not of the order in which modules
are called: two rows of an ablation start from equal values wherever they share
a parameter.
"""

import abc
import dataclasses
import enum
import math
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from model.core.field import FieldError, Variant, field
from model.core.limits import REAL


@dataclasses.dataclass(frozen=True)
class Dims:
  """Sizes of the axes, whose letters are explained in `model/__init__.py`.

  `num_inputs` and `num_outputs` are the widths of input and predicted vectors,
  or 0 where the model reads or predicts tokens.
  """

  num_layers: int
  d_model: int
  num_heads: int
  num_kv_heads: int
  head_dim: int
  seq_len: int
  vocab_size: int
  use_bias: bool
  num_classes: int = 0
  num_inputs: int = 0
  num_outputs: int = 0

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
      'I': self.num_inputs,
      'O': self.num_outputs,
    }


# The parameter arrays of one part of the model, by name.
PartParams = Mapping[str, jax.Array]

# The parameter arrays of a model, as nested dictionaries.
Params = Mapping[str, Any]


class ParamRole(enum.Enum):
  """Role of a parameter, which decides its initial value."""

  EMBEDDING = 'embedding'
  MATRIX = 'matrix'
  RESIDUAL = 'residual'  # a matrix that writes to the residual stream
  SCALE = 'scale'
  BIAS = 'bias'
  STATE = 'state'  # no gradient: starts at 0, set by `after_update`


@dataclasses.dataclass(frozen=True)
class Param:
  """Shape of one parameter, and how it is initialised.

  Axes are written as inputs, an arrow, and outputs: 'D->NH' is a matrix from D
  to N x H.  Gains and biases have no inputs: '->D'.  Axes before a bar count
  independent copies: 'E|D->F' is one matrix for each of E experts.

  Attributes:
    axes: letters of the axes, as above.
    shape: sizes of the axes, in one layer.
    role: decides the initial value, the decay and the groups of parameters.
    used: fraction of the copies that one token uses.
    depth: number of layers that it is stacked over, along a first axis; `None`
      for a parameter outside of the blocks.
  """

  axes: str
  shape: tuple[int, ...]
  role: ParamRole
  used: float = 1.0
  depth: int | None = None

  @property
  def letters(self) -> str:
    """Returns the letters of the axes in `shape`, in order."""
    return self.axes.replace('->', '').replace('|', '')

  @property
  def num_copy_axes(self) -> int:
    """Returns the number of axes that count copies."""
    return max(self.axes.find('|'), 0)

  @property
  def is_matrix(self) -> bool:
    """Returns whether it is a matrix or an embedding; only these decay."""
    return not self.axes.rpartition('|')[2].startswith('->')

  @property
  def fans(self) -> tuple[int, int]:
    """Returns (fan in, fan out) of one copy."""
    own = self.shape[self.num_copy_axes :]
    inputs = self.axes.rpartition('|')[2].index('->')
    return math.prod(own[:inputs]), math.prod(own[inputs:])

  @property
  def struct(self) -> jax.ShapeDtypeStruct:
    """Returns shape and type of the array, stacked over its layers."""
    layers = () if self.depth is None else (self.depth,)
    return jax.ShapeDtypeStruct((*layers, *self.shape), jnp.float32)

  @property
  def matrices(self) -> tuple[int, ...]:
    """Returns the shape with all inputs, and all outputs, as one axis each.

    It is (layers, copies ..., inputs, outputs): a stack of matrices.
    """
    layers = () if self.depth is None else (self.depth,)
    return (*layers, *self.shape[: self.num_copy_axes], *self.fans)


def param(
  axes: str, role: ParamRole, dims: Dims, extra: Mapping[str, int] | None = None
) -> Param:
  """Returns a parameter; `extra` has the sizes of letters not in `dims`."""
  sizes = dims.sizes() | dict(extra or {})
  letters = axes.replace('->', '').replace('|', '')
  return Param(axes, tuple(sizes[letter] for letter in letters), role)


class ParametricVariant(Variant):
  """Base of variants that may have parameters; by default there are none."""

  def params(self, dims: Dims) -> dict[str, Param]:
    """Returns the parameters of one layer, by name."""
    del dims
    return {}


def add_bias(x: jax.Array, params: PartParams, name: str) -> jax.Array:
  """Returns x plus the bias `params[name]`, or x if there is none."""
  return x + params[name] if name in params else x


_ZERO_START = (
  'starts every matrix from 0, where a product of two matrices has no gradient '
  'and learns nothing: make it larger'
)


class InitBase(Variant, abc.ABC):
  """Base of all initialisers."""

  @abc.abstractmethod
  def sample(self, key: jax.Array, spec: Param, num_layers: int) -> jax.Array:
    """Draws the initial value of one matrix or embedding."""


@dataclasses.dataclass(frozen=True)
class Gpt2(InitBase, tag='gpt2'):
  """Normal(0, std), residual projections / sqrt(2L) (Radford et al. 2019).

  The 2L counts the two sub-layers that each block adds to the residual.
  """

  std: float = field(
    0.02, 'Standard deviation.', min=0.0, max=REAL, traced=True
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields an error if all matrices would start from 0."""
    if self.std == 0:
      yield FieldError('std', self.std, _ZERO_START)

  def sample(self, key: jax.Array, spec: Param, num_layers: int) -> jax.Array:
    """Draws the initial value of one matrix or embedding."""
    std = self.std
    if spec.role is ParamRole.RESIDUAL:
      std = std / math.sqrt(2 * num_layers)
    return std * jax.random.normal(key, spec.shape)


@dataclasses.dataclass(frozen=True)
class Xavier(InitBase, tag='xavier'):
  """Uniform(+-gain sqrt(6 / (fan in + fan out))) (Glorot & Bengio 2010).

  Embeddings are Normal(0, gain^2 / d_model), where gain^2 / d_model is the
  variance, as in the code of Vaswani et al. 2017.
  """

  gain: float = field(
    1.0, 'Multiplies every limit.', min=0.0, max=REAL, traced=True
  )

  def problems(self) -> Iterator[FieldError]:
    """Yields an error if all matrices would start from 0."""
    if self.gain == 0:
      yield FieldError('gain', self.gain, _ZERO_START)

  def sample(self, key: jax.Array, spec: Param, num_layers: int) -> jax.Array:
    """Draws the initial value of one matrix or embedding."""
    del num_layers
    fan_in, fan_out = spec.fans
    if spec.role is ParamRole.EMBEDDING:
      return self.gain * jax.random.normal(key, spec.shape) / fan_out**0.5
    limit = self.gain * math.sqrt(6 / (fan_in + fan_out))
    return limit * jax.random.uniform(key, spec.shape, minval=-1.0)


def sample(
  init: InitBase, key: jax.Array, spec: Param, num_layers: int
) -> jax.Array:
  """Returns the initial value of a parameter: ones, zeros or a random draw."""
  if spec.role is ParamRole.SCALE:
    return jnp.ones(spec.shape)
  if spec.role in (ParamRole.BIAS, ParamRole.STATE):
    return jnp.zeros(spec.shape)
  return init.sample(key, spec, num_layers)


def key_of(path: str, key: jax.Array) -> jax.Array:
  """Returns a PRNG key for a parameter's path, or a name such as 'dropout'."""
  return jax.random.fold_in(key, zlib.crc32(path.encode()))


def unflatten(by_path: Mapping[str, Any]) -> dict[str, Any]:
  """Returns a flat `{'part/name': value}` as a nested tree."""
  tree: dict[str, Any] = {}
  for path, value in by_path.items():
    node = tree
    *above, name = path.split('/')
    for part in above:
      node = node.setdefault(part, {})
    node[name] = value
  return tree
