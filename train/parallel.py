"""Devices and lanes: the one place that knows `pmap`.

Devices either share the batch of one trial (`Shared`) or hold trials of their
own (`Lanes`).  State that devices share stays un-stacked and replicated: it
enters as None and leaves as None, so that nothing indexes a stacked output and
nothing is copied.  Everything is placed on a mesh of the same axis name before
the first call; else the second call would compile again.  (jax.pmap is jit +
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

AXIS = 'devices'

Body = Callable[..., Any]


class Layout(Protocol):
  """How trials lie on devices; what the loop needs to know of it."""

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
    """Returns the layout as `--lanes` and `layout.json` name it."""
    ...

  def place(self, tree: Any) -> Any:
    """Returns the tree with a copy of each array on every device."""
    ...

  def pack(self, trees: Sequence[Any]) -> Any:
    """Returns the trees of all lanes as one, on the devices."""
    ...

  def unpack(self, tree: Any) -> list[Any]:
    """Returns the tree of each lane, as numpy arrays."""
    ...

  def compile(
    self, body: Body, per_lane: Sequence[bool], donate: tuple[int, ...] = ()
  ) -> Body:
    """Returns `body(index, *arguments)` run on every device at once.

    Args:
      body: takes the number of the device among those that share a batch, then
        the arguments; what it returns is equal on devices that share a batch.
      per_lane: which arguments are packed; the others are placed.
      donate: which arguments are given up, counted from 0.
    """
    ...


@dataclasses.dataclass(frozen=True)
class Shared:
  """One trial, whose batch all devices share."""

  devices: tuple[Any, ...]  # of jax.Device, which is no type to a checker

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

  def place(self, tree: Any) -> Any:
    """Returns the tree with a copy of each array on every device."""
    mesh = Mesh(np.array(self.devices), (AXIS,))
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))

  def pack(self, trees: Sequence[Any]) -> Any:
    """Returns the only tree, on every device."""
    (tree,) = trees
    return self.place(tree)

  def unpack(self, tree: Any) -> list[Any]:
    """Returns the tree as numpy arrays, without a gather."""
    return [to_host(tree)]

  def compile(
    self, body: Body, per_lane: Sequence[bool], donate: tuple[int, ...] = ()
  ) -> Body:
    """Returns the body on every device, each with its number."""
    mapped = jax.pmap(
      body,
      axis_name=AXIS,
      in_axes=(0, *[None] * len(per_lane)),
      out_axes=None,
      devices=list(self.devices),
      donate_argnums=tuple(n + 1 for n in donate),
    )
    indices = np.arange(self.shares, dtype=np.int32)

    def call(*arguments: Any) -> Any:
      return mapped(indices, *arguments)

    return call


@dataclasses.dataclass(frozen=True)
class Lanes:
  """Trials side by side: some on each device, none of which know the others.

  `how` runs those of one device: `vmap` batches their arithmetic, `map` takes
  one after another and leaves every bit as it is alone.
  """

  devices: tuple[Any, ...]  # of jax.Device, which is no type to a checker
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

  def place(self, tree: Any) -> Any:
    """Returns the tree with a copy of each array on every device."""
    return jax.device_put(tree, self._sharding(PartitionSpec()))

  def pack(self, trees: Sequence[Any]) -> Any:
    """Returns the trees stacked, along an axis that the devices divide."""
    lead = (len(self.devices),)
    if self.per_device > 1:
      lead = (*lead, self.per_device)

    def stack(*leaves: Any) -> np.ndarray:
      stacked = np.stack([np.asarray(leaf) for leaf in leaves])
      return stacked.reshape(*lead, *stacked.shape[1:])

    return jax.device_put(
      jax.tree.map(stack, *trees), self._sharding(PartitionSpec(AXIS))
    )

  def unpack(self, tree: Any) -> list[Any]:
    """Returns the tree of each lane, as numpy arrays."""
    axes = 1 if self.per_device == 1 else 2

    def flat(leaf: jax.Array) -> np.ndarray:
      host = np.concatenate(
        [np.asarray(s.data) for s in _in_order(leaf.addressable_shards)]
      )
      return host.reshape(self.lanes, *host.shape[axes:])

    host = jax.tree.map(flat, tree)
    return [
      jax.tree.map(lambda leaf, n=n: leaf[n], host) for n in range(self.lanes)
    ]

  def compile(
    self, body: Body, per_lane: Sequence[bool], donate: tuple[int, ...] = ()
  ) -> Body:
    """Returns the body for each lane, which is the only one with its batch."""
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

  def _sharding(self, spec: PartitionSpec) -> NamedSharding:
    return NamedSharding(Mesh(np.array(self.devices), (AXIS,)), spec)


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


def _in_order(shards: Sequence[Any]) -> list[Any]:
  """Returns the shards by where they begin."""
  return sorted(shards, key=lambda s: s.index[0].start or 0)


def share(tree: Any, index: jax.Array, shares: int) -> Any:
  """Returns the rows of a batch that belong to device `index`."""

  def rows(x_B: jax.Array) -> jax.Array:
    size = x_B.shape[0] // shares
    return jax.lax.dynamic_slice_in_dim(x_B, index * size, size)

  return tree if shares == 1 else jax.tree.map(rows, tree)


def to_host(tree: Any) -> Any:
  """Returns a replicated tree as numpy arrays, without a gather."""
  return jax.tree.map(
    lambda x: (
      np.asarray(x.addressable_data(0)) if isinstance(x, jax.Array) else x
    ),
    tree,
  )


def parse_layout(text: str, devices: Sequence[Any]) -> Layout:
  """Returns the layout that a text names.

  Raises:
    ValueError: the text is none, or asks for more devices than there are.
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
    return Shared(tuple(devices[:count]))
  how: Literal['vmap', 'map'] = 'map' if 'map' in sizes else 'vmap'
  return Lanes(tuple(devices[:count]), sizes.get(how, 1), how)
