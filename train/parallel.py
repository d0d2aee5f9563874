"""Devices: the one place that knows `pmap`.

State stays un-stacked and replicated: it enters as None and leaves as None, so
that nothing indexes a stacked output and nothing is copied.  It is placed on a
mesh of the same axis name before the first call; else the second call would
compile again.  (jax.pmap is jit + shard_map since JAX 0.10.)
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

AXIS = 'devices'


@dataclasses.dataclass(frozen=True)
class Devices:
  """The devices of one program."""

  devices: tuple[Any, ...]  # of jax.Device, which is no type to a checker

  @property
  def count(self) -> int:
    """Returns how many devices share a batch."""
    return len(self.devices)

  @property
  def sharding(self) -> NamedSharding:
    """Returns the sharding of all state: a copy on every device."""
    return NamedSharding(Mesh(np.array(self.devices), (AXIS,)), PartitionSpec())

  def place(self, tree: Any) -> Any:
    """Returns the tree with a copy of each array on every device."""
    return jax.device_put(tree, self.sharding)

  def compile(
    self, body: Callable[..., Any], arguments: int, donate: tuple[int, ...] = ()
  ) -> Callable[..., Any]:
    """Returns `body(index, *arguments)` run on every device at once.

    Args:
      body: takes the index of the device, then replicated arguments; what it
        returns must be equal on all devices (reduced over `AXIS`).
      arguments: how many replicated arguments there are.
      donate: which of them are given up, counted from 0.
    """
    mapped = jax.pmap(
      body,
      axis_name=AXIS,
      in_axes=(0, *[None] * arguments),
      out_axes=None,
      devices=list(self.devices),
      donate_argnums=tuple(n + 1 for n in donate),
    )
    indices = np.arange(self.count, dtype=np.int32)

    def call(*replicated: Any) -> Any:
      return mapped(indices, *replicated)

    return call

  def share(self, tree: Any, index: jax.Array) -> Any:
    """Returns the rows of a batch that belong to device `index`."""

    def rows(x_B: jax.Array) -> jax.Array:
      size = x_B.shape[0] // self.count
      return jax.lax.dynamic_slice_in_dim(x_B, index * size, size)

    return jax.tree.map(rows, tree)


def to_host(tree: Any) -> Any:
  """Returns a replicated tree as numpy arrays, without a gather."""
  return jax.tree.map(
    lambda x: (
      np.asarray(x.addressable_data(0)) if isinstance(x, jax.Array) else x
    ),
    tree,
  )
