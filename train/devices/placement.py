"""Placement of arrays on devices, by rules over their paths and axes.

A rule reads the path of an array in its tree, such as
`params/block/attention/query` or `opt_state/1/mu/block/attention/query`, and
the letters of its axes, such as LDNH.  The letters are those of the parameter
whose path is the end of the array's path; step counters and data have none.
"""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from model.architecture.architecture import Architecture
from model.core.parameter import Dims

Axes = Mapping[str, str]  # letters of the axes of parameters, by path
NO_AXES: Axes = MappingProxyType({})


class Placement(Protocol):
  """A rule: which axes of an array are sharded over which axes of a mesh."""

  def spec(self, path: str, axes: str) -> PartitionSpec:
    """Returns the sharding of an array.

    Args:
      path: of the array in its tree.
      axes: a letter for each of its axes; empty if they have no names.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Replicated:
  """Every device has a whole copy of every array."""

  def spec(self, path: str, axes: str) -> PartitionSpec:
    """Returns the empty spec: no axis is sharded."""
    del path, axes
    return PartitionSpec()


def parameter_axes(arch: Architecture, dims: Dims) -> dict[str, str]:
  """Returns the letters of the axes of each parameter; L is that of layers."""
  return {
    path: ('' if arch.depth(path) is None else 'L') + spec.letters
    for path, spec in arch.parameter_table(dims).items()
  }


def put_on_mesh(tree: Any, axes: Axes, placement: Placement, mesh: Mesh) -> Any:
  """Returns a tree on the devices of a mesh, sharded by a rule.

  Args:
    tree: of arrays.
    axes: letters of the axes of parameters, by path.
    placement: the rule.
    mesh: the devices.
  """

  def sharding(keys: Any, leaf: Any) -> NamedSharding:
    del leaf
    path = jax.tree_util.keystr(keys, simple=True, separator='/')
    return NamedSharding(mesh, placement.spec(path, _letters(path, axes)))

  return jax.device_put(tree, jax.tree_util.tree_map_with_path(sharding, tree))


def _letters(path: str, axes: Axes) -> str:
  """Returns the letters of the parameter that a path ends in, or ''."""
  while path not in axes and '/' in path:
    path = path.partition('/')[2]
  return axes.get(path, '')
