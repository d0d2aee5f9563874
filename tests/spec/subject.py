"""The model of which a configuration is checked: its inputs and parameters."""

import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from model import transformer
from model.core.inputs import ModelInputs, Source
from model.core.parameter import Dims
from spec.families import data_of
from train.config.config import Config
from train.core.trees import unflatten

# All tokens of an example differ, so that a row of the embedding is one input.
TOKENS_BT = np.array([[0, 1, 2, 3, 4, 5, 6, 7], [9, 9, 8, 1, 0, 3, 3, 2]])
OTHER_BT = np.array([[5, 4, 4, 4, 2, 1, 1, 0], [0, 1, 2, 3, 4, 5, 6, 7]])
SEGMENTS_BT = np.array([[1, 1, 1, 2, 2, 2, 2, 0], [1] * 8])
EXAMPLE = 0  # of TOKENS_BT, and 1 of OTHER_BT
# What an encoder-decoder reads first; its tokens differ from those above.
SOURCE_BS = np.array([[10, 11, 12, 13, 14, 15], [16, 16, 10, 10, 16, 16]])
OTHER_BS = np.array([[11, 10, 16, 16, 12, 12], [10, 11, 12, 13, 14, 15]])
SOURCE_SEGMENTS_BS = np.array([[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]])
KNOWN = 17  # tokens; no others are in an example
# Rounding of a chain of some 20 sums a block, each relative to the largest.
CHAIN = 4.0 * 72


class Inputs(NamedTuple):
  """What a model is given; segments where its task gives them."""

  tokens_BT: Any
  segments_BT: Any
  source: Source | None


def inputs(config: Config, turned: bool = False) -> Inputs:
  """Returns two examples; turned, the first is second, beside another."""
  order = slice(None, None, -1 if turned else 1)
  tokens_BT = OTHER_BT if turned else TOKENS_BT
  if not config.architecture.model.traits.has_source:
    return Inputs(tokens_BT, SEGMENTS_BT[order], None)
  source_BS = OTHER_BS if turned else SOURCE_BS
  return Inputs(tokens_BT, None, Source(source_BS, SOURCE_SEGMENTS_BS[order]))


def dims_of(config: Config) -> Dims:
  return config.sizes(data_of(config.task).vocabulary)


def shapes(config: Config) -> dict[str, tuple[int, ...]]:
  """Returns the shape of each parameter, layers along a first axis."""
  arch = config.architecture
  return {
    path: (depth, *what.shape) if (depth := arch.depth(path)) else what.shape
    for path, what in arch.parameter_table(dims_of(config)).items()
  }


def drawn(config: Config) -> Any:
  """Returns normal numbers for all parameters, biases and gains too."""
  rng = np.random.default_rng(0)
  return unflatten(
    {p: rng.standard_normal(s) / 2 for p, s in shapes(config).items()}
  )


def initial(config: Config, seed: int = 0) -> Any:
  """Returns parameters that training may begin with."""
  start = functools.partial(
    transformer.init, config.architecture, dims_of(config)
  )
  # Keys of this kind compile faster; copies, since training gives them up.
  made = jax.jit(start)(jax.random.key(seed, impl='unsafe_rbg'))
  return jax.tree.map(np.array, made)


def applied(
  config: Config, params: Any, given: Inputs, rngs_B: jax.Array | None = None
) -> jax.Array:
  """Returns logits_BTV."""
  return transformer.apply(
    config.architecture,
    dims_of(config),
    params,
    ModelInputs(
      given.tokens_BT, segments_BT=given.segments_BT, source=given.source
    ),
    rngs_B,
  ).logits_BTV
