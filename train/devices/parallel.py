"""Layouts of trials on devices; the only module that uses `pmap`.

Devices either share the batch of one trial (`SharedLayout`) or hold trials of
their own (`LaneLayout`).  Shared state is replicated, not stacked: its in_axes
and out_axes are None, so that no stacked output is indexed and nothing is
copied.  All arguments are placed on a mesh with the same axis name before the
first call; otherwise the second call would compile again.  (jax.pmap is jit +
shard_map since JAX 0.10.)
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.devices.placement import NO_AXES, Axes, Replicated, put_on_mesh

AXIS = 'devices'

Body = Callable[..., Any]


class Layout(Protocol):
  """How trials lie on devices."""

  @property
  def devices(self) -> tuple[Any, ...]:
    """Returns the devices that trials lie on."""
    ...

  @property
  def lanes(self) -> int:
    """Returns how many trials run side by side."""
    ...

  @property
  def shares(self) -> int:
    """Returns how many devices share a batch."""
    ...

  @property
  def text(self) -> str:
    """Returns the layout as text, as in `--lanes` and `layout.json`."""
    ...

  def place(self, tree: Any, axes: Axes = NO_AXES) -> Any:
    """Returns a tree that all lanes share, on the devices.

    Args:
      tree: of arrays.
      axes: letters of the axes of parameters, by path, for a placement rule.
    """
    ...

  def pack(self, trees: Sequence[Any], axes: Axes = NO_AXES) -> Any:
    """Returns the trees of all lanes as one tree on the devices."""
    ...

  def unpack(self, tree: Any) -> list[Any]:
    """Returns the tree of each lane, as numpy arrays."""
    ...

  def compile(
    self, body: Body, per_lane: Sequence[bool], donate: tuple[int, ...] = ()
  ) -> Body:
    """Returns `body(index, *arguments)`, compiled to run on all devices.

    Args:
      body: takes the index of the device among those that share a batch, then
        the arguments; its result must be equal on devices that share a batch.
      per_lane: for each argument, whether it was packed (else placed).
      donate: indices of the arguments whose buffers are donated.
    """
    ...


@dataclasses.dataclass(frozen=True)
class SharedLayout:
  """One trial, whose batch all devices share."""

  devices: tuple[Any, ...]  # of jax.Device, which pyright sees as no type

  @property
  def lanes(self) -> int:
    """Returns 1."""
    return 1

  @property
  def shares(self) -> int:
    """Returns how many devices share a batch."""
    return len(self.devices)

  @property
  def text(self) -> str:
    """Returns the name of the layout."""
    return f'shared:{self.shares}'

  def place(self, tree: Any, axes: Axes = NO_AXES) -> Any:
    """Returns the tree with a copy of each array on every device."""
    return put_on_mesh(tree, axes, Replicated(), _mesh(self.devices))

  def pack(self, trees: Sequence[Any], axes: Axes = NO_AXES) -> Any:
    """Returns the only tree, on every device."""
    (tree,) = trees
    return self.place(tree, axes)

  def unpack(self, tree: Any) -> list[Any]:
    """Returns the tree as numpy arrays."""
    return [to_host(tree)]

  def compile(
    self, body: Body, per_lane: Sequence[bool], donate: tuple[int, ...] = ()
  ) -> Body:
    """Returns the body compiled for all devices, each with its index."""
    mapped = jax.pmap(
      body,
      axis_name=AXIS,
      in_axes=(0, *[None] * len(per_lane)),
      out_axes=None,
      devices=list(self.devices),
      donate_argnums=tuple(n + 1 for n in donate),
    )
    return functools.partial(mapped, np.arange(self.shares, dtype=np.int32))


@dataclasses.dataclass(frozen=True)
class LaneLayout:
  """Independent trials side by side, `per_device` of them on each device.

  `how` runs the trials of one device: `vmap` batches their arithmetic; `map`
  runs one after another, equal bit for bit to a trial that runs alone.
  """

  devices: tuple[Any, ...]  # of jax.Device, which pyright sees as no type
  per_device: int
  how: Literal['vmap', 'map'] = 'vmap'

  @property
  def lanes(self) -> int:
    """Returns how many trials run side by side."""
    return len(self.devices) * self.per_device

  @property
  def shares(self) -> int:
    """Returns 1: no device shares a batch."""
    return 1

  @property
  def text(self) -> str:
    """Returns the name of the layout, such as devices:2 or vmap:8."""
    parts = []
    if len(self.devices) > 1:
      parts.append(f'devices:{len(self.devices)}')
    if self.per_device > 1 or not parts:
      parts.append(f'{self.how}:{self.per_device}')
    return ','.join(parts)

  def place(self, tree: Any, axes: Axes = NO_AXES) -> Any:
    """Returns the tree with a copy of each array on every device."""
    return put_on_mesh(tree, axes, Replicated(), _mesh(self.devices))

  def pack(self, trees: Sequence[Any], axes: Axes = NO_AXES) -> Any:
    """Returns the trees stacked along an axis that is split over devices."""
    del axes  # each lane lies whole on one device
    lead = (len(self.devices),)
    if self.per_device > 1:
      lead = (*lead, self.per_device)

    def stack(*leaves: Any) -> np.ndarray:
      stacked = np.stack([np.asarray(leaf) for leaf in leaves])
      return stacked.reshape(*lead, *stacked.shape[1:])

    by_lane = NamedSharding(_mesh(self.devices), PartitionSpec(AXIS))
    return jax.device_put(jax.tree.map(stack, *trees), by_lane)

  def unpack(self, tree: Any) -> list[Any]:
    """Returns the tree of each lane, as numpy arrays."""
    axes = 1 if self.per_device == 1 else 2
    host = jax.tree.map(
      lambda x: x.reshape(self.lanes, *x.shape[axes:]), to_host(tree)
    )
    return [
      jax.tree.map(lambda leaf, n=n: leaf[n], host) for n in range(self.lanes)
    ]

  def compile(
    self, body: Body, per_lane: Sequence[bool], donate: tuple[int, ...] = ()
  ) -> Body:
    """Returns the body compiled for all lanes, each with index 0."""
    alone = functools.partial(body, jnp.zeros((), jnp.int32))
    axes = tuple(0 if lane else None for lane in per_lane)
    several = alone
    if self.per_device > 1:
      several = (
        jax.vmap(alone, in_axes=axes)
        if self.how == 'vmap'
        else _one_after_another(alone, per_lane)
      )
    return jax.pmap(
      several,
      axis_name=AXIS,
      in_axes=axes,
      out_axes=0,
      devices=list(self.devices),
      donate_argnums=donate,
    )


def _mesh(devices: Sequence[Any]) -> Mesh:
  return Mesh(np.array(devices), (AXIS,))


def _one_after_another(body: Body, per_lane: Sequence[bool]) -> Body:
  """Returns the body mapped over lanes by `jax.lax.map`."""

  def mapped(*arguments: Any) -> Any:
    own = [a for a, lane in zip(arguments, per_lane, strict=True) if lane]

    def one(lane_arguments: Any) -> Any:
      rest = iter(lane_arguments)
      return body(
        *(
          next(rest) if lane else a
          for a, lane in zip(arguments, per_lane, strict=True)
        )
      )

    return jax.lax.map(one, own)

  return mapped


def batch_shard(tree: Any, index: jax.Array, shares: int) -> Any:
  """Returns the rows of a batch that belong to device `index`."""

  def rows(x_B: jax.Array) -> jax.Array:
    size = x_B.shape[0] // shares
    return jax.lax.dynamic_slice_in_dim(x_B, index * size, size)

  return tree if shares == 1 else jax.tree.map(rows, tree)


def to_host(tree: Any) -> Any:
  """Returns a tree as numpy arrays, gathered from all local devices."""
  return jax.tree.map(
    lambda x: _whole(x) if isinstance(x, jax.Array) else x, tree
  )


def _whole(array: jax.Array) -> np.ndarray:
  """Returns an array on the host, without a gather if it is replicated.

  Raises:
    ValueError: parts of the array are on other hosts.
  """
  if array.is_fully_replicated:
    return np.asarray(array.addressable_data(0))
  if not array.is_fully_addressable:
    raise ValueError(f'parts of an array of {array.shape} lie on other hosts')
  host = np.empty(array.shape, array.dtype)
  for part in array.addressable_shards:
    if part.replica_id == 0:
      host[part.index] = np.asarray(part.data)
  return host


def parse_layout(text: str, devices: Sequence[Any]) -> Layout:
  """Returns the layout of a value of --lanes.

  Raises:
    ValueError: the text is malformed, or asks for more devices than there are.
  """
  parts = [part.partition(':') for part in text.split(',')]
  sizes = {name: int(n) for name, _, n in parts if n.isdecimal()}
  allowed = ({'shared'}, {'devices'}, {'vmap'}, {'map'})
  allowed = (*allowed, {'devices', 'vmap'}, {'devices', 'map'})
  if (
    len(sizes) < len(parts) or set(sizes) not in allowed or 0 in sizes.values()
  ):
    raise ValueError(
      'must be shared:N, devices:N, vmap:N, map:N, devices:N,vmap:M or '
      'devices:N,map:M'
    )
  count = sizes.get('shared', sizes.get('devices', 1))
  if count > len(devices):
    raise ValueError(f'asks for {count} devices, and there are {len(devices)}')
  if 'shared' in sizes:
    return SharedLayout(tuple(devices[:count]))
  how: Literal['vmap', 'map'] = 'map' if 'map' in sizes else 'vmap'
  return LaneLayout(tuple(devices[:count]), sizes.get(how, 1), how)
