"""A start in which all heads of a layer are equal."""

import dataclasses

import jax.numpy as jnp

from train.starts.base import Start, StartInput, Values


@dataclasses.dataclass(frozen=True)
class EqualHeads(Start, tag='equal_heads'):
  """Every head starts as a copy of the first one of its layer.

  This holds for all parameters with an axis of heads.  Equal heads have equal
  gradients and stay equal, unless something treats them differently, such as
  dropout of attention weights or the biases of --position=alibi.
  """

  def values(self, given: StartInput) -> Values:
    """Returns parameters with an axis N or K, copied along it from index 0."""
    found = {}
    for path, spec in given.arch.parameter_table(given.dims).items():
      first = 0 if spec.depth is None else 1
      x = given.drawn[path]
      axes = [n for n, a in enumerate(spec.letters, first) if a in 'NK']
      for axis in axes:
        if x.shape[axis] > 1:
          head = jnp.take(x, jnp.asarray([0]), axis)
          found[path] = x = jnp.broadcast_to(head, x.shape)
    return found
