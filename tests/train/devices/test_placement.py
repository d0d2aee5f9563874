"""Where arrays lie: rules see paths and axes, and what is divided is whole."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from train.config.config import Config
from train.devices.parallel import SharedLayout, to_host
from train.devices.placement import (
  NO_AXES,
  Replicated,
  parameter_axes,
  put_on_mesh,
)
from train.files.durable import digest
from train.flags.schema import override
from train.programs.state import init_state

CONFIG = override(
  Config(),
  {'d_model': '16', 'num_heads': '2', 'num_layers': '2', 'average': 'ema'},
)
DIMS = CONFIG.dims(vocab_size=12)


@pytest.fixture(scope='module')
def state() -> Any:
  """A state on the host, of numbers that tell where each belongs."""
  shapes = jax.eval_shape(lambda: init_state(CONFIG, DIMS))
  return jax.tree.map(
    lambda x: np.arange(x.size, dtype=x.dtype).reshape(x.shape), shapes
  )


@dataclasses.dataclass
class ByName:
  """Divides widths over one axis of a mesh, and heads over the other."""

  def __post_init__(self) -> None:
    self.seen: dict[str, str] = {}

  def spec(self, path: str, axes: str) -> PartitionSpec:
    """Returns how an array is divided; notes what it was asked about."""
    self.seen[path] = axes
    rule = {'D': 'data', 'N': 'tensor'}
    taken = [rule.get(letter) for letter in axes]
    first = {name: taken.index(name) for name in taken if name}
    return PartitionSpec(
      *(name if first.get(name) == n else None for n, name in enumerate(taken))
    )


def test_a_rule_divides_what_it_names_and_comes_back_whole(state: Any) -> None:
  mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ('data', 'tensor'))
  rule, axes = ByName(), parameter_axes(CONFIG.architecture, DIMS)
  placed = put_on_mesh(state, axes, rule, mesh)
  # Of the optimiser and of the average too, each as the parameter itself.
  for path, letters in axes.items():
    theirs = [a for p, a in rule.seen.items() if p.endswith(f'/{path}')]
    assert theirs == [letters] * 4, path
    assert f'params/{path}' in rule.seen
  assert {rule.seen[path] for path in ('step', 'diverged')} == {''}
  leaves = jax.tree.leaves(placed)
  kinds = [leaf.sharding.spec for leaf in leaves]
  assert len({*kinds}) > 3
  sizes = [
    (leaf.addressable_shards[0].data.nbytes, leaf.nbytes) for leaf in leaves
  ]
  assert sum(a for a, _ in sizes) < sum(b for _, b in sizes) / 3
  back = to_host(placed)
  assert jax.tree.all(jax.tree.map(np.array_equal, back, state))
  assert digest(back.params) == digest(state.params)


def test_layouts_of_today_have_all_of_everything_everywhere(state: Any) -> None:
  shared = SharedLayout(tuple(jax.devices()[:4]))
  axes = parameter_axes(CONFIG.architecture, DIMS)
  for placed in (shared.place(state), shared.pack([state], axes)):
    for leaf in jax.tree.leaves(placed):
      assert leaf.is_fully_replicated
      assert len(leaf.addressable_shards) == 4
  (back,) = shared.unpack(placed)
  assert jax.tree.all(jax.tree.map(np.array_equal, back, state))


@pytest.mark.parametrize(
  'spec',
  [
    PartitionSpec('a'),
    PartitionSpec(None, 'a'),
    PartitionSpec('b', 'a'),
    PartitionSpec(('b', 'a')),
    PartitionSpec(None, None, ('a', 'b')),
    PartitionSpec(),
  ],
  ids=str,
)
def test_an_array_comes_back_whole(spec: PartitionSpec) -> None:
  """Whatever divides it, in whatever order its devices are."""
  devices = np.array(jax.devices())[::-1].reshape(2, 4)
  mesh = Mesh(devices, ('a', 'b'))
  array = np.arange(8 * 8 * 8).reshape(8, 8, 8).astype(jnp.bfloat16)
  placed = jax.device_put(array, NamedSharding(mesh, spec))
  assert len(placed.addressable_shards) == 8
  back = to_host({'x': placed, 'y': 3})
  assert back['y'] == 3
  assert back['x'].dtype == array.dtype
  assert np.array_equal(back['x'], array)


def test_what_every_device_has_is_not_gathered(
  monkeypatch: pytest.MonkeyPatch,
) -> None:
  """One copy of it is read, and none is made."""
  mesh = Mesh(np.array(jax.devices()), ('a',))
  leaf = put_on_mesh(np.arange(8.0), NO_AXES, Replicated(), mesh)
  monkeypatch.setattr(np, 'empty', lambda *_: pytest.fail('was copied'))
  first = leaf.addressable_data(0).unsafe_buffer_pointer()
  assert to_host(leaf).ctypes.data == first
